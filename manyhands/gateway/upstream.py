"""Other people's OpenAI-style APIs, asked as a client asks them.

In: a body as it came, the name of an upstream. Out: its answer: whole, or frame by frame, of which
the first is there before anybody is told 200. Whatever an upstream does (refuses, hangs, says
nonsense, closes in mid-sentence) ends in an `ApiError`, so that no stream of ours is ever cut in
silence. Its key comes from the environment and goes nowhere else; no body is ever logged.
"""

import asyncio
import json
import logging
import math
import os
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyhands import __version__
from manyhands.event_stream import DONE, data_of, object_of
from manyhands.gateway.asked import several
from manyhands.gateway.faults import ApiError
from manyhands.gateway.policy import Policy, Upstream
from manyhands.gateway.upstream_vectors import vectors_of

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

Json = dict[str, Any]
CONNECT_S, QUIET_S = 10.0, 120.0  # without a byte in the middle of a stream
MAX_ERROR_BYTES, MAX_WHOLE_BYTES = 64 << 10, 64 << 20
CALLERS_FAULT = {400, 409, 413, 415, 422}
CHAT, LIMITS = "chat/completions", ("max_tokens", "max_completion_tokens")
EMBEDDINGS = "embeddings"
MAX_EVENT_BYTES, MAX_EMPTY = 4 << 20, 256  # of a stream; frames at its beginning
OURS = ("manyhands", "cache_salt", "return_token_ids")  # fields that mean something here alone


@dataclass(slots=True)
class Used:
    """What an upstream says that it used; until it does, a guess: the prompt, and a token for each
    frame; of an answer that comes whole, all that it may have. is_due: it was sent, not refused."""

    n_prompt: int = 0
    n_answer: int = 0
    is_told: bool = False
    is_due: bool = False

    def hear(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self.is_told = True
            self.n_prompt = _count(usage.get("prompt_tokens"), self.n_prompt)
            self.n_answer = _count(usage.get("completion_tokens"), self.n_answer)

    def cost_ncr(self, upstream: Upstream) -> int:
        told = self.n_prompt * upstream.prompt_price + self.n_answer * upstream.answer_price
        return -(-told // 1_000_000)


@dataclass(slots=True)
class Opened:
    """An answer that has begun. begun: its frames up to the first that says something, or all of
    it. until_s: of the loop's clock, when it has to be complete."""

    name: str
    begun: list[Json]
    until_s: float
    _events: AsyncGenerator[Json, None] | None = None

    async def next(self) -> Json | None:
        """The next frame of a stream, after `begun`; None once it says that it is complete.

        Raises:
            ApiError: upstream_failed.
        """
        if self._events is None:
            return None
        with _translated(self.name):
            async with asyncio.timeout_at(self.until_s):
                return await anext(self._events, None)


class Upstreams:
    """Those of a policy. Use `serving`, then `open`."""

    def __init__(self, policy: Policy, environment: Mapping[str, str] | None = None) -> None:
        self._upstreams = policy.upstreams
        known = os.environ if environment is None else environment
        self._keys = {name: each.key(known) for name, each in self._upstreams.items()}
        self._http: httpx2.AsyncClient | None = None
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        import httpx2

        timeout = httpx2.Timeout(QUIET_S, connect=CONNECT_S)
        limits = httpx2.Limits(max_connections=None)
        trusted = ssl.create_default_context()  # what the system trusts, SSL_CERT_FILE too
        async with httpx2.AsyncClient(
            timeout=timeout, limits=limits, trust_env=False, verify=trusted
        ) as http:
            self._http = http
            try:
                yield
            finally:
                self._http = None

    @asynccontextmanager
    async def open(
        self, name: str, path: str, body: Json, used: Used, timeout_s: float = math.inf
    ) -> AsyncIterator[Opened]:
        """An answer that has begun; leaving closes the connection, wherever it is.

        Args:
            used: about; told more of as it goes on, also where it fails.
            timeout_s: for all of it, where that is less than the upstream is given anyway.

        Raises:
            ApiError: upstream_failed, overloaded; unsupported_value where it refuses the request.
        """
        upstream, http = self._upstreams[name], self._http
        if http is None:
            raise ApiError("shutting_down", "the gateway is ending")
        if self._running[name] >= upstream.max_running:
            raise ApiError("overloaded", f"upstream {name} has {upstream.max_running} answers")
        self._running[name] += 1
        asking = http.stream(
            "POST",
            f"{upstream.url.rstrip('/')}/{path}",
            json=_body(upstream, body, path),
            headers=self._headers(name),
        )
        try:
            async with AsyncExitStack() as closing:
                with _translated(name):
                    streams, now_s = bool(body.get("stream")), asyncio.get_running_loop().time()
                    until_s = now_s + min(upstream.timeout_s, timeout_s)
                    first_s = now_s + upstream.first_token_s if streams else until_s
                    async with asyncio.timeout_at(min(first_s, until_s)):
                        response = await closing.enter_async_context(_sent(asking, used))
                        if response.status_code != 200:
                            raise await _refusal(name, response)
                        events = _events(name, response, used) if streams else None
                        begun = (
                            await _first(events)
                            if events
                            else [await _whole(name, response, used, path, body)]
                        )
                yield Opened(name, begun, until_s, events)
        finally:
            self._running[name] -= 1

    def _headers(self, name: str) -> dict[str, str]:
        headers = {"user-agent": f"manyhands/{__version__}"}
        if self._keys[name]:
            headers["authorization"] = f"Bearer {self._keys[name]}"
        return headers


@asynccontextmanager
async def _sent(
    asking: AbstractAsyncContextManager["httpx2.Response"], used: Used
) -> AsyncIterator["httpx2.Response"]:
    """From here on it may cost something, whoever leaves and whatever fails."""
    import httpx2

    used.is_due = True
    try:
        async with asking as response:
            used.is_due = response.status_code == 200
            yield response
    except (httpx2.ConnectError, httpx2.ConnectTimeout):
        used.is_due = False
        raise


async def _first(events: AsyncGenerator[Json, None]) -> list[Json]:
    """Frames up to the first that says or ends something: what fails before it can go elsewhere."""
    begun: list[Json] = []
    async for told in events:
        begun.append(told)
        ends = any(choice.get("finish_reason") for choice in told.get("choices") or ())
        if n_said(told) or ends or len(begun) == MAX_EMPTY:
            break
    return begun


def n_said(told: Json) -> int:
    """How many choices say something new in this frame: words, thoughts, a call."""
    choices = told.get("choices") or ()
    deltas = [{"text": each.get("text"), **each.get("delta", {})} for each in choices]
    return sum(any(value for name, value in each.items() if name != "role") for each in deltas)


async def _events(name: str, response: "httpx2.Response", used: Used) -> AsyncGenerator[Json, None]:
    """The objects of a stream of server-sent events. One that is not complete ends in an error."""
    finished, begun = set[int](), set[int]()
    async for data in data_of(response.aiter_bytes(), max_bytes=MAX_EVENT_BYTES):
        if data.strip() == DONE:
            if begun - finished or not begun:
                break
            return
        frame = _object(name, data)
        used.hear(frame.get("usage"))
        used.n_answer += not used.is_told and bool(frame.get("choices"))
        for choice in frame.get("choices") or ():
            begun.add(choice.get("index", 0))
            if choice.get("finish_reason"):
                finished.add(choice.get("index", 0))
        yield frame
    if begun and not begun - finished:
        return  # some leave out [DONE]
    raise _failed(name, "closed its stream before the answer was complete")


async def _whole(name: str, response: "httpx2.Response", used: Used, path: str, body: Json) -> Json:
    data = await _read(response, MAX_WHOLE_BYTES)
    if path == EMBEDDINGS:
        n_texts, is_base64 = len(several(body["input"])), body.get("encoding_format") == "base64"
        vectors = await asyncio.to_thread(vectors_of, data, n_texts, is_base64=is_base64)
        if vectors is None:
            raise _failed(name, "answered without a vector for each text")
        used.hear(vectors.get("usage"))
        return vectors
    told = _object(name, data)
    if not told["choices"]:
        raise _failed(name, "answered without a choice")
    used.hear(told.get("usage"))
    return told


async def _refusal(name: str, response: "httpx2.Response") -> ApiError:
    """What its status means here; its words are the caller's to read where the caller erred."""
    status = response.status_code
    if status not in CALLERS_FAULT:
        log.warning("an upstream refused", extra={"upstream": name, "status": status})
        why = "does not accept our key" if status in (401, 403) else f"answered {status}"
        return _failed(name, why)
    try:
        message = json.loads(await _read(response, MAX_ERROR_BYTES))["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"status {status}"
    return ApiError("unsupported_value", f"upstream {name} refuses this request: {message}")


async def _read(response: "httpx2.Response", most: int) -> bytes:
    data = b""
    async for part in response.aiter_bytes():
        data += part
        if len(data) > most:
            raise ValueError("too long")
    return data


def _object(name: str, data: str | bytes) -> Json:
    """
    Raises:
        ApiError: it is no object with choices, or says that it failed.
    """
    told = object_of(data) or {}
    if told.get("error"):
        log.warning("an upstream answered with an error", extra={"upstream": name})
        raise _failed(name, "said in its answer that it failed")
    choices = told.get("choices")
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise _failed(name, "says what is no answer")
    return told


def _is_choice(told: Any) -> bool:
    return (
        isinstance(told, dict)
        and type(told.get("index", 0)) is int
        and all(isinstance(told.get(name, {}), dict) for name in ("delta", "message"))
    )


def limited(upstream: Upstream, asked: Json, path: str, limit: int) -> Json:
    """The body with a limit of its answer, where the caller names none."""
    if path == EMBEDDINGS or any(asked.get(name) is not None for name in LIMITS):
        return asked
    is_new = path == CHAT and LIMITS[1] not in upstream.drop  # what OpenAI takes instead, by now
    return {**asked, LIMITS[is_new]: limit}


def _body(upstream: Upstream, asked: Json, path: str) -> Json:
    body = {name: value for name, value in asked.items() if name not in (*OURS, *upstream.drop)}
    if body.get("stream"):  # what it used is counted; a caller who did not ask is not told
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return {**body, "model": upstream.embeddings if path == EMBEDDINGS else upstream.model}


def _failed(name: str, why: str) -> ApiError:
    return ApiError("upstream_failed", f"upstream {name} {why}")


class _translated:
    """Whatever a connection can do becomes an `ApiError`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import httpx2

        if isinstance(error, TimeoutError | httpx2.TimeoutException):
            raise _failed(self._name, "did not answer in time") from error
        if isinstance(error, httpx2.HTTPError | httpx2.StreamError | ValueError):
            log.warning(
                "an upstream failed", extra={"upstream": self._name, "kind": type(error).__name__}
            )
            raise _failed(self._name, f"cannot be heard ({type(error).__name__})") from error


def _count(value: object, otherwise: int) -> int:
    return value if type(value) is int and 0 <= value < 2**40 else otherwise
