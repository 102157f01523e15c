"""A gateway at a URL, for the clients.

In: bodies. Out: what it answers; its errors as ours. It is asked again, after the pause that it
names, where it says that this may help and there is time; never once something of an answer has
come. It is told for how long we wait, and no longer do we.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx2

from manyhands.client.backend import CHAT, COVERAGE, EMBED, TEXT, Backend
from manyhands.client.reading import understood
from manyhands.client.values import Json
from manyhands.errors import RequestError, SwarmUnreachable, error_of
from manyhands.event_stream import DONE, data_of, object_of

AGAIN = {408, 409, 429, 502, 503}  # after a 504 the answer would take as long again
CONNECT_S, FIRST_PAUSE_S = 10.0, 0.5
OVER_S = 5.0  # beyond an answer's own time, which the gateway keeps; as long again, if that is less
LONGEST_S = 86_400.0  # that a gateway may be told
TIMED = (CHAT, TEXT, EMBED)
IS_JSON = {"content-type": "application/json"}


class HttpBackend(Backend):
    def __init__(self, base_url: str, api_key: str, *, timeout_s: float, max_retries: int) -> None:
        self._url = base_url.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._http: httpx2.AsyncClient | None = None

    async def open(self) -> None:
        timeout = httpx2.Timeout(None, connect=CONNECT_S)  # a whole answer's is kept here
        self._http = httpx2.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=timeout, trust_env=False
        )

    async def whole(self, path: str, body: Json) -> Json:
        patience = self._patience(body)
        asking = self._asked(patience, "POST", path, self._timed(path, body))
        async with asking as response, patience:
            return _object(await response.aread())

    async def stream(self, path: str, body: Json) -> AsyncGenerator[Json, None]:
        patience = self._patience(body)
        async with self._asked(patience, "POST", path, self._timed(path, body)) as response:
            events = data_of(response.aiter_bytes())
            while True:
                async with patience:
                    data = await anext(events, None)
                if data is None:
                    raise error_of("peer_failed", "the stream broke off before its end")
                if data.strip() == DONE:
                    return
                chunk = _object(data)
                if "error" in chunk:
                    raise _error(chunk, response)
                yield chunk

    async def models(self) -> list[Json]:
        patience = self._patience({})
        async with self._asked(patience, "GET", "/v1/models") as response, patience:
            return understood(_listed, _object(await response.aread()))

    async def coverage(self, model: str) -> Json:
        patience, path = self._patience({}), f"{COVERAGE}?{urlencode({'model': model})}"
        async with self._asked(patience, "GET", path) as response, patience:
            return _object(await response.aread())

    async def aclose(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    def _timed(self, path: str, body: Json) -> Json:
        """The body with our timeout, where it has none of its own."""
        if path not in TIMED:
            return body
        ours = {"timeout_s": min(self._timeout_s, LONGEST_S)} | (body.get("manyhands") or {})
        return body | {"manyhands": ours}

    def _patience(self, body: Json) -> "_Patience":
        named = (body.get("manyhands") or {}).get("timeout_s")
        timeout_s = named if isinstance(named, int | float) else self._timeout_s
        return _Patience(min(timeout_s, self._timeout_s))

    @asynccontextmanager
    async def _asked(
        self, patience: "_Patience", method: str, path: str, body: Json | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """A response that is no refusal.

        Raises:
            RequestError: what the gateway said, that it cannot be reached, or that JSON has no
                words for the body.
        """
        content = None if body is None else _encoded(body)
        try:
            async with AsyncExitStack() as stack:
                async with patience:
                    response = await self._patiently(stack, patience, method, path, content)
                yield response
        except (httpx2.TimeoutException, TimeoutError) as error:
            message = f"{self._url} did not answer within {patience.timeout_s:g} s"
            raise error_of("timeout", message) from error
        except httpx2.HTTPError as error:
            message = f"{self._url}: {error or type(error).__name__}"
            raise error_of("swarm_unreachable", message) from error
        except ValueError as error:  # an event without an end
            raise error_of("peer_failed", f"{self._url}: {error}") from error

    async def _patiently(
        self,
        stack: AsyncExitStack,
        patience: "_Patience",
        method: str,
        path: str,
        content: bytes | None,
    ) -> httpx2.Response:
        for attempt in range(self._max_retries + 1):
            is_last = attempt == self._max_retries
            trial = AsyncExitStack()
            if self._http is None:  # while we paused
                raise error_of("shutting_down", "this client is closed")
            try:
                response = await trial.enter_async_context(
                    self._http.stream(method, path, content=content, headers=IS_JSON)
                )
                if response.status_code < 400:
                    await stack.enter_async_context(trial)
                    return response
                await response.aread()
                refusal = _error(_object(response.content), response)
            except httpx2.ConnectError as error:
                if is_last:
                    raise
                refusal = SwarmUnreachable(str(error), code="swarm_unreachable", status=503)
            await trial.aclose()
            pause_s = refusal.retry_after_s or FIRST_PAUSE_S * 2**attempt
            if is_last or not _may_help(refusal) or pause_s >= patience.left_s:
                raise refusal
            await asyncio.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")


def _encoded(body: Json) -> bytes:
    """
    Raises:
        InvalidRequest: a number that is none, half a character, a value of another kind.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise error_of("invalid_value", f"this cannot be sent as JSON: {error}") from error


def _listed(told: Json) -> list[Json]:
    listed: list[Json] = told["data"]
    return listed


class _Patience:
    """How long we wait for one answer in all; a caller who takes time between its parts may."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._whole_s = timeout_s + min(OVER_S, timeout_s)
        self._waited_s, self._since_s = 0.0, 0.0
        self._timeout: asyncio.Timeout | None = None

    @property
    def left_s(self) -> float:
        """While we wait, of an answer's own time."""
        return self.timeout_s - self._waited_s - (_now_s() - self._since_s)

    async def __aenter__(self) -> None:
        self._since_s = _now_s()
        self._timeout = asyncio.timeout(self._whole_s - self._waited_s)
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        assert self._timeout is not None
        self._waited_s += _now_s() - self._since_s
        await self._timeout.__aexit__(*raised)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _may_help(refusal: RequestError) -> bool:
    return refusal.status in AGAIN and refusal.retry_after_s != 0


def _error(body: Json, response: httpx2.Response) -> RequestError:
    said = body.get("error")
    said = said if isinstance(said, dict) else {"message": str(said or "no reason was given")}
    headers = response.headers
    code, status = str(said.get("code") or "internal_error"), response.status_code
    hint = str(said.get("hint") or "")
    return error_of(
        code,
        str(said.get("message")).removesuffix(f" ({hint})"),  # which other clients read there
        status=status if status >= 400 else None,  # an error within a stream has its own
        hint=hint,
        missing=_runs(said.get("missing")),
        param=said.get("param"),
        request_id=headers.get("x-request-id", ""),
        retry_after_s=0.0 if headers.get("x-should-retry") == "false" else _pause_s(headers),
    )


def _runs(told: object) -> list[tuple[int, int]]:
    """Blocks that are missing; whatever else is told there is not."""
    runs = told if isinstance(told, list) else []
    return [
        (run[0], run[1])
        for run in runs
        if isinstance(run, list) and len(run) == 2 and all(type(each) is int for each in run)
    ]


def _pause_s(headers: httpx2.Headers) -> float | None:
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit_s)
        except (KeyError, ValueError):
            continue
    return None


def _object(data: str | bytes) -> dict[str, Any]:
    """
    Raises:
        RequestError: whoever answers there is no gateway.
    """
    if (value := object_of(data)) is not None:
        return value
    raise error_of("swarm_unreachable", "what answers there speaks no JSON; is it a gateway?")
