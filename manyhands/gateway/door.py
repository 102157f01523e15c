"""Who is let in, and with how much: an ASGI layer in front of every route.

In: requests as they arrive. Out: requests with an id, a known caller within the rate of its key,
and a bounded body; all others are answered here. One line of log for each: never a body, a query or
a key. Without keys only whoever can name this machine's own loopback is let in, so that no web page
may ask under a name of its own that leads here (DNS rebinding).
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyhands.gateway.allowances import Allowances
from manyhands.gateway.faults import MISTAKE, ApiError
from manyhands.gateway.gateway import Bounds
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.keys import KeyFile

log = logging.getLogger(__name__)

ID, HOST = re.compile(r"[A-Za-z0-9._-]{1,64}"), re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
FORWARDED = {"forwarded", "via", "x-real-ip"}  # and all that begins with x-forwarded-
OWN_NAMES = {"localhost", "127.0.0.1", "[::1]"}
OPEN, OPEN_BELOW = ("/", "/favicon.ico", "/health"), ("/health/", "/page/")
FIX = "make a key: manyhands gateway key new"
COSTLY = {"/api/v1/ledger/verify", "/api/v1/ledger/export"}  # work though it is only looked at
MAX_PATH_CHARS = 120
Admit = Callable[[Headers], Caller]


class Door:
    """Wraps the app. `admit`: the caller for these headers, or an `ApiError`."""

    def __init__(
        self,
        app: ASGIApp,
        bounds: Bounds,
        admit: Admit,
        allowances: Allowances,
        count: Callable[[int], None] = lambda status: None,
    ) -> None:
        """count: hears the status of every answer."""
        self._app, self._bounds, self._admit, self._count = app, bounds, admit, count
        self._allowances = allowances

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit(scope, send, self._allowances)
        try:
            state = scope.setdefault("state", {})
            state["id"], state["began_s"] = visit.id, visit.began_s
            state["caller"] = visit.caller = self._caller(scope["path"], visit.headers)
            if scope["method"] == "POST" or scope["path"] in COSTLY:
                self._allowances.request(visit.caller)
            bounded = Body(receive, self._bounds, visit.headers)
            await self._app(scope, bounded.receive, visit.send)
        except ApiError as error:
            await visit.refuse(error, scope, receive)
        except Exception as error:
            kind = type(error).__name__
            log.error("a request failed", extra={"id": visit.id, "kind": kind})
            log.debug("its traceback", exc_info=error)  # may quote what was asked
            if not visit.is_answered:
                await visit.refuse(ApiError("internal_error", MISTAKE), scope, receive)
        finally:
            self._count(visit.status)
            visit.tell(scope)

    def _caller(self, path: str, headers: Headers) -> Caller:
        """Whether it lives, and the empty page, are for everybody; what the page asks is not."""
        if path in OPEN or path.startswith(OPEN_BELOW):
            return ANYBODY
        return self._admit(headers)


class Visit:
    """One request: its id, its times, what was answered."""

    def __init__(self, scope: Scope, send: Send, allowances: Allowances) -> None:
        self.headers = Headers(scope=scope)
        self.caller, self._allowances = ANYBODY, allowances
        given = self.headers.get("x-request-id", "")
        self.id = given if ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.began_s, self.status, self._send = time.monotonic(), 0, send
        self.is_answered = False

    @property
    def ms(self) -> float:
        return 1000 * (time.monotonic() - self.began_s)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            headers["openai-processing-ms"] = f"{self.ms:.0f}"
            headers.update(self._allowances.headers(self.caller))
        elif message["type"] == "http.response.body":
            self.is_answered = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, error: ApiError, scope: Scope, receive: Receive) -> None:
        """Answer with an error; one that comes after the answer began ends the connection."""
        if self.status:
            raise ConnectionAbortedError("an answer broke off") from None
        response = JSONResponse(error.body(), error.status, error.headers())
        if error.code == "request_timeout":  # nobody waits for the rest; one too large is read away
            response.headers["connection"] = "close"
        await response(scope, receive, self.send)

    def tell(self, scope: Scope) -> None:
        fields = {
            "id": self.id,
            "method": scope["method"],
            "path": quote(scope["path"][:MAX_PATH_CHARS]),
            "status": self.status,
            "ms": round(self.ms),
        }
        log.info("request", extra=fields)


class Body:
    """The body as it arrives, within a size and a time."""

    def __init__(self, receive: Receive, bounds: Bounds, headers: Headers) -> None:
        self._receive, self._max_bytes = receive, bounds.max_body_bytes
        self._deadline_s = time.monotonic() + bounds.body_s
        self._n_bytes, self._is_whole = 0, False
        stated = headers.get("content-length", "0")
        if stated.isdecimal() and int(stated[:20]) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline_s - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise ApiError("request_timeout", "the body did not arrive in time") from error
        self._n_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._n_bytes > self._max_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        return ApiError("request_too_large", f"a body has up to {self._max_bytes} bytes here")


def admission(keys: KeyFile, *, is_wide: bool = False) -> Admit:
    """By key where there are keys, or where strangers can reach us; else whoever is on loopback."""

    def admit(headers: Headers) -> Caller:
        if is_wide or keys.has_keys:
            return keys.admit(headers.get("authorization", ""))
        return admit_own(headers)

    return admit


def admit_own(headers: Headers) -> Caller:
    """For a gateway on loopback without keys: whoever calls it by loopback's own names. A proxy on
    this machine does so, too, for strangers: one that says what it is gets nothing.

    Raises:
        ApiError: host_not_allowed.
    """
    if any(name in FORWARDED or name.startswith("x-forwarded-") for name in headers):
        message = "without keys this gateway takes nothing that a proxy passes on"
        raise ApiError("host_not_allowed", f"{message}; {FIX}")
    matched = HOST.fullmatch(headers.get("host", ""))
    if matched and matched[1].lower() in OWN_NAMES:
        return ANYBODY
    message = "without keys this gateway answers to localhost, 127.0.0.1 and [::1] only"
    raise ApiError("host_not_allowed", f"{message}; {FIX}")
