"""The witness on HTTP, as an ASGI application: bytes in, what `ledger.witness_http` says out."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from ledger.witness import MAX_REQUEST_BYTES, WitnessBook
from ledger.witness_http import PLAIN, Answer, answer
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

MAX_AT_ONCE = 16  # requests that wait for the disk; more are told to come back
BODY_S = 10.0


class WitnessApp:
    """Answers every request of one witness."""

    def __init__(self, book: WitnessBook) -> None:
        self._book = book
        self._n_running = 0

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            return
        found = await self._answer(scope["method"], scope["path"], receive)
        headers = [
            (b"content-type", found.content_type.encode()),
            (b"content-length", str(len(found.body)).encode()),
        ]
        await send({"type": "http.response.start", "status": found.status, "headers": headers})
        await send({"type": "http.response.body", "body": found.body})

    async def _answer(self, method: str, path: str, receive: "Receive") -> Answer:
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(receive)
        except TimeoutError:
            return Answer(408, PLAIN, b"the request did not come in time\n")
        if body is None:
            return Answer(413, PLAIN, b"a request takes less than that\n")
        if self._n_running >= MAX_AT_ONCE:
            return Answer(503, PLAIN, b"too many requests at once; try again\n")
        self._n_running += 1
        try:
            return await asyncio.to_thread(answer, self._book, method, path, body, int(time.time()))
        except ManyhandsError as error:
            log.error("a checkpoint could not be cosigned", extra={"error": str(error)})
            return Answer(500, PLAIN, b"this witness cannot sign just now\n")
        finally:
            self._n_running -= 1


async def _body(receive: "Receive") -> bytes | None:
    """All of a request's body; None: more than any request has."""
    parts, n_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the caller is gone
            return b""
        part = message.get("body", b"")
        n_bytes += len(part)
        if n_bytes > MAX_REQUEST_BYTES:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
