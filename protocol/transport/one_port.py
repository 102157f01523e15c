"""Connections to several peers from one and the same local port.

In: a peer's address. Out: an address on this machine through which it is reached, from our one
port: a transport dials that instead, and whoever answers still has to prove its peer id, since the
bytes are passed on as they are. How a router maps a port can be seen only from several places at
once, and gRPC chooses a fresh port for each of its connections. Works where the system lets one
port have several connections (SO_REUSEADDR, SO_REUSEPORT); else `OSError` says so.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from protocol.address import Address

LOOPBACK = "127.0.0.1"
CONNECT_S = 5.0
CHUNK_BYTES = 64 << 10


class OnePort:
    """See the module. One connection to each peer; for another one take another `OnePort`."""

    def __init__(self) -> None:
        self._port = 0  # of the first connection, and then of all

    @asynccontextmanager
    async def towards(self, address: Address) -> AsyncIterator[Address]:
        """While the context lasts, what leads to `address`.

        Raises:
            OSError: nothing can listen here. That `address` cannot be reached shows when dialling.
        """
        passing = _Passing(self, address)
        server = await asyncio.start_server(passing.on, LOOPBACK, 0)
        try:
            port = server.sockets[0].getsockname()[1]
            yield replace(address, host=LOOPBACK, port=port)
        finally:
            server.close()
            await passing.aclose()

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection from our port.

        Raises:
            OSError: it could not be made.
        """
        loop = asyncio.get_running_loop()
        family, kind, protocol, _, target = (
            await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )[0]
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.setblocking(False)
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                connecting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            connecting.bind(("", self._port))
            self._port = connecting.getsockname()[1]
            async with asyncio.timeout(CONNECT_S):
                await loop.sock_connect(connecting, target)
        except BaseException:
            connecting.close()
            raise
        return connecting


class _Passing:
    """Bytes both ways, between those who dial here and where they want to go."""

    def __init__(self, one_port: OnePort, address: Address) -> None:
        self._one_port, self._address = one_port, address
        self._tasks: set[asyncio.Task[None]] = set()

    async def on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "the server runs it in a task"
        self._tasks.add(task)
        try:
            await self._pass(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
            connected = await self._one_port.connect(self._address.host, self._address.port)
            far_reader, far_writer = await asyncio.open_connection(sock=connected)
            try:
                ways = (_copy(reader, far_writer), _copy(far_reader, writer))
                copying = [asyncio.create_task(way) for way in ways]
                try:
                    await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for each in copying:
                        each.cancel()
                    await asyncio.gather(*copying, return_exceptions=True)
            finally:
                far_writer.transport.abort()

    async def aclose(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
