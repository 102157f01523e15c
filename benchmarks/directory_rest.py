"""What gossip costs a node when nothing happens: many real loops in one process, in virtual time.

Nodes are begun in the middle of a swarm's life: all know all, records and heartbeats are of all
ages. Then they run as they do in production, over the transport inside one process, with 20 ms on
the way.
"""

import asyncio
import copy
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

from node.gossip import Gossip, GossipTiming
from node.pace import pace_of
from node.partners import KEPT
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.anti_entropy import Record
from protocol.gossip_rules import METHOD
from protocol.identity import Identity
from protocol.measured import Measured
from protocol.path import Path
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import Faults, MemoryConnection, MemoryNetwork, MemoryTransport
from tests.announcing import NOW_MS, announce, key_of, peer_of, record
from tests.virtual_time import VirtualLoop, run_in_virtual_time

WARM_UP_S = 40.0
WAY_S = 0.02
OFFER = random.Random(1).randbytes(350)  # the size of a real one
SEGMENT_BYTES, SEGMENTS = 52, 4  # TCP/IP headers with time stamps; a call, its answer, two receipts


@dataclass(slots=True)
class Traffic:
    """Of one node, in both directions."""

    n_bytes: int = 0
    n_calls: int = 0
    n_dials: int = 0


@dataclass(frozen=True, slots=True)
class Wire:
    """What a real connection adds to messages."""

    call_bytes: float
    dial_bytes: float
    idle_bytes_per_s: float


@dataclass(slots=True)
class Rest:
    bytes_per_s: float
    most_bytes_per_s: float
    calls_per_s: float
    dials_per_s: float
    n_blind: int
    lifetime_s: float
    measured_s: float
    cpu_s: float

    def wire_bytes_per_s(self, wire: Wire) -> float:
        pings = 2 * KEPT * wire.idle_bytes_per_s  # those it opened, and those opened to it
        extra = self.calls_per_s * wire.call_bytes + self.dials_per_s * wire.dial_bytes
        return self.bytes_per_s + extra + pings


class CountingTransport(MemoryTransport):
    """Counts what its node sends and receives, as caller and as called."""

    def __init__(self, network: MemoryNetwork, plain: MemoryTransport) -> None:
        super().__init__(network, plain.peer_id, plain.greeting)
        self.traffic = Traffic()

    async def dial(self, address: Address, *, timeout_s: float = 5.0) -> Any:
        connection = await super().dial(address, timeout_s=timeout_s)
        self.traffic.n_dials += 1
        return CountingConnection(connection, self.traffic)

    def counted(self, gossip: Gossip) -> Service:
        async def handle(peer_id: Any, message: bytes) -> bytes:
            reply = await gossip.handle(peer_id, message)
            self.traffic.n_calls += 1
            self.traffic.n_bytes += len(message) + len(reply)
            return reply

        return Service(calls={METHOD: handle})


@dataclass(slots=True, eq=False, weakref_slot=True)
class CountingConnection:
    connection: MemoryConnection
    traffic: Traffic
    path: Path = Path.DIRECT

    @property
    def peer_id(self) -> Any:
        return self.connection.peer_id

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        reply = await self.connection.call(method, request, timeout_s=timeout_s)
        self.traffic.n_calls += 1
        self.traffic.n_bytes += len(request) + len(reply)
        return reply

    async def aclose(self) -> None:
        await self.connection.aclose()


@dataclass(slots=True)
class RestingSwarm:
    """All nodes, before they run."""

    n_nodes: int
    loop: VirtualLoop
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    nodes: list[Gossip] = field(default_factory=list)
    transports: list[CountingTransport] = field(default_factory=list)

    def now_ms(self) -> int:
        return NOW_MS + round(self.loop.time() * 1000)

    async def start(self, network: MemoryNetwork) -> None:
        n, pace = self.n_nodes, pace_of(self.n_nodes, GossipTiming())
        crowd = AnnouncementTable(OPEN_SWARM_ID)  # something of the right size to set the pace by
        early_ms = NOW_MS - round(pace.record_s * 1000)
        for i in range(n):
            stamp = {"sequence": early_ms, "issued_ms": early_ms, "expires_ms": early_ms + 10_000}
            crowd.merge(record(i, **stamp), sender="", now_ms=early_ms)
        told: list[tuple[int, Record]] = []
        for i in range(n):
            plain = network.transport(Identity(key_of(i)), OPEN_SWARM_ID)
            transport = CountingTransport(network, plain)
            own = AnnouncementTable(OPEN_SWARM_ID)
            clone(crowd, own)
            listening: list[Address] = []

            def draft(i: int = i, listening: list[Address] = listening) -> Any:
                return typical(i, listening)

            gossip = Gossip(
                own, transport, key_of(i), draft,
                now_ms=self.now_ms, now_s=self.loop.time, rng=random.Random(i),
            )  # fmt: skip
            listener = await transport.listen("127.0.0.1", 0, transport.counted(gossip))
            listening += listener.addresses
            self.nodes.append(gossip)
            self.transports.append(transport)
            told.append(self._live_until_now(gossip, pace.record_s, i))
        whole = AnnouncementTable(OPEN_SWARM_ID)
        for learned_ms, each in sorted(told):
            whole.merge(each, sender="", now_ms=learned_ms)
        assert len(whole.live(NOW_MS)) == n
        for gossip in self.nodes:
            clone(whole, gossip.table)

    def _live_until_now(self, gossip: Gossip, record_s: float, i: int) -> tuple[int, Record]:
        """Have a node announce some time ago and beat since; when others heard that, and what."""
        age_s = self.rng.uniform(0, record_s)
        for peer in self.rng.sample(range(self.n_nodes), 20):
            gossip.links.learn(peer_of(peer), self.rng.uniform(0.01, 0.2), at_s=-age_s)
        announcer = gossip._announcer  # a benchmark's privilege: it begins in the middle
        announcer.publish(gossip._draft(), now_s=-age_s, now_ms=NOW_MS - round(age_s * 1000))
        beat_s = pace_of(self.n_nodes, GossipTiming()).beat_s
        for n in range(1, int(age_s / beat_s) + 1):  # who slept would begin anew
            now_s = n * beat_s - age_s
            announcer.speak_when_due(now_s=now_s, now_ms=NOW_MS + round(now_s * 1000))
        entry = next(gossip.table.learned_since(0))
        beat, beats = entry.version.beat, entry.announcement.heartbeats
        assert beats is not None
        spoke_ms = NOW_MS - round(age_s * 1000) + beat * beats.interval_ms
        link = entry.link if beat else b""
        return spoke_ms, Record(entry.announcement.lifetime_ms, entry.data, beat, link)


def typical(i: int, addresses: list[Address]) -> Any:
    """An announcement of the size that nodes make: an offer, measurements; links are added."""
    measured = Measured(
        decode_steps_us=((1, 9000), (4, 11000), (16, 20000)),
        up_bytes_per_s=10**7,
        down_bytes_per_s=10**8,
        capacity_blocks=24,
        since_ms=NOW_MS,
    )
    plain = announce(i, addresses=tuple(addresses), sequence=0, issued_ms=0, expires_ms=0)
    return replace(
        plain, offer=OFFER, measured=measured, region="eu-west", software="manyhands/0.1"
    )


def clone(source: AnnouncementTable, target: AnnouncementTable) -> None:
    """As if `target` had merged the same: checking a million signatures would take minutes."""
    target.entries = {key: copy.copy(entry) for key, entry in source.entries.items()}
    target._recent = source._recent.copy()
    target._by_id = source._by_id.copy()
    target._serving, target._next_ms = source._serving, source._next_ms
    target.ranges._keys = source.ranges._keys.copy()
    target.ranges._marks = source.ranges._marks.copy()


def measure_rest(n_nodes: int, seconds: float) -> Rest:
    # Tests, whose clock this is, are not typed.
    return run_in_virtual_time(lambda loop: _measure_rest(n_nodes, seconds, loop))  # type: ignore[no-any-return]


async def _measure_rest(n_nodes: int, seconds: float, loop: VirtualLoop) -> Rest:
    network = MemoryNetwork(7, faults=Faults(delay_s=(WAY_S, WAY_S)))
    swarm = RestingSwarm(n_nodes, loop)
    await swarm.start(network)
    running = []
    for gossip in swarm.nodes:
        running.append(asyncio.create_task(gossip.run()))
        await asyncio.sleep(3.0 / n_nodes)
    await asyncio.sleep(WARM_UP_S)
    for transport in swarm.transports:
        transport.traffic.n_bytes = transport.traffic.n_calls = transport.traffic.n_dials = 0
    began_s = time.process_time()
    await asyncio.sleep(seconds)
    cpu_s = time.process_time() - began_s
    traffic = [transport.traffic for transport in swarm.transports]
    n_blind = sum(len(each.table.live(swarm.now_ms())) != n_nodes for each in swarm.nodes)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return Rest(
        bytes_per_s=sum(each.n_bytes for each in traffic) / n_nodes / seconds,
        most_bytes_per_s=max(each.n_bytes for each in traffic) / seconds,
        calls_per_s=sum(each.n_calls for each in traffic) / n_nodes / seconds,
        dials_per_s=2 * sum(each.n_dials for each in traffic) / n_nodes / seconds,
        n_blind=n_blind,
        lifetime_s=pace_of(n_nodes, GossipTiming()).lifetime_s,
        measured_s=seconds,
        cpu_s=cpu_s,
    )


# --- what the wire adds --------------------------------------------------------------------------


async def measure_wire(n_calls: int = 200, idle_s: float = 45.0) -> Wire:
    """Bytes of one real connection, counted by a relay between its ends; TCP/IP headers added."""
    counted = 0

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal counted
        while data := await reader.read(65536):
            counted += len(data)
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", listener.addresses[0].port)
        await asyncio.gather(pump(reader, onward[1]), pump(onward[0], writer))

    async def echo(peer_id: Any, message: bytes) -> bytes:
        return message

    called = GrpcTransport(Identity(key_of(1)), OPEN_SWARM_ID)
    caller = GrpcTransport(Identity(key_of(2)), OPEN_SWARM_ID)
    listener = await called.listen("127.0.0.1", 0, Service(calls={METHOD: echo}))
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        connection = await caller.dial(Address("127.0.0.1", port, called.peer_id))
        await asyncio.sleep(0.2)
        dial_bytes = counted + 10 * SEGMENT_BYTES
        counted = 0
        for _ in range(n_calls):
            await connection.call(METHOD, bytes(300), timeout_s=5)
        call_bytes = counted / n_calls - 600 + SEGMENTS * SEGMENT_BYTES
        await asyncio.sleep(1.0)
        counted = 0
        await asyncio.sleep(idle_s)
        # 17 bytes of frame and 22 of TLS a ping or its answer; four segments with the receipts.
        n_pings = counted / 2 / 39
        idle_bytes_per_s = (counted + n_pings * SEGMENTS * SEGMENT_BYTES) / idle_s
        await connection.aclose()
        await listener.aclose(grace_s=0)
    return Wire(call_bytes, dial_bytes, idle_bytes_per_s)
