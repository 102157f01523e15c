"""Peers that come and go all the time, and how soon all others know: gossip alone, at production
pace, in virtual time. What machines that are short of time add is `benchmarks/churn.py`'s affair.
"""

import asyncio
import random
from dataclasses import dataclass, field

from node.gossip import GossipTiming
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from tests.announcing import NOW_MS, peer_of
from tests.gossiping import GossipNode, GossipSwarm, identity_of
from tests.virtual_time import VirtualLoop, run_in_virtual_time

TIMING = GossipTiming()
WAY_S = (0.005, 0.03)  # of a request, and of its answer
LOOK_S, N_JOIN_BY = 0.1, 3
HEARD_S = 5 * TIMING.interval_s  # a few rounds
GONE_S = TIMING.lifetime_s + 0.5  # of who said no goodbye


@dataclass
class Change:
    kind: str
    n: int
    at_s: float
    waiting: list[GossipNode]
    took_s: float | None = None


@dataclass
class Churn:
    """A swarm in which one peer leaves and another comes every so often."""

    loop: VirtualLoop
    up: list[GossipNode] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    n_started: int = 0

    def __post_init__(self):
        self.die = random.Random(7)
        self.network = MemoryNetwork(seed=7, faults=Faults(delay_s=WAY_S))
        self.swarm = GossipSwarm(lambda n: self.network.transport(identity_of(n), OPEN_SWARM_ID))

    def now_ms(self):
        return NOW_MS + round(self.loop.time() * 1000)

    async def start(self):
        join = self.die.sample(self.up, min(N_JOIN_BY, len(self.up)))
        n, self.n_started = self.n_started, self.n_started + 1
        node = await self.swarm.start(
            n,
            *(other.address for other in join),
            timing=TIMING,
            now_ms=self.now_ms,
            now_s=self.loop.time,
            rng=random.Random(n),
        )
        self.up.append(node)
        return node

    async def replace(self, kind):
        leaver = self.die.choice(self.up)
        self.up.remove(leaver)
        if kind == "killed":
            self.network.kill(peer_of(leaver.n))
            await leaver.crash()
        else:
            await leaver.leave()
        self.note(kind, leaver.n)
        joiner = await self.start()
        self.note("joined", joiner.n)

    def note(self, kind, n):
        self.changes.append(Change(kind, n, self.loop.time(), [x for x in self.up if x.n != n]))

    async def watch(self):
        while True:
            await asyncio.sleep(LOOK_S)
            now_ms, up = self.now_ms(), {node.n for node in self.up}
            for change in self.changes:
                if change.took_s is not None:
                    continue
                change.waiting = [
                    node
                    for node in change.waiting
                    if node.n in up
                    and (node.gossip.table.get(peer_of(change.n), now_ms) is None)
                    == (change.kind == "joined")
                ]
                if not change.waiting:
                    change.took_s = self.loop.time() - change.at_s


async def churn(loop, n_nodes, *, every_s, n_changes):
    """The slowest of each kind: how long until all had heard. None never has."""
    life = Churn(loop)
    for _ in range(n_nodes):
        await life.start()
        await asyncio.sleep(0.2)
    await asyncio.sleep(10)
    watching = asyncio.create_task(life.watch())
    for turn in range(n_changes):
        await life.replace("killed" if turn % 2 else "goodbye")
        await asyncio.sleep(every_s)
    await asyncio.sleep(GONE_S)
    watching.cancel()
    up = {node.n for node in life.up}
    await life.swarm.aclose()
    took = {}
    for change in life.changes:
        if change.kind == "joined" and change.n not in up:  # it left again, perhaps before all knew
            continue
        assert change.took_s is not None, change
        took[change.kind] = max(took.get(change.kind, 0.0), change.took_s)
    return took


def assert_heard(took):
    assert took["joined"] <= HEARD_S
    assert took["goodbye"] <= HEARD_S
    assert 15 < took["killed"] <= GONE_S, "at its expiry, and not before anybody could know"


def test_who_comes_and_who_says_goodbye_is_known_to_all_within_a_few_rounds():
    assert_heard(run_in_virtual_time(lambda loop: churn(loop, 10, every_s=3.0, n_changes=4)))
