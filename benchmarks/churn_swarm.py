"""The swarm that `churn.py` shakes: nodes of one process that join, leave, or are cut off.

In: a checkpoint, a directory for homes, a seeded die. Out: real nodes over real sockets, each with
an engine of its own; what their process holds, among it node objects that nobody needs any more.

Loading a span freezes what there is, which in a process of its own is there for good; among others
it would keep all those from being collected that end later. So here it is undone each time.
"""

import asyncio
import gc
import os
import random
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from chaos_swarm import resident_bytes
from heap import Heap

from node.engine import ShardEngine, load_shard, release_memory
from node.node import Node
from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from scheduler import Client
from tests.local_swarm import LocalNode, Swarm

N_JOIN_BY = 3


class MortalTransport(GrpcTransport):
    """May be cut off in a moment, as the kernel does it for a process that is killed."""

    is_dead = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._open: list[Any] = []

    async def listen(self, host: str, port: int, service: Service) -> Any:
        listener = await super().listen(host, port, service)
        self._open += (listener._stop, _cancelling(listener._watching))
        return listener

    def _connect(self, address: Address) -> Any:
        if self.is_dead:
            raise PeerUnreachable(address.peer_id, "we are dead")
        connection = super()._connect(address)
        self._open = [end for end in self._open if not _is_closed(end)]
        self._open.append(connection._channel.close)
        return connection

    async def die(self) -> None:
        """No goodbyes: neither of streams nor of the node."""
        self.is_dead = True
        await asyncio.gather(*(end() for end in self._open), return_exceptions=True)


def _cancelling(task: Any) -> Any:
    async def cancel() -> None:
        task.cancel()

    return cancel


def _is_closed(end: Any) -> bool:
    channel = getattr(end, "__self__", None)
    return bool(getattr(getattr(channel, "_channel", None), "closed", lambda: False)())


class ChurningSwarm(Swarm):
    """Whoever joins loads its own span, and knows a few nodes that are up."""

    def __init__(self, directory: Path, home: Path, die: random.Random) -> None:
        self.transports: dict[str, MortalTransport] = {}
        self.die = die
        self.clients: list[Client] = []
        self.ever: weakref.WeakSet[Node] = weakref.WeakSet()  # all that are still in memory

        def mortal(identity: Any) -> MortalTransport:
            return self.transports.setdefault(
                identity.peer_id, MortalTransport(identity, OPEN_SWARM_ID)
            )

        super().__init__(directory, home, mortal)

    def introductions(self) -> tuple[Address, ...]:
        known = self.die.sample(self.nodes, min(N_JOIN_BY, len(self.nodes)))
        return tuple(node.address for node in known)

    async def engine(self, span: Span) -> ShardEngine:
        engine = await asyncio.to_thread(load_shard, self.directory, span, dtype="float32")
        gc.unfreeze()
        return engine

    @asynccontextmanager
    async def client(self, name: str = "client", *, seed: int = 1) -> AsyncIterator[Client]:
        async with super().client(name, seed=seed) as client:
            self.clients.append(client)
            yield client

    async def start(self, *spans: tuple[int, int], **more: Any) -> list[LocalNode]:
        started = await super().start(*spans, **more)
        self.ever.update(local.node for local in started)
        return started

    async def lose(self, local: LocalNode, *, is_kill: bool) -> None:
        """It is gone when this returns; what is left of a killed one is tidied up unseen."""
        self.nodes.remove(local)
        transport = self.transports.pop(local.node.peer_id)
        if is_kill:
            await transport.die()
        local.stop.set()
        assert local.task is not None
        with suppress(Exception if is_kill else ()):  # a dead node's own troubles are no matter
            await local.task


@dataclass(frozen=True, slots=True)
class Held:
    """By this process, at rest."""

    nodes: int  # objects, whether anybody needs them or not
    links: int  # between neighbours in a chain
    gossip: int  # connections that gossip keeps; each has both its ends here
    asking: int  # connections that clients keep to nodes that are up
    unnamed: int  # connections to these besides, by the process's sockets
    kept_mb: float  # on purpose: beginnings of prompts, and what answers are audited by
    tasks: int
    files: int
    threads: int
    in_use_mb: float  # of the C library's heap, connections and weights among it
    gaps_mb: float  # of that heap: freed by whoever left, and resident still
    resident_mb: float  # besides what is kept on purpose

    @property
    def connections(self) -> int:
        return self.links + self.gossip + self.asking


def held(swarm: ChurningSwarm) -> Held:
    gc.unfreeze()
    gc.collect()
    release_memory()  # or the heap's gaps would be counted, too
    links = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ == "_Link._run"]
    up: Sequence[Node] = [local.node for local in swarm.nodes]
    gossip = sum(len(node.gossip._partners._connections) for node in up)
    asking = sum(node.peer_id in c._connections._open for node in up for c in swarm.clients)
    told = [node.serving.status() for node in up]
    kept_mb = sum(each["retained_bytes"] + each["audit_bytes"] for each in told) / 1e6
    heap = Heap.now()
    return Held(
        nodes=len(swarm.ever),
        links=len(links),
        gossip=gossip,
        asking=asking,
        unnamed=_open_to(up) - len(links) - gossip - asking,
        kept_mb=kept_mb,
        tasks=len(asyncio.all_tasks()),
        files=len(os.listdir("/proc/self/fd")),
        threads=len(os.listdir("/proc/self/task")),
        in_use_mb=heap.in_use_bytes / 1e6,
        gaps_mb=heap.gap_bytes / 1e6,
        resident_mb=resident_bytes(os.getpid()) / 1e6 - kept_mb,
    )


def _open_to(nodes: Sequence[Node]) -> int:
    """Connections that stand, counted at the ends that were dialled."""
    ports = {address.port for node in nodes for address in node.addresses}
    told = psutil.Process().net_connections("tcp")
    return sum(each.status == "ESTABLISHED" and each.laddr.port in ports for each in told)
