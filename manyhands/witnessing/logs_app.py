"""Spend logs on HTTP, as an ASGI application: paths in, what `ledger.logs_http` says out."""

import asyncio
import logging
from typing import TYPE_CHECKING

from ledger.logs_http import answer, caching
from ledger.spend_shelf import Shelf
from ledger.witness_http import PLAIN, Answer
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

MAX_AT_ONCE = 16  # requests that wait for the disk; more are told to come back


class LogsApp:
    """Answers for all logs on one shelf; it changes nothing."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._n_running = 0

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        found = await self._answer(method, path)
        headers = [
            (b"content-type", found.content_type.encode()),
            (b"content-length", str(len(found.body)).encode()),
            (b"cache-control", (caching(path) if found.status == 200 else "no-cache").encode()),
        ]
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        body = b"" if method == "HEAD" else found.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, path: str) -> Answer:
        if self._n_running >= MAX_AT_ONCE:
            return Answer(503, PLAIN, b"too many requests at once; try again\n")
        self._n_running += 1
        try:
            return await asyncio.to_thread(answer, self._shelf, method, path)
        except ManyhandsError as error:
            log.error("a log could not be read", extra={"error": str(error)})
            return Answer(500, PLAIN, b"these logs cannot be read just now\n")
        finally:
            self._n_running -= 1
