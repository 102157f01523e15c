"""An upstream's answer on its way to a caller: the same frames, and the same promises as ours.

In: an answer that has begun. Out: a response that ends in `[DONE]`, or in a frame that says what
failed. Frames pass as they come; what is ours (who answered, why, at what cost) stands in the last
one. A caller who leaves ends the upstream's answer, too.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from manyhands.gateway.answers import Observer
from manyhands.gateway.asked import Drawn
from manyhands.gateway.faults import ApiError
from manyhands.gateway.shapes import DONE, PING, frame
from manyhands.gateway.stream import HEADERS, PING_S, STUCK_S
from manyhands.gateway.upstream import Json, Opened
from scheduler.request import Token

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Passing:
    """What of an upstream's frames a caller is shown, and what watchers are told of them. ours:
    what stands under `manyhands` at the end."""

    asked: Drawn
    observer: Observer
    ours: Callable[[], Json]
    _held: Json | None = None  # the last that may be the end
    _n_tokens: int = 0

    def frames(self, told: Json) -> bytes:
        """What is due once this one has come."""
        self._observe(told)
        choices = told.get("choices")
        if not self.asked.usage_in_stream:
            told.pop("usage", None)
            if not choices:
                return b""  # of usage alone, which nobody asked for
        if choices and not any(each.get("finish_reason") for each in choices):
            return self._flushed() + frame(told)
        flushed, self._held = self._flushed(), told
        return flushed

    def end(self) -> bytes:
        held, self._held = self._held or {"choices": []}, None
        return frame({**held, "manyhands": self.ours()}) + DONE

    def failed(self, error: ApiError, id: str) -> bytes:
        body = error.body()
        body["error"]["id"] = id
        return self._flushed() + frame(body)

    def _flushed(self) -> bytes:
        held, self._held = self._held, None
        return frame(held) if held is not None else b""

    def _observe(self, told: Json) -> None:
        for choice in told.get("choices") or ():
            delta = choice.get("delta") or choice
            if delta.get("content") or delta.get("tool_calls") or delta.get("text"):
                self.observer.hear(0, Token(self._n_tokens, 0, ""))
                self._n_tokens += 1


class RelayedStream(Response):
    """Sends it; closes what `closing` holds when it ends, however that is."""

    def __init__(
        self, opened: Opened, passing: Passing, closing: AsyncExitStack, headers: Mapping[str, str]
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({**HEADERS, **headers})
        self._opened, self._passing, self._closing = opened, passing, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            if data or not more:
                async with asyncio.timeout(STUCK_S):
                    await send({"type": "http.response.body", "body": data, "more_body": more})

        async def relay() -> None:
            try:
                await self._pass_on(write)
                self._passing.observer.ended(0, "stop", "")
                await write(self._passing.end(), more=False)
            except ApiError as error:
                self._passing.observer.ended(0, "error", error.code)
                await write(self._passing.failed(error, scope["state"]["id"]), more=False)
            except TimeoutError:
                log.warning("a caller reads nothing, its answer is cancelled")

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with self._closing:
            await send(start)
            if not await unless_gone(relay(), receive):
                self._passing.observer.ended(0, "cancelled", "")

    async def _pass_on(self, write: Callable[..., Any]) -> None:
        told: Json | None = self._opened.first
        coming: asyncio.Task[Json | None] | None = None
        try:
            while told is not None:
                await write(self._passing.frames(told))
                coming = asyncio.create_task(self._opened.next())
                while not (await asyncio.wait((coming,), timeout=PING_S))[0]:
                    await write(PING)
                told = coming.result()
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)


async def unless_gone(work: Any, receive: Receive) -> bool:
    """Do `work`, a coroutine; false when whoever asked for it left first, which cancels it."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if is_done := working.done():
            working.result()
        return is_done
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
