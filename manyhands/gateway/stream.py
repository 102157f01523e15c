"""An answer as HTTP: whole, or as server-sent events, exactly as OpenAI's clients take them apart.

In: answers that run, ours or an upstream's. Out: for a stream, a response that ends in `[DONE]`, or
in a frame that says what failed and no `[DONE]`: one that merely stops would look complete (the
official clients raise nothing then). Comments keep quiet connections open; a caller
that reads nothing is given up.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from manyhands.gateway.answers import CallerLeft, Running
from manyhands.gateway.faults import MISTAKE, ApiError
from manyhands.gateway.own_headers import COST
from manyhands.gateway.shapes import PING

log = logging.getLogger(__name__)

PING_S = 15.0
STUCK_S = 60.0  # for one write: who reads nothing for so long is gone
GONE = 499  # nobody reads it; the access log does
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


T = TypeVar("T")
Told = TypeVar("Told", contravariant=True)


class Telling(Protocol[Told]):
    """What is made of what answers tell, for one endpoint."""

    def hear(self, told: Iterable[Told]) -> None:
        """For a whole answer."""

    def whole(self) -> dict[str, Any]:
        """All of it, once it is over."""

    def frames(self, told: Iterable[Told]) -> Iterator[bytes]:
        """What of this a stream shows now."""

    def end(self) -> Iterator[bytes]:
        """What closes a stream that is complete."""

    def failed(self, error: ApiError) -> bytes:
        """What closes one that broke."""


async def response_of(
    answers: Running[T],
    reply: Telling[T],
    headers: Callable[[], Mapping[str, str]],
    *,
    streams: bool,
    patience_s: float,
) -> Response:
    """The status is held back until there is something to send (see `Running.ready`).

    Raises:
        ApiError: what went wrong before anything was told.
    """
    handed_over = False
    try:
        if streams:
            await answers.ready(patience_s)
            told = answers.take()
            begun, failure = joined(reply.frames(told) if told else ())
            if failure is not None:
                raise failure  # nothing was sent: somebody else may be asked
            handed_over = True
            return EventStream(answers, reply, headers(), begun)
        while not answers.is_over:
            reply.hear(await answers.next())
        cost = {COST: f"{answers.cost_ncr} ncr"}
        return JSONResponse(reply.whole(), headers={**headers(), **cost})
    except CallerLeft:
        return Response(status_code=GONE)
    finally:
        if not handed_over:
            answers.leave()


class EventStream(Response, Generic[T]):
    """Sends `begun`, and what `reply` makes of `answers`; leaves them when it ends, however it
    ends."""

    def __init__(
        self,
        answers: Running[T],
        reply: Telling[T],
        headers: Mapping[str, str],
        begun: bytes = b"",
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({**HEADERS, **headers})
        self._answers, self._reply, self._begun = answers, reply, begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(STUCK_S):
                await send({"type": "http.response.body", "body": data, "more_body": more})

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            try:
                if self._begun:
                    await write(self._begun)
                while not self._answers.is_over:
                    told = await self._answers.next(PING_S)
                    if told:
                        data, failure = joined(self._reply.frames(told))
                        if data:
                            await write(data)
                        if failure is not None:
                            raise failure
                    elif not self._answers.is_over:
                        await write(PING)
                data, failure = joined(self._reply.end())
                await write(data, more=failure is not None)
                if failure is not None:
                    raise failure
            except ApiError as error:
                await write(self._reply.failed(error), more=False)
        except CallerLeft:
            pass
        except TimeoutError:
            log.warning("a caller reads nothing, its answer is cancelled")
        finally:
            self._answers.leave()


def joined(frames: Iterable[bytes]) -> tuple[bytes, ApiError | None]:
    """All of them, or those up to what failed: they have their numbers already. A mistake of ours
    is told as one, for a stream that merely stops looks complete."""
    made: list[bytes] = []
    try:
        for frame in frames:
            made.append(frame)
    except ApiError as error:
        return b"".join(made), error
    except Exception as error:
        log.error("an answer is not told", extra={"kind": type(error).__name__})
        return b"".join(made), ApiError("internal_error", MISTAKE)
    return b"".join(made), None
