"""A swarm that gossips, for tests: tables behind listeners, with or without the node's loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from node.gossip import Gossip, GossipTiming
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.gossip_rules import METHOD, answer
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Listener, Service, Transport
from tests.announcing import announce, key_of, peer_of


def identity_of(n: int) -> Identity:
    return Identity(key_of(n))


async def until(holds: Callable[[], bool], *, timeout_s: float) -> float:
    """Wait until `holds()`; how long that took."""
    began_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 (what holds is a table's, which has no event)
            await asyncio.sleep(0.01)
    return time.monotonic() - began_s


@dataclass(slots=True)
class GossipNode:
    """A node that does nothing but gossip."""

    n: int
    gossip: Gossip
    listener: Listener
    span: tuple[int, int] = (0, 8)
    task: asyncio.Task[None] | None = None

    @property
    def address(self) -> Address:
        return self.listener.addresses[0]

    def sees(self) -> set[PeerId]:
        return {peer.peer_id for peer in self.gossip.table.live(wall_ms())}

    async def crash(self) -> None:
        """End without a word."""
        if await self._stop():
            await self.gossip.aclose()
            await self.listener.aclose(grace_s=0)

    async def leave(self) -> None:
        if await self._stop():
            await self.gossip.leave()
            await self.listener.aclose(grace_s=0)

    async def _stop(self) -> bool:
        if self.task is None:
            return False
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        self.task = None
        return True


@dataclass(slots=True)
class GossipSwarm:
    """Starts nodes, and ends those that are left."""

    transport: Callable[[int], Transport]
    nodes: list[GossipNode] = field(default_factory=list)

    async def start(self, n: int, *join: Address, port: int = 0, **options: Any) -> GossipNode:
        transport = self.transport(n)
        options.setdefault("timing", GossipTiming(interval_s=0.25))

        def draft() -> Any:
            addresses = node.listener.addresses
            return announce(
                n, node.span, addresses=addresses, sequence=0, issued_ms=0, expires_ms=0
            )

        table = AnnouncementTable(OPEN_SWARM_ID)
        gossip = Gossip(table, transport, key_of(n), draft, join=join, **options)
        service = Service(calls={METHOD: gossip.handle})
        node = GossipNode(n, gossip, await transport.listen("127.0.0.1", port, service))
        node.task = asyncio.create_task(gossip.run())
        self.nodes.append(node)
        return node

    def agree(self) -> bool:
        """Whether all running nodes see all running nodes, and nobody else."""
        running = [node for node in self.nodes if node.task is not None]
        everybody = {peer_of(node.n) for node in running}
        return all(node.sees() == everybody for node in running)

    async def aclose(self) -> None:
        await asyncio.gather(*(node.crash() for node in self.nodes))


@asynccontextmanager
async def serve_table(
    transport: Transport, table: AnnouncementTable
) -> AsyncIterator[tuple[Listener, list[PeerId]]]:
    """A listener that answers from `table`, and the list of those who asked."""
    asked: list[PeerId] = []

    async def handle(peer_id: PeerId, message: bytes) -> bytes:
        asked.append(peer_id)
        return answer(table, message, sender=peer_id, now_ms=wall_ms()).reply

    listener = await transport.listen("127.0.0.1", 0, Service(calls={METHOD: handle}))
    try:
        yield listener, asked
    finally:
        await listener.aclose(grace_s=0)
