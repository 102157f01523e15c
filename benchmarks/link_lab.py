"""Links of any length on one machine, without root: proxies in front of real nodes.

In: how long and how wide the way between two nodes is. Out: a swarm of `serve` processes whose
real mutual-TLS connections take that long. Each node announces its proxy's port; the proxy finds
out which process dialled (by its socket, in /proc), and holds every byte back accordingly, both
ways. Bytes are neither read nor changed: the proxy holds no key.
"""

import asyncio
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from manyhands.local import HOST, LocalNode, LocalSwarm, free_ports
from protocol.messages import Span

PERIOD_S = 0.008  # in which a slowed process is stopped once: shorter than a step
CONNECTED = "01"  # as /proc/net/tcp writes it
OUTSIDE = -1  # the place of whoever is no node: clients


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a link. `bytes_per_s` 0: as wide as the machine."""

    one_way_ms: float = 0.0
    bytes_per_s: float = 0.0


class _Held(asyncio.Protocol):
    """One direction: what comes in leaves through `other` after the way's time, in order."""

    def __init__(self) -> None:
        self.way = Way()
        self.transport: asyncio.Transport | None = None
        self.other: _Held | None = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._free_at_s = 0.0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now_s = self._loop.time()
        takes_s = len(data) / self.way.bytes_per_s if self.way.bytes_per_s else 0.0
        self._free_at_s = max(now_s, self._free_at_s) + takes_s
        self._waiting.append((self._free_at_s + self.way.one_way_ms / 1000, data))
        if len(self._waiting) == 1 and self.other is not None:
            self._loop.call_at(self._waiting[0][0], self._let_go)

    def join(self, way: Way, other: "_Held") -> None:
        """From now on it is known where to; what came before goes now."""
        self.way, self.other = way, other
        if self._waiting:
            self._let_go()

    def _let_go(self) -> None:
        assert self.other is not None
        while self._waiting and self._waiting[0][0] <= self._loop.time():
            data = self._waiting.popleft()[1]
            if self.other.transport is not None:
                self.other.transport.write(data)
        if self._waiting:
            self._loop.call_at(self._waiting[0][0], self._let_go)

    def connection_lost(self, error: Exception | None) -> None:
        other = self.other.transport if self.other is not None else None
        if other is not None:
            other.close()


class _Accepted(_Held):
    """Of the side that dialled."""

    def __init__(self, opened: Callable[["_Accepted"], None]) -> None:
        super().__init__()
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opened(self)


class LinkLab:
    """Proxies, one per node. `ways[a, b]` is the way from node a to node b, by their places."""

    def __init__(
        self, ways: Mapping[tuple[int, int], Way], pids: Mapping[int, int] | None = None
    ) -> None:
        self.ways = dict(ways)
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

        self._servers.append(await loop.create_server(lambda: _Accepted(dial), HOST, public_port))

    async def _join(self, near: _Held, place: int, hidden_port: int) -> None:
        assert near.transport is not None
        dialler = self._place_of(near.transport.get_extra_info("peername")[1])
        far = _Held()
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: far, HOST, hidden_port)
        except OSError:
            near.transport.close()
            return
        near.join(self.ways.get((dialler, place), Way()), far)
        far.join(self.ways.get((place, dialler), Way()), near)

    def _place_of(self, port: int) -> int:
        """Of the process that holds the socket with this port."""
        inode = _inode_of(port)
        for pid, place in self.pids.items():
            with suppress(OSError):
                if any(
                    os.readlink(entry.path) == f"socket:[{inode}]"
                    for entry in os.scandir(f"/proc/{pid}/fd")
                ):
                    return place
        return OUTSIDE

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._dialling:
            task.cancel()


def _inode_of(port: int) -> int:
    """Of the connected socket that has this local port; gRPC's are of both families at once."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == CONNECTED:
                return int(fields[9])
    return -1


class LabSwarm(LocalSwarm):
    """A local swarm whose nodes are as far apart as `ways` says. `slow[i]`: times slower."""

    def __init__(
        self,
        model: str,
        spans: Sequence[Span],
        directory: Path,
        ways: Mapping[tuple[int, int], Way],
        *,
        slow: Mapping[int, float] | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(model, spans, directory, threads=threads)
        self._hidden = free_ports(len(spans))
        self._slow = dict(slow or {})
        self.lab = LinkLab(ways)

    def _where(self, node: LocalNode) -> tuple[str, ...]:
        public = f"{HOST}:{node.address.port}"
        return ("--listen", f"{HOST}:{self._hidden[node.index]}", "--announce", public)

    @asynccontextmanager
    async def far_apart(self) -> AsyncIterator["LabSwarm"]:
        """`running`, behind the proxies."""
        for node in self.nodes:
            hidden = self._hidden[node.index]
            await self.lab.stand_before(node.index, node.address.port, hidden)
        watching = asyncio.create_task(self._learn_pids())
        slowing: list[asyncio.Task[None]] = []
        try:
            async with self.running():
                for index, times in self._slow.items():
                    slowing.append(asyncio.create_task(_slow_down(self.nodes[index], times)))
                yield self
                for task in slowing:
                    task.cancel()
                await asyncio.gather(*slowing, return_exceptions=True)
        finally:
            watching.cancel()
            await self.lab.aclose()

    async def _learn_pids(self) -> None:
        while True:
            for node in self.nodes:
                if node.process is not None:
                    self.lab.pids[node.process.pid] = node.index
            await asyncio.sleep(0.01)


async def _slow_down(node: LocalNode, times: float) -> None:
    """As a slower machine: the process is stopped for its share of each short period."""
    try:
        while node.is_alive:
            node.signal(signal.SIGSTOP)
            await asyncio.sleep(PERIOD_S * (1 - 1 / times))
            node.signal(signal.SIGCONT)
            await asyncio.sleep(PERIOD_S / times)
    finally:
        node.signal(signal.SIGCONT)
