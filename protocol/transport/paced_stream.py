"""Bytes through libp2p streams that may take as long as the other side needs; and two ends joined.

In: a stream of py-libp2p's yamux, or a socket of trio. Out: ends of one shape, and `splice`, which
carries bytes between two of them. The library resets a stream whose window stays shut for five
seconds, and a write that is cancelled half-way spoils the connection for all its streams: a
`PacedStream` never writes more than the window has room for, waits for it as long as is reasonable,
and ends a write that it has begun. All of it on trio.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import trio

CHUNK_BYTES = 64 * 1024  # yamux cuts frames at that length
STALL_S = 60.0  # how long a reader may take nothing
WRITE_S = 30.0  # for one chunk on a connection: after that it is dead
LOOK_S = 0.005  # how often a shut window is looked at


class Stalled(Exception):
    """The other side takes nothing any more."""


class End(Protocol):
    """One side of a splice."""

    async def read(self, n: int | None = None) -> bytes:
        """Some bytes; none at the end."""

    async def write(self, data: bytes) -> None: ...

    async def close_write(self) -> None: ...

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


class PacedStream:
    """A libp2p stream; also what the library takes as the base of a connection."""

    def __init__(self, stream: Any, *, stall_s: float = STALL_S) -> None:
        self._stream, self._stall_s = stream, stall_s
        self._read = b""  # and not asked for yet

    async def read(self, n: int | None = None) -> bytes:
        from libp2p.network.stream.exceptions import StreamEOF

        if not self._read:  # a connection asks for a few bytes at a time, each time for half a ms
            with contextlib.suppress(StreamEOF):
                self._read = bytes(await self._stream.read(CHUNK_BYTES))
        n = len(self._read) if n is None or n < 0 else n
        taken, self._read = self._read[:n], self._read[n:]
        return taken

    async def write(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            room = min(await self._room(), CHUNK_BYTES, len(data) - at)
            await self._write_whole(data[at : at + room])
            at += room

    async def _room(self) -> int:
        muxed = self._stream.muxed_stream
        with trio.move_on_after(self._stall_s):
            while muxed.send_window <= 0 and not muxed.closed:  # noqa: ASYNC110 (no event for it)
                await trio.sleep(LOOK_S)
            return max(1, int(muxed.send_window))  # a closed one says so when written to
        raise Stalled(f"nothing was read for {self._stall_s:g} s")

    async def _write_whole(self, chunk: bytes) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_S) as scope:
            await self._stream.write(chunk)
        if scope.cancelled_caught:
            with trio.move_on_after(1.0, shield=True), contextlib.suppress(Exception):
                await self._stream.muxed_conn.close()
            raise Stalled(f"the connection took nothing for {WRITE_S:g} s")

    async def close_write(self) -> None:
        await self._stream.close_write()

    async def close(self) -> None:
        await self._stream.close()

    async def reset(self) -> None:
        await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        address: tuple[str, int] | None = self._stream.get_remote_address()
        return address


class SocketEnd:
    """A trio socket stream with the same shape."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self._socket.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self._socket.send_all(data)

    async def close_write(self) -> None:
        await self._socket.send_eof()

    async def close(self) -> None:
        await self._socket.aclose()

    async def reset(self) -> None:
        await trio.aclose_forcefully(self._socket)


async def splice(
    one: End, other: End, *, idle_s: float, passed: Callable[[int], None] | None = None
) -> None:
    """Carry bytes both ways until both have ended, one failed, or nothing came for `idle_s`.

    Both ends are closed on the way out. `passed` is told of each piece, and may raise to stop it.
    """
    last_s, is_clean = trio.current_time(), False

    async def carry(source: End, sink: End) -> None:
        nonlocal last_s
        while data := await source.read(CHUNK_BYTES):
            if passed is not None:
                passed(len(data))
            last_s = trio.current_time()
            await sink.write(data)
        await sink.close_write()

    async def watch(scope: trio.CancelScope) -> None:
        while (until_s := last_s + idle_s) > trio.current_time():  # noqa: ASYNC110 (it is no event)
            await trio.sleep_until(until_s)
        scope.cancel()

    try:
        async with trio.open_nursery() as watched:
            watched.start_soon(watch, watched.cancel_scope)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, one, other)
                nursery.start_soon(carry, other, one)
            is_clean = True
            watched.cancel_scope.cancel()
    finally:
        with trio.move_on_after(2.0, shield=True):
            for end in (one, other):
                with contextlib.suppress(Exception):
                    await (end.close() if is_clean else end.reset())
