"""Somebody's OpenAI-style API on a loopback socket: it says what a table says, and no more."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answerer = Callable[[dict[str, Any]], str | int | None]


@asynccontextmanager
async def endpoint(answer: Answerer) -> AsyncIterator[str]:
    """answer: of a request's body: a text, an HTTP status, or None for a stream cut short."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(
                    line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if line
                )
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                if not await _reply(writer, body, answer(body)):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def _reply(writer: asyncio.StreamWriter, body: Any, said: str | int | None) -> bool:
    """Whether the connection goes on."""
    if isinstance(said, int):
        told = json.dumps({"error": {"message": "too busy", "code": "overloaded"}}).encode()
        head = f"HTTP/1.1 {said} No\r\ncontent-length: {len(told)}\r\n\r\n".encode()
        writer.write(head + told)
        await writer.drain()
        return True
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    pieces = ["Half"] if said is None else [said[:3], said[3:]]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    if said is not None:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        usage = {"prompt_tokens": 100, "completion_tokens": len(said)}
        chunks.append({"choices": [], "usage": usage})
    for chunk in chunks:
        writer.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")
    if said is not None:
        writer.write(b"data: [DONE]\n\n")
    await writer.drain()
    return False
