"""gRPC's words for failure, translated once; typed errors ride in a call's trailing metadata.

In: a call that failed. Out: one of our errors. And the other way round: abort a call so that the
caller gets the error we mean.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, NoReturn

import grpc

from protocol.errors import (
    ManyhandsError,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import PeerId
from protocol.transport.error_codec import decode_error, encode_error
from protocol.transport.interface import Counters

ERROR_KEY = "manyhands-error-bin"
Code = grpc.StatusCode

# What grpc.aio raises from an operation on a call that is over.
CALL_ERRORS = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError)

# INTERNAL is what the core says when a write meets a connection that has just gone.
_LOST = (Code.UNAVAILABLE, Code.CANCELLED, Code.INTERNAL, Code.OK)


async def abort(context: Any, error: ManyhandsError, code: Any = None) -> NoReturn:
    """End the call on `context`; the caller gets `error`."""
    trailing = ((ERROR_KEY, encode_error(error)),)
    await context.abort(code or Code.FAILED_PRECONDITION, error.code, trailing_metadata=trailing)
    raise AssertionError("abort raises")


async def failure_of(call: Any, peer_id: PeerId, counters: Counters) -> ManyhandsError:
    """Why the finished `call` to `peer_id` failed."""
    code, details = await call.code(), await call.details() or ""
    typed = _typed(await call.trailing_metadata() or ())
    if typed is not None:
        return decode_error(typed, peer_id)
    if code == Code.RESOURCE_EXHAUSTED and "larger than max" in details:
        counters.oversize += 1
        if details.startswith("SERVER"):
            return UsageError(f"{peer_id} takes no message of this size")
        return PeerMisbehaved(peer_id, "its message is larger than any may be")
    if code == Code.UNIMPLEMENTED:
        return PeerRefused(peer_id, "it does not offer this", hint="update Manyhands there")
    if code == Code.DEADLINE_EXCEEDED:
        return PeerUnreachable(peer_id, "no answer in time")
    if code in _LOST:
        return PeerUnreachable(peer_id, f"no connection ({_short(details)})")
    return PeerError(peer_id, f"{code.name.lower()}: {_short(details)}")


def _typed(metadata: Iterable[tuple[str, str | bytes]]) -> bytes | None:
    for key, value in metadata:
        if key == ERROR_KEY and isinstance(value, bytes):
            return value
    return None


def _short(details: str) -> str:
    return "".join(c if c.isprintable() else " " for c in details[:200]) or "no reason given"
