"""By whom to join: all of them soon, and those that are gone less and less often."""

import asyncio
import random
from itertools import pairwise

import pytest

from node.introductions import Introductions
from node.pace import GossipTiming
from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork, MemoryTransport
from tests.announcing import NOW_MS, peer_of
from tests.gossiping import GossipSwarm, identity_of
from tests.virtual_time import run_in_virtual_time

TIMING = GossipTiming()


def address_of(n):
    return Address("127.0.0.1", 40_000 + n, peer_of(n))


@pytest.fixture
def introductions():
    return Introductions([address_of(n) for n in (1, 2, 3)], TIMING, random.Random(7))


def due(introductions, now_s, *, is_alone, wanted=(1, 2, 3)):
    peers = {peer_of(n) for n in wanted}
    return introductions.due(lambda peer: peer in peers, now_s, is_alone=is_alone)


def test_who_knows_nobody_asks_one_after_the_other_and_then_all_again(introductions):
    asked = []
    for _ in range(3):
        [address] = due(introductions, 0.0, is_alone=True)
        asked.append(address)
        introductions.failed(address.peer_id, 0.0, is_alone=True)

    assert set(asked) == {address_of(n) for n in (1, 2, 3)}
    assert set(due(introductions, 1.0, is_alone=True)) == set(asked)


def test_who_knows_others_asks_all_it_does_not_know_and_waits_longer_each_time_it_is_in_vain(
    introductions,
):
    assert due(introductions, 0.0, is_alone=False, wanted=(2,)) == [address_of(2)]
    asked_s, now_s = [], 0.0
    while now_s < 600:
        if due(introductions, now_s, is_alone=False, wanted=(2,)):
            asked_s.append(now_s)
            introductions.failed(peer_of(2), now_s, is_alone=False)
        now_s += 0.5

    rests_s = [later - earlier for earlier, later in pairwise(asked_s)]
    assert rests_s[0] == pytest.approx(TIMING.shun_s, rel=0.3)
    assert all(rest == pytest.approx(TIMING.lifetime_s / 2, rel=0.3) for rest in rests_s[2:])

    introductions.answered(peer_of(2))
    assert due(introductions, now_s, is_alone=False, wanted=(2,)) == [address_of(2)]


def test_the_operator_is_warned_of_addresses_to_join_by_alone(introductions, caplog):
    error = PeerUnreachable(peer_of(2), "nobody answers")
    for now_s in (0.0, 1.0, TIMING.warn_every_s + 1):
        introductions.warn([address_of(2), address_of(9)], error, now_s)

    assert [record.address for record in caplog.records] == [str(address_of(2))] * 2


def test_peers_that_are_gone_for_good_cost_those_they_introduced_next_to_nothing():
    async def life(loop):
        network = MemoryNetwork(seed=7)
        dialled = []

        class Counting(MemoryTransport):
            async def dial(self, address, *, timeout_s=5.0):
                dialled.append(address.peer_id)
                return await super().dial(address, timeout_s=timeout_s)

        def transport(n):
            plain = network.transport(identity_of(n), OPEN_SWARM_ID)
            return Counting(network, plain.peer_id, plain.greeting)

        swarm = GossipSwarm(transport)
        times = {
            "timing": TIMING,
            "now_ms": lambda: NOW_MS + round(loop.time() * 1000),
            "now_s": loop.time,
        }
        first = await swarm.start(0, **times)
        second = await swarm.start(1, first.address, **times)
        third = await swarm.start(2, first.address, second.address, **times)
        await asyncio.sleep(10)
        network.kill(peer_of(0))
        await first.crash()
        await asyncio.sleep(60)  # its record has long expired
        n_before = len(dialled)
        await asyncio.sleep(120)
        n_in_vain = dialled[n_before:].count(peer_of(0))
        await swarm.start(0, port=first.address.port, **times)
        await asyncio.sleep(20)
        seen = third.gossip.table.get(peer_of(0), times["now_ms"]())
        await swarm.aclose()
        return n_in_vain, seen is not None

    n_in_vain, is_seen = run_in_virtual_time(life)
    assert n_in_vain <= 2 * 120 / (0.7 * TIMING.lifetime_s / 2), "of two nodes that were told of it"
    assert is_seen, "it came back, and somebody asked in time"


def test_an_address_that_was_heard_of_later_is_asked_and_nobody_is_warned_of_it(
    introductions, caplog
):
    introductions.add(address_of(4))
    introductions.add(address_of(4))
    error = PeerUnreachable(peer_of(4), "nobody answers")

    introductions.warn([address_of(4)], error, 0.0)
    assert not caplog.records
    introductions.warn([address_of(1)], error, 0.0)

    assert len(caplog.records) == 1
    assert due(introductions, 0.0, is_alone=False, wanted=(4,)) == [address_of(4)]
