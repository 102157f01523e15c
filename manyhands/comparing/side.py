"""One of the two that are compared: a model behind an OpenAI-style URL, and an answer of it.

In: a case. Out: its text, its times and its tokens, or why there is none. Answers are streamed, so
that the first token's time is the caller's own.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2

from manyhands.comparing.cases import Case
from manyhands.event_stream import DONE, data_of, object_of
from protocol.errors import UsageError

LOCAL = "http://127.0.0.1:8400/v1"
MAX_TEXT_CHARS = 1 << 20
MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """name: A or B. Prices are for a million tokens, in one currency for both sides."""

    name: str
    model: str
    url: str
    key: str = ""
    input_per_mtok: Decimal = Decimal(0)
    output_per_mtok: Decimal = Decimal(0)

    @classmethod
    def parse(cls, name: str, spelled: str, key_variable: str, price: str) -> "Side":
        """From `MODEL` or `MODEL@URL`, the name of a variable, and `IN/OUT`.

        Raises:
            UsageError: it is spelled otherwise, or the variable is not set.
        """
        model, _, url = spelled.partition("@")
        if not model or (url and not url.startswith(("http://", "https://"))):
            raise UsageError(f"{name}: not a model: {spelled[:120]!r}", hint="MODEL or MODEL@URL")
        key = os.environ.get(key_variable, "") if key_variable else ""
        if key_variable and not key:
            raise UsageError(f"{name}: the variable {key_variable} is not set")
        prices = _prices(name, price) if price else (Decimal(0), Decimal(0))
        return cls(
            name=name,
            model=model,
            url=(url or LOCAL).rstrip("/"),
            key=key,
            input_per_mtok=prices[0],
            output_per_mtok=prices[1],
        )

    def cost(self, reply: "Reply") -> Decimal:
        return (
            reply.n_prompt * self.input_per_mtok + reply.n_completion * self.output_per_mtok
        ) / MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer. error: why there is none, and then the rest says nothing."""

    text: str = ""
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    n_prompt: int = 0
    n_completion: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How both sides are asked alike."""

    max_tokens: int = 256
    temperature: float | None = 0.0
    seed: int | None = None
    timeout_s: float = 120.0


async def ask(http: httpx2.AsyncClient, side: Side, case: Case, asking: Asking) -> Reply:
    """One answer. Never raises for what the other side does."""
    body: dict[str, Any] = {
        "model": side.model,
        "messages": list(case.messages),
        "max_tokens": asking.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if asking.temperature is not None:
        body["temperature"] = asking.temperature
    if asking.seed is not None:
        body["seed"] = asking.seed
    headers = {"authorization": f"Bearer {side.key}"} if side.key else {}
    began_s = time.perf_counter()  # the loop's own clock may stand still for a millisecond
    try:
        async with asyncio.timeout(asking.timeout_s):
            url = f"{side.url}/chat/completions"
            async with http.stream("POST", url, json=body, headers=headers) as response:
                if response.status_code != 200:
                    raise _Failed(_message(response.status_code, await response.aread()))
                return await _read(response, began_s)
    except TimeoutError:
        return Reply(error=f"no whole answer within {asking.timeout_s:g} s")
    except _Failed as error:
        return Reply(error=_valid(str(error)))
    except Exception as error:  # whatever it sent: one answer is lost, not the others
        return Reply(error=_valid(f"{type(error).__name__}: {error}"))


class _Failed(Exception):
    """What the other side said, for people."""


async def _read(response: httpx2.Response, began_s: float) -> Reply:
    first_s: float | None = None
    parts: list[str] = []
    usage: dict[str, Any] = {}
    is_whole, n_chars = False, 0
    async for chunk in _chunks(response):
        if chunk.get("error"):
            said = chunk["error"]
            raise _Failed(str(said.get("message") if isinstance(said, dict) else said))
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                first_s = first_s or time.perf_counter()
                parts.append(str(text))
                n_chars += len(parts[-1])
            is_whole = is_whole or choice.get("finish_reason") is not None
        if n_chars > MAX_TEXT_CHARS:
            raise _Failed("the answer has no end")
    if not is_whole:  # a cut connection looks like an end
        raise _Failed("the stream ended without a finish reason")
    ended_s = time.perf_counter()
    return Reply(
        text=_valid("".join(parts)),
        ttft_ms=round(((first_s or ended_s) - began_s) * 1000, 1),
        total_ms=round((ended_s - began_s) * 1000, 1),
        n_prompt=int(usage.get("prompt_tokens") or 0),
        n_completion=int(usage.get("completion_tokens") or 0),
    )


async def _chunks(response: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
    async for data in data_of(response.aiter_bytes()):
        if data.strip() != DONE:
            chunk = object_of(data)
            if chunk is None:
                raise _Failed("a chunk of the stream is not JSON")
            yield chunk


def _valid(text: str) -> str:
    """Half characters, which JSON can spell and no file holds, become question marks."""
    return text.encode("utf-8", "replace").decode()


def _message(status: int, body: bytes) -> str:
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = "no reason was given"
    return f"HTTP {status}: {said}"


def _prices(name: str, spelled: str) -> tuple[Decimal, Decimal]:
    try:
        first, second = map(Decimal, spelled.split("/"))
    except (ValueError, ArithmeticError) as error:
        raise UsageError(f"{name}: not two prices: {spelled[:40]!r}", hint="IN/OUT") from error
    if not (first.is_finite() and second.is_finite() and min(first, second) >= 0):
        raise UsageError(f"{name}: a price is 0 or more")
    return first, second
