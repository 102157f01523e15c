"""Links of any kind on one machine, without root: proxies in front of real nodes.

In: ways between places, and which process is at which place. Out: a port for each node; whoever
dials it reaches the node, and every byte is held back both ways as `ways.Stream` says. The proxy
finds out which process dialled by its socket (`dialler.py`). Bytes are neither read nor changed: it
holds no key.

`python -m benchmarks.linklab.proxy` runs them in a process of its own, told over its standard input
what `control.py` says: a link shall not wait for a client that computes, nor for a timer that
counts whole milliseconds, as that of asyncio on epoll does.
"""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from benchmarks.linklab.control import OUTSIDE, Orders, obey, punctual_loop
from benchmarks.linklab.dialler import Address, pid_of
from benchmarks.linklab.priority import LINKS, put_first
from benchmarks.linklab.ways import Ground, Stream, Way

HOST = "127.0.0.1"
BUFFER_BYTES = 4 << 20  # that a sender may have under way before it has to wait, as a socket's


class _Held(asyncio.Protocol):
    """One direction: what comes in leaves through `other` when the way says so."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._early: list[bytes] = []  # before it was known where to
        self.transport: asyncio.Transport | None = None
        self.other: _Held | None = None
        self.stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.stream is None:
            self._early.append(data)
            return
        self.stream.send(self._loop.time(), data)
        if self.transport is not None and self.stream.queued_bytes > BUFFER_BYTES:
            self.transport.pause_reading()
        self._wait()

    def join(self, stream: Stream, other: "_Held") -> None:
        """From now on it is known where to."""
        self.stream, self.other = stream, other
        early, self._early = self._early, []
        for data in early:
            self.data_received(data)

    def _wait(self) -> None:
        """For the first that comes; what follows it may have made it earlier."""
        assert self.stream is not None
        if self._timer is not None:
            self._timer.cancel()
        next_s = self.stream.next_s
        self._timer = None if next_s is None else self._loop.call_at(next_s, self._let_go)

    def _let_go(self) -> None:
        assert self.other is not None
        assert self.stream is not None
        came = self.stream.arrived(self._loop.time())
        if self.other.transport is not None and not self.other.transport.is_closing():
            self.other.transport.writelines(came)
        if self.transport is not None and self.stream.queued_bytes <= BUFFER_BYTES:
            self.transport.resume_reading()
        self._wait()

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self.stream is not None:
            self._ground.close(self.stream)
        other = self.other.transport if self.other is not None else None
        if other is not None:
            other.close()


class _Accepted(_Held):
    """Of the side that dialled."""

    def __init__(self, ground: Ground, opened: Callable[["_Accepted"], None]) -> None:
        super().__init__(ground)
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opened(self)


class LinkLab:
    """Proxies, one per node. `ways[a, b]` is the way from place a to place b."""

    def __init__(
        self,
        ways: Mapping[tuple[int, int], Way],
        pids: Mapping[int, int] | None = None,
        *,
        uplinks: Mapping[int, float] | None = None,
        seed: int = 1,
    ) -> None:
        self.ground = Ground(dict(ways), dict(uplinks or {}), seed)
        self.pids = dict(pids or {})  # of each process: its place
        self._servers: list[asyncio.Server] = []
        self._dialling: set[asyncio.Task[None]] = set()

    async def stand_before(self, place: int, public_port: int, hidden_port: int) -> None:
        """Take connections for the node at `place`, which listens on `hidden_port`."""
        loop = asyncio.get_running_loop()

        def dial(near: _Accepted) -> None:
            task = asyncio.create_task(self._join(near, place, hidden_port))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

        def accept() -> _Accepted:
            return _Accepted(self.ground, dial)

        self._servers.append(await loop.create_server(accept, HOST, public_port))

    async def _join(self, near: _Held, place: int, hidden_port: int) -> None:
        if near.transport is None:
            return
        ends = (near.transport.get_extra_info(end) for end in ("peername", "sockname"))
        dialler = self._place_of(*ends)
        far = _Held(self.ground)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: far, HOST, hidden_port)
        except OSError:
            if near.transport is not None:
                near.transport.close()
            return
        if near.transport is None:  # it has gone meanwhile
            if far.transport is not None:
                far.transport.close()
            return
        near.join(self.ground.stream(dialler, place), far)
        far.join(self.ground.stream(place, dialler), near)

    def _place_of(self, dialler: Address, door: Address) -> int:
        """Of the process that dialled from there, or of the first one of its group."""
        pid = pid_of(dialler, door, self.pids)
        if pid is not None:
            return self.pids[pid]
        pid = pid_of(dialler, door, groups := _led_by(self.pids))
        return OUTSIDE if pid is None else self.pids[groups[pid]]

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._dialling:
            task.cancel()


def _led_by(pids: Collection[int]) -> dict[int, int]:
    """All processes of groups whose first is one of these, and which."""
    led = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            group = os.getpgid(int(process.name))
            if group in pids:
                led[int(process.name)] = group
    return led


async def _serve() -> None:
    lab = LinkLab({})

    async def follow(orders: Orders) -> None:
        if orders.ways is not None:
            lab.ground.lay(orders.ways, orders.uplinks)
        lab.pids.update(orders.pids)
        for place, public_port, hidden_port in orders.stand_before:
            await lab.stand_before(place, public_port, hidden_port)

    await obey(follow, lab.ground)
    await lab.aclose()


if __name__ == "__main__":
    put_first(LINKS)  # where it may; else links are later than asked, and say so
    with asyncio.Runner(loop_factory=punctual_loop) as runner:
        runner.run(_serve())
