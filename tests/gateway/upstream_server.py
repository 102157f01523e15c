"""Somebody else's OpenAI-style API on a socket of this machine, which does what a test tells it."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

from manyhands.gateway.policy import Policy
from manyhands.gateway.serving import listening
from manyhands.gateway.shapes import DONE, frame
from manyhands.gateway.upstream import Upstreams
from tests.gateway.live import HOST, Live

WORDS = ["Here", " it", "\u2028is\x85", "."]  # what ends a line to Python, and in no event stream
USAGE = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}


class Elsewhere:
    """`how` it answers: well, or in one of the ways in which others fail."""

    def __init__(self, how: str = "well") -> None:
        self.how, self.port = how, 0
        self.told: Any = None  # instead: what it says, as a whole or as a stream's frames
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.n_open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body)
        self.asked.append(asked)
        self.keys.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        self.n_open += 1
        try:
            await self._answer(asked, receive, send)
        finally:
            self.n_open -= 1

    async def _answer(self, asked: dict[str, Any], receive: Any, send: Any) -> None:
        if self.told is not None and asked.get("stream"):
            await _whole(send, 200, b"".join(map(frame, self.told)) + DONE)
        elif self.told is not None:
            await _whole(send, 200, json.dumps(self.told).encode())
        elif self.how.isdecimal():
            error = {"error": {"message": "it says no", "code": "no"}}
            await _whole(send, int(self.how), json.dumps(error).encode())
        elif self.how == "hangs":
            await _until_gone(receive)
        elif self.how == "nonsense":
            await _whole(send, 200, b"<html>")
        elif "input" in asked:
            entries = [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            told = {"object": "list", "model": "their-vectors", "data": entries, "usage": usage}
            await _whole(send, 200, json.dumps(told).encode())
        elif asked.get("stream"):
            await self._stream(asked, receive, send)
        else:
            choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
            said = {"role": "assistant", "content": "".join(WORDS), "refusal": None}
            told = {**_head("chat.completion"), "choices": [{**choice, "message": said}]}
            await _whole(send, 200, json.dumps({**told, "usage": USAGE}).encode())

    async def _stream(self, asked: dict[str, Any], receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream")]})

        async def say(data: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": more})

        def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return frame({**_head("chat.completion.chunk"), "choices": [choice], "usage": None})

        await say(b": hello\n\n" + chunk({"role": "assistant", "content": ""}))
        if self.how == "says nothing":
            await say(b"", more=False)
            return
        for n, word in enumerate(WORDS):
            if n == 2 and self.how in ("cut", "breaks"):
                await asyncio.sleep(0.2)  # what was said before has been passed on by then
            if n == 2 and self.how == "cut":
                await say(b"", more=False)
                return
            if n == 2 and self.how == "breaks":
                await say(frame({"error": {"message": "it broke", "code": "x"}}), more=False)
                return
            if n == 2 and self.how == "stalls":
                await _until_gone(receive)
                return
            if n == 2 and self.how == "drips":
                leaving = asyncio.create_task(_until_gone(receive))
                while not (await asyncio.wait((leaving,), timeout=0.05))[0]:
                    await say(b": still here\n\n")
                return
            await say(chunk({"content": word}))
        await say(chunk({}, "stop"))
        assert asked["stream_options"]["include_usage"]
        usage = {**_head("chat.completion.chunk"), "choices": [], "usage": USAGE}
        await say(frame(usage) + (b"" if self.how == "forgets done" else DONE), more=False)


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-elsewhere", "object": kind, "created": 1, "model": "their-model"}


async def _whole(send: Any, status: int, data: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": data})


@contextmanager
def ruled(gateway: Live, told: dict[str, Any], *servers: Elsewhere) -> Iterator[None]:
    """The gateway under a policy whose upstreams, in order, are these servers."""
    inner, stack = gateway.gateway, AsyncExitStack()
    before = inner.bounds, inner.upstreams

    async def begin() -> None:
        for server in servers:
            server.port = await stack.enter_async_context(listening(server, HOST, 0))
        for upstream, server in zip(told.get("upstreams", {}).values(), servers, strict=False):
            upstream["url"] = f"http://{HOST}:{server.port}/v1"
        policy = Policy.model_validate(told)
        inner.bounds = replace(inner.bounds, policy=policy)
        inner.upstreams = Upstreams(policy, {"THEIR_KEY": "sk-theirs"})
        await stack.enter_async_context(inner.upstreams.serving())

    gateway.run(begin())
    try:
        yield
    finally:
        gateway.run(stack.aclose())
        inner.bounds, inner.upstreams = before
