"""Many nodes that join within seconds, each of which can do only so much in a second."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from node.gossip import Gossip
from node.partners import KEPT
from node.pressure import MAX_PATIENCE, MOST, Pressure
from protocol.announcement_table import AnnouncementTable
from protocol.gossip_rules import METHOD
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import Faults, MemoryNetwork
from tests.announcing import NOW_MS, announce, key_of
from tests.gossiping import identity_of
from tests.virtual_time import VirtualLoop, run_in_virtual_time

CALL_S = 0.02  # what answering a call takes, one after the other


@dataclass
class Crowd:
    """Nodes that gossip, of which each answers at most 50 calls a second."""

    loop: VirtualLoop
    n_nodes: int
    gossips: list[Gossip] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    asked: Counter[int] = field(default_factory=Counter)

    def now_ms(self):
        return NOW_MS + round(self.loop.time() * 1000)

    async def join(self, over_s, n_introducing):
        network = MemoryNetwork(seed=7, faults=Faults(delay_s=(0.005, 0.005)))
        join = []
        for n in range(self.n_nodes):
            transport = network.transport(identity_of(n), OPEN_SWARM_ID)
            listener = await transport.listen("127.0.0.1", 0, self.service(n))
            addresses = tuple(listener.addresses)

            def draft(n=n, addresses=addresses):
                return announce(n, addresses=addresses, sequence=0, issued_ms=0, expires_ms=0)

            gossip = Gossip(
                AnnouncementTable(OPEN_SWARM_ID), transport, key_of(n), draft,
                join=join, now_ms=self.now_ms, now_s=self.loop.time, rng=random.Random(f"0/{n}"),
            )  # fmt: skip
            if n < n_introducing:
                join = [*join, *addresses]
            self.gossips.append(gossip)
            self.tasks.append(asyncio.create_task(gossip.run()))
            await asyncio.sleep(over_s / self.n_nodes)

    def service(self, n):
        one_at_a_time = asyncio.Lock()

        async def handle(peer_id, message):
            async with one_at_a_time:
                await asyncio.sleep(CALL_S)
            self.asked[n] += 1
            return await self.gossips[n].handle(peer_id, message)

        return Service(calls={METHOD: handle})

    def agrees(self):
        return all(len(each.table.live(self.now_ms())) == self.n_nodes for each in self.gossips)

    async def aclose(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def join_and_agree(loop, n_nodes, *, over_s, n_introducing=2, limit_s=60):
    """How long after the last one joined all saw all."""
    crowd = Crowd(loop, n_nodes)
    await crowd.join(over_s, n_introducing)
    joined_s = loop.time()
    while not crowd.agrees() and loop.time() < joined_s + limit_s:  # noqa: ASYNC110 (no event)
        await asyncio.sleep(0.25)
    agreed_s = loop.time() - joined_s
    await crowd.aclose()
    return agreed_s


async def join_and_rest(loop, n_nodes, *, over_s, n_introducing=2):
    """How often each is asked in half a minute, when all have long joined."""
    crowd = Crowd(loop, n_nodes)
    await crowd.join(over_s, n_introducing)
    await asyncio.sleep(5)
    crowd.asked.clear()
    await asyncio.sleep(30)
    await crowd.aclose()
    return crowd.asked


@pytest.mark.slow
def test_two_hundred_who_join_by_the_same_two_see_each_other_within_ten_seconds():
    assert run_in_virtual_time(lambda loop: join_and_agree(loop, 200, over_s=20)) <= 10


def test_thirty_who_join_by_the_same_two_ask_those_no_more_than_others_afterwards():
    asked = run_in_virtual_time(lambda loop: join_and_rest(loop, 30, over_s=5))

    mean, of_two = asked.total() / len(asked), (asked[0] + asked[1]) / 2
    assert of_two <= 2.5 * mean


def test_silence_halves_what_is_under_way_and_answers_raise_it_again():
    pressure = Pressure()
    assert pressure.n_at_once == MOST == KEPT

    pressure.silent()
    assert (pressure.n_at_once, pressure.patience) == (3, 1.0), "one silent peer may be gone"
    for _ in range(10):
        pressure.silent()
    assert (pressure.n_at_once, pressure.patience) == (1, MAX_PATIENCE)
    for _ in range(30):
        pressure.answered()

    assert (pressure.n_at_once, pressure.patience) == (KEPT, 1.0)
