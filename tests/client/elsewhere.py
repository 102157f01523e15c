"""Something that speaks HTTP on a loopback socket, and answers as a test says: for `base_url`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """parts: of its body, one after the other; None: it waits there for good."""

    parts: tuple[bytes | None, ...]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> "Reply":
        named = {name.replace("_", "-"): each for name, each in headers.items()}
        return cls((json.dumps(value).encode(),), status, named)

    @classmethod
    def stream(cls, *chunks: Json | None) -> "Reply":
        """None: it waits there."""
        said = [
            chunk and b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"
            for chunk in chunks
        ]
        return cls((*said, b"data: [DONE]\n\n"))


@asynccontextmanager
async def elsewhere(answer: Callable[[Json], Reply]) -> AsyncIterator[str]:
    """Its URL. answer: of a request's body."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _serve(reader, writer, answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Callable[[Json], Reply],
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in head[1:] if line)
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    reply = answer(json.loads(body or b"{}"))
    headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    writer.write(f"HTTP/1.1 {reply.status} so\r\nconnection: close\r\n{headers}\r\n".encode())
    for part in reply.parts:
        if part is None:
            await reader.read()  # until the client leaves
            return
        writer.write(part)
        await writer.drain()
