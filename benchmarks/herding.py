"""How evenly clients that know nothing of each other spread over chains that are alike.

64 clients, each with a table and a connection pool of its own, look for a route among four equal
chains of two hops: all at once, or over ten seconds. The finder, the directory and what it says to
peers are the real ones, over a network in memory with some delay; the peers answer gossip and the
question for their load as nodes do, and count sessions instead of running them. Their records are
published once: as stale as tables get. Beside it the same clients without the question.
Goals: the busiest chain <= 1.5 times the mean at once, <= 1.25 over ten seconds, in the median
of the seeds. Run: python benchmarks/herding.py [--seeds 20]
"""

import argparse
import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack

import common

from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement, Link
from protocol.chain_actions import FindRoute
from protocol.clock import wall_ms
from protocol.gossip_rules import METHOD as GOSSIP
from protocol.gossip_rules import answer
from protocol.load import METHOD as LOAD
from protocol.load import Load
from protocol.measured import State
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler.chain import Connections
from scheduler.directory import Directory, fetch_directory
from scheduler.finder import RouteFinder
from scheduler.request import GenerationRequest
from tests.announcing import MANIFEST, announce, peer_of, record
from tests.gossiping import identity_of

N_CLIENTS, N_CHAINS = 64, 4
RESERVE_S = 0.03  # between a choice and its first session in the peer's count
DELAY_S = (0.003, 0.008)  # of a message


class CountingPeer:
    """One hop's host: it answers what clients ask before they choose, and counts who came."""

    def __init__(self, n: int, table: AnnouncementTable) -> None:
        self.n, self.table, self.n_sessions, self.n_asked = n, table, 0, 0

    def service(self) -> Service:
        return Service(calls={GOSSIP: self._gossip, LOAD: self._load})

    async def _gossip(self, peer: str, message: bytes) -> bytes:
        return answer(self.table, message, sender=peer, now_ms=wall_ms()).reply

    async def _load(self, peer: str, message: bytes) -> bytes:
        self.n_asked += 1
        return Load(
            n_sessions=self.n_sessions,
            queue_us=0,
            kv_free_bytes=1 << 30,
            state=State.SERVING,
            ticket=self.n_asked,
        ).encode()


def announced(chain: int, hop: int, rng: random.Random) -> Announcement:
    """Hops of a chain are near, chains are far from each other; speeds differ by up to 1 %."""
    n = 2 * chain + hop
    links = tuple(
        Link(peer_of(other), 1_000 if other // 2 == chain else 60_000)
        for other in range(2 * N_CHAINS)
        if other != n
    )
    decode_us = round(20_000 * rng.uniform(1.0, 1.01))
    return announce(n, (4 * hop, 4 * hop + 4), links=links, decode_us=decode_us)


async def busiest(seed: int, over_s: float, *, asks: bool) -> float:
    """The sessions of the busiest chain, in means."""
    rng = random.Random(seed)
    network, table = MemoryNetwork(faults=Faults(delay_s=DELAY_S)), AnnouncementTable(OPEN_SWARM_ID)
    peers = [CountingPeer(n, table) for n in range(2 * N_CHAINS)]
    async with AsyncExitStack() as stack:
        for peer in peers:
            transport = network.transport(identity_of(peer.n), OPEN_SWARM_ID)
            listener = await transport.listen(f"10.1.0.{peer.n + 1}", 31_400, peer.service())
            stack.push_async_callback(listener.aclose)
            now_ms = wall_ms()
            told = announced(peer.n // 2, peer.n % 2, rng)
            stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 60_000}
            fields = {"links": told.links, "decode_us": told.decode_us, **stamp}
            span = (told.span.start, told.span.stop) if told.span else None
            fresh = record(peer.n, span, addresses=listener.addresses, ttl_ms=60_000, **fields)
            table.merge(fresh, sender="", now_ms=now_ms)
            join = listener.addresses
        clients = [
            _client(network, join, 1_000 + i, rng.getrandbits(32), rng.uniform(0, over_s), asks)
            for i in range(N_CLIENTS)
        ]
        chosen = await asyncio.gather(*(_came(client, peers) for client in clients))
    count = Counter(chosen)
    return max(count.values()) / (N_CLIENTS / N_CHAINS)


async def _client(
    network: MemoryNetwork, join: Sequence, n: int, seed: int, wait_s: float, asks: bool
) -> list[str]:
    """The peers it goes to."""
    transport = network.transport(identity_of(n), OPEN_SWARM_ID)
    directory = Directory(AnnouncementTable(OPEN_SWARM_ID))
    await fetch_directory(transport, join, directory)
    await asyncio.sleep(wait_s)
    connections = Connections(transport)
    finder = RouteFinder(
        GenerationRequest(manifest=MANIFEST, n_blocks=8, prompt_ids=(1,), max_tokens=64),
        transport,
        directory,
        join,
        random.Random(seed),
        connections=connections if asks else None,
    )
    seats = await finder.find(FindRoute(0, (Span(0, 8),), (), {}), time.monotonic() + 60)
    await connections.aclose()
    return [seat.peer for seat in seats]


async def _came(client, peers: Sequence[CountingPeer]) -> int:
    """Its sessions begin a moment after it chose; the chain that got the first hop."""
    went = await client
    await asyncio.sleep(RESERVE_S)
    for peer in peers:
        peer.n_sessions += peer_of(peer.n) in went
    return next(peer.n // 2 for peer in peers if peer_of(peer.n) == went[0])


async def main(n_seeds: int) -> None:
    rows = []
    for name, over_s, goal, seeds in (
        ("at once", 0.0, 1.5, n_seeds),
        ("over 10 s", 10.0, 1.25, max(3, n_seeds // 5)),
    ):
        for asks in (True, False):
            found = sorted([await busiest(seed, over_s, asks=asks) for seed in range(seeds)])
            rows.append(
                (
                    name,
                    "yes" if asks else "no",
                    str(seeds),
                    f"{statistics.median(found):.2f}",
                    f"{found[-1]:.2f}",
                    f"<= {goal}" if asks else "-",
                )
            )
    print(f"\n{common.machine()}; {N_CLIENTS} clients, {N_CHAINS} equal chains\n")
    common.table(("they come", "peers asked", "seeds", "busiest / mean", "worst", "goal"), rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    asyncio.run(main(parser.parse_args().seeds))
