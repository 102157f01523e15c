"""GET /health/live and /health/ready on loopback: what a supervisor or a script waits for.

In: a function that says whether the swarm can generate. Out: 200 or 503 with one JSON object; 404
for any other path. One small request per connection, bounded in size and time.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from protocol.errors import ConfigError

HOST = "127.0.0.1"
MAX_REQUEST_BYTES, REQUEST_S = 8192, 5.0
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}


@asynccontextmanager
async def health_server(port: int, why_not_ready: Callable[[], str]) -> AsyncIterator[int]:
    """Answer while the context lasts; the port, which 0 lets the system pick.

    Args:
        why_not_ready: "" when ready, else what is missing.

    Raises:
        ConfigError: the port is in use.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(REQUEST_S):
                writer.write(await _respond(reader, why_not_ready))
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    try:
        server = await asyncio.start_server(serve, HOST, port, limit=MAX_REQUEST_BYTES)
    except OSError as error:
        raise ConfigError(
            f"port {port} on {HOST} cannot be used: {error.strerror}",
            hint="choose another with --port, or --port 0 to have one picked",
        ) from error
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def _respond(reader: asyncio.StreamReader, why_not_ready: Callable[[], str]) -> bytes:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, version = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    except (asyncio.LimitOverrunError, ValueError):
        return _response(400, "this is no request")
    if not version.startswith("HTTP/1."):
        return _response(400, "this is no request")
    path = target.split("?", 1)[0]
    if path not in ("/health", "/health/live", "/health/ready"):
        return _response(404, "there is nothing here; try /health/ready")
    if method not in ("GET", "HEAD"):
        return _response(405, "ask with GET")
    missing = why_not_ready() if path == "/health/ready" else ""
    return _response(503 if missing else 200, missing, with_body=method == "GET")


def _response(status: int, reason: str, *, with_body: bool = True) -> bytes:
    body = json.dumps({"status": "ok" if status == 200 else "error", "reason": reason}).encode()
    lines = (
        f"HTTP/1.1 {status} {REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body if with_body else b"")
