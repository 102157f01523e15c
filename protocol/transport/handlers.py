"""How any listener runs what it serves: errors of ours travel, all others are logged here, once.

In: a handler and its caller. Out: its answer, or one of our errors, fit to be sent.
"""

import asyncio
import logging
from typing import TypedDict

from protocol.errors import ManyhandsError
from protocol.guard import Guard
from protocol.identity import PeerId
from protocol.transport.error_codec import PeerFailed
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    CallHandler,
    Counters,
    Stream,
    StreamHandler,
)

log = logging.getLogger(__name__)


class Ours(TypedDict):
    """What running a handler takes of its listener."""

    listener: PeerId
    counters: Counters
    guard: Guard | None


async def run_call(
    handler: CallHandler,
    caller: PeerId,
    request: bytes,
    *,
    listener: PeerId,
    counters: Counters,
    guard: Guard | None = None,
    method: str = "",
) -> bytes:
    """The handler's answer.

    Raises:
        ManyhandsError: the handler's own, or a plain one when it failed in any other way.
    """
    try:
        answer = await handler(caller, request)
        if len(answer) > MAX_MESSAGE_BYTES:
            raise ValueError(f"an answer of {len(answer)} bytes")
        if guard is not None:
            guard.answered(caller, method, len(answer))
        return answer
    except ManyhandsError as error:
        if guard is not None:
            guard.failed(caller, error)
        raise
    except Exception as error:
        raise _unexpected(caller, listener, counters) from error


async def run_stream(
    handler: StreamHandler,
    stream: Stream,
    *,
    listener: PeerId,
    counters: Counters,
    guard: Guard | None = None,
) -> None:
    """Run the handler to its end, which ends the stream."""
    ending: ManyhandsError | None = None
    try:
        await handler(stream)
    except ManyhandsError as error:
        ending = error
        if guard is not None:
            guard.failed(stream.peer_id, error)
    except Exception:
        ending = _unexpected(stream.peer_id, listener, counters)
    await stream.aclose(ending)


def is_being_cancelled() -> bool:
    """Whether a CancelledError is for this task, and not for what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _unexpected(caller: PeerId, listener: PeerId, counters: Counters) -> ManyhandsError:
    """The caller learns only that it happened."""
    counters.unexpected += 1
    log.exception("handler failed", extra={"peer": caller})
    return PeerFailed(listener, "it failed unexpectedly; its log has the reason")
