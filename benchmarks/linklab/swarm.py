"""A swarm of `serve` processes that are as far apart as one likes, and its client with them.

In: a model, spans, ways between places. Out: the swarm, behind proxies (`proxy.py`). A node that is
slowed is stopped for its share of every 8 ms. Ways can be changed while it runs.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.linklab.control import Carried, Links, Orders
from benchmarks.linklab.ways import Way
from manyhands.local import HOST, LocalNode, LocalSwarm, free_ports
from protocol.announcements import Announcement
from protocol.errors import PeerError
from protocol.messages import Span
from scheduler import Client

PERIOD_S = 0.008  # in which a slowed process is stopped once: shorter than a step


class LabSwarm(LocalSwarm):
    """A local swarm whose nodes are as far apart as `ways` says. `slow[i]`: times slower.

    options: more of `serve`. uplinks: of places, bytes/s.
    """

    def __init__(
        self,
        model: str,
        spans: Sequence[Span],
        directory: Path,
        ways: Mapping[tuple[int, int], Way],
        *,
        slow: Mapping[int, float] | None = None,
        uplinks: Mapping[int, float] | None = None,
        options: Sequence[str] = (),
        threads: int = 1,
    ) -> None:
        super().__init__(model, spans, directory, threads=threads)
        self._hidden = free_ports(len(spans))
        self._slow = dict(slow or {})
        self._more = tuple(options)
        self._ways, self._uplinks = dict(ways), dict(uplinks or {})
        self.links: Links | None = None

    def _where(self, node: LocalNode) -> tuple[str, ...]:
        public = f"{HOST}:{node.address.port}"
        hidden = f"{HOST}:{self._hidden[node.index]}"
        return ("--listen", hidden, "--announce", public, *self._more)

    @asynccontextmanager
    async def far_apart(self) -> AsyncIterator["LabSwarm"]:
        """`running`, behind links."""
        self.links = await self._make_links()
        watching = asyncio.create_task(self._learn_pids(self.links))
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
            await asyncio.gather(watching, return_exceptions=True)
            await self._leave_links()

    async def lay(
        self,
        ways: Mapping[tuple[int, int], Way],
        uplinks: Mapping[int, float] | None = None,
        seed: int | None = None,
    ) -> Carried:
        """From now on these are the ways; what was carried until now."""
        assert self.links is not None
        orders = Orders(ways=dict(ways), uplinks=dict(uplinks or {}), seed=seed)
        return await self.links.tell(orders)

    async def _make_links(self) -> Links:
        links = await Links.open("benchmarks.linklab.proxy")
        doors = tuple(
            (node.index, node.address.port, self._hidden[node.index]) for node in self.nodes
        )
        await links.tell(Orders(ways=self._ways, uplinks=self._uplinks, stand_before=doors))
        return links

    async def _leave_links(self) -> None:
        assert self.links is not None
        await self.links.aclose()

    async def _learn_pids(self, links: Links) -> None:
        known: set[int] = set()
        while True:
            living = (node for node in self.nodes if node.process is not None)
            pids = {node.process.pid: node.index for node in living if node.process is not None}
            if new := {pid: place for pid, place in pids.items() if pid not in known}:
                await links.tell(Orders(pids=new))
                known |= set(new)
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


async def known(client: Client) -> tuple[Announcement, ...]:
    """Who serves; nobody where the machine is too busy to say so in time."""
    try:
        return (await client.directory()).live()
    except PeerError:
        return ()


async def met(client: Client, n_nodes: int, timeout_s: float = 180.0) -> None:
    """Wait until every node has measured its way to all others.

    Raises:
        TimeoutError: they did not.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            live = await known(client)
            if len(live) == n_nodes and all(len(peer.links) == n_nodes - 1 for peer in live):
                return
            await asyncio.sleep(0.5)
