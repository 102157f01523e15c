"""Gossip between nodes: everybody is seen by all, soon; whoever leaves or dies is not."""

import asyncio
import logging
import time
from dataclasses import dataclass

import pytest

from node.gossip import CALLS, GossipTiming
from node.links import LinkTimes
from protocol.announcement_table import Dropped, Merged
from protocol.announcements import Link
from protocol.anti_entropy import GossipMessage
from protocol.clock import wall_ms
from protocol.errors import PeerBusy, PeerMisbehaved
from protocol.gossip_rules import METHOD, tell
from protocol.identity import public_key_from_peer_id
from protocol.messages import Span
from protocol.path import Path
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import (
    Faults,
    MemoryConnection,
    MemoryNetwork,
    MemoryTransport,
)
from tests.announcing import NOW_MS, peer_of, record
from tests.gossiping import GossipSwarm, identity_of, until
from tests.virtual_time import run_in_virtual_time

BRIEF = GossipTiming(interval_s=0.1, refresh_s=0.3, lifetime_s=1.0, shun_s=0.5, warn_every_s=0.4)


@pytest.fixture
def network():
    return MemoryNetwork(seed=7)


@pytest.fixture
async def swarm(network):
    swarm = GossipSwarm(lambda n: network.transport(identity_of(n), OPEN_SWARM_ID))
    yield swarm
    await swarm.aclose()


async def test_a_node_that_joins_through_any_member_is_seen_by_all_within_seconds(swarm):
    calm = GossipTiming()  # as in production
    await swarm.start(0, timing=calm)
    for n in range(1, 9):
        await swarm.start(n, swarm.nodes[n // 2].address, timing=calm)
    await until(swarm.agree, timeout_s=5)

    await swarm.start(9, swarm.nodes[4].address, timing=calm)

    assert await until(swarm.agree, timeout_s=5) < 3


async def test_a_leave_is_seen_by_all_at_once(swarm):
    first = await swarm.start(0)
    for n in range(1, 6):
        await swarm.start(n, first.address)
    await until(swarm.agree, timeout_s=5)

    await first.leave()

    assert await until(swarm.agree, timeout_s=5) < 1


async def test_a_leave_is_heard_although_most_of_those_that_are_known_have_just_died(
    network, swarm
):
    first = await swarm.start(0)
    for n in range(1, 12):
        await swarm.start(n, first.address)
    await until(swarm.agree, timeout_s=5)
    for node in swarm.nodes[2:]:
        network.kill(peer_of(node.n))
        await node.crash()

    await first.leave()

    left = swarm.nodes[1]
    await until(lambda: peer_of(0) not in left.sees(), timeout_s=1)


async def test_a_peer_that_dies_vanishes_when_its_record_expires(swarm):
    first = await swarm.start(0, timing=BRIEF)
    second = await swarm.start(1, first.address, timing=BRIEF)
    await until(swarm.agree, timeout_s=5)

    await second.crash()

    assert await until(swarm.agree, timeout_s=5) > 0.5
    assert first.sees() == {peer_of(0)}


async def test_start_order_does_not_matter_and_the_operator_is_warned_now_and_then(swarm, caplog):
    reserved = await swarm.start(0)
    address = reserved.address
    await reserved.crash()

    with caplog.at_level(logging.WARNING, logger="node.introductions"):
        early = await swarm.start(1, address, timing=BRIEF)
        await asyncio.sleep(0.6)
    await swarm.start(0, port=address.port)

    assert 1 <= len(caplog.records) <= 2
    assert str(address) in str(vars(caplog.records[0]))
    await until(lambda: early.sees() == {peer_of(0), peer_of(1)}, timeout_s=5)


async def test_a_restarted_node_replaces_its_former_self_even_if_its_clock_fell_back(swarm):
    first = await swarm.start(0)
    second = await swarm.start(1, first.address)
    await until(swarm.agree, timeout_s=5)
    await second.crash()
    swarm.nodes.remove(second)

    reborn = await swarm.start(1, first.address, now_ms=lambda: wall_ms() - 200_000, timing=BRIEF)
    reborn.span = (4, 8)

    def is_seen() -> bool:
        seen = first.gossip.table.get(peer_of(1), wall_ms())
        return seen is not None and seen.span == Span(4, 8)

    await until(is_seen, timeout_s=5)


async def test_a_change_is_announced_at_once(swarm):
    first = await swarm.start(0)
    second = await swarm.start(1, first.address)
    await until(swarm.agree, timeout_s=5)

    second.span = (2, 6)
    second.gossip.announce()

    def is_seen() -> bool:
        seen = first.gossip.table.get(peer_of(1), wall_ms())
        return seen is not None and seen.span == Span(2, 6)

    assert await until(is_seen, timeout_s=5) < 1


async def test_measured_links_are_published(swarm):
    first = await swarm.start(0, timing=BRIEF)
    second = await swarm.start(1, first.address, timing=BRIEF)

    def is_measured() -> bool:
        seen = first.gossip.table.get(peer_of(1), wall_ms())
        return seen is not None and [link.peer_id for link in seen.links] == [peer_of(0)]

    await until(is_measured, timeout_s=5)

    rtt_s = second.gossip.links.rtt_s(peer_of(0), time.monotonic())
    assert rtt_s is not None
    assert 0 < rtt_s < 1


async def test_nonsense_is_refused_counted_and_survived(swarm):
    node = await swarm.start(0)
    mallory = await swarm.transport(13).dial(node.address)

    with pytest.raises(PeerMisbehaved):
        await mallory.call(METHOD, b"nonsense", timeout_s=1)
    now_ms = wall_ms()
    stamp = {"issued_ms": now_ms, "expires_ms": now_ms + 1_000}
    forged = [record(n, signer=13, **stamp) for n in range(1, 100)]
    await mallory.call(METHOD, tell(*forged), timeout_s=1)
    await mallory.aclose()
    await swarm.start(1, node.address)

    await until(swarm.agree, timeout_s=5)
    # The message that was none, and nine records: then it stopped.
    assert node.gossip.table.dropped == {Dropped(peer_of(13), Merged.FORGED): 10}


async def test_a_swarm_agrees_although_a_third_of_its_calls_fail(network, swarm):
    network.set_faults(Faults(delay_s=(0.0, 0.02), loss=0.1, breakage=0.2))
    hasty = GossipTiming(interval_s=0.1, timeout_s=0.2, shun_s=0.2)
    first = await swarm.start(0, timing=hasty)
    for n in range(1, 6):
        await swarm.start(n, first.address, timing=hasty)

    await until(swarm.agree, timeout_s=10)


async def test_a_swarm_that_was_cut_in_two_is_one_again(network, swarm):
    brief = GossipTiming(interval_s=0.1, refresh_s=0.3, lifetime_s=1, timeout_s=0.2, shun_s=0.2)
    first = await swarm.start(0, timing=brief)
    for n in range(1, 4):
        await swarm.start(n, first.address, timing=brief)
    await until(swarm.agree, timeout_s=5)

    network.partition({peer_of(0), peer_of(1)}, {peer_of(2), peer_of(3)})
    await until(lambda: first.sees() == {peer_of(0), peer_of(1)}, timeout_s=5)
    network.heal()

    await until(swarm.agree, timeout_s=5)


async def test_a_leave_without_peers_ends_quickly(swarm):
    alone = await swarm.start(0)
    await until(swarm.agree, timeout_s=1)

    async with asyncio.timeout(1):
        await alone.leave()

    assert alone.sees() == set()


async def test_a_flooding_sender_is_told_busy_and_counted_and_others_notice_nothing(swarm):
    node = await swarm.start(0)
    mallory = await swarm.transport(13).dial(node.address)
    answers = await asyncio.gather(
        *(mallory.call(METHOD, tell(), timeout_s=5) for _ in range(300)), return_exceptions=True
    )
    await mallory.aclose()
    n_busy = sum(isinstance(each, PeerBusy) for each in answers)

    await swarm.start(1, node.address)
    await until(swarm.agree, timeout_s=5)

    assert 300 - n_busy < CALLS.burst + 5 * CALLS.per_s
    assert node.gossip.table.dropped == {Dropped(peer_of(13), Merged.LIMITED): n_busy}


async def test_a_sender_of_large_messages_runs_out_of_bytes(swarm):
    node = await swarm.start(0)
    mallory = await swarm.transport(13).dial(node.address)
    large = GossipMessage(wanted=(bytes(16),) * 30_000).encode()

    async def flood() -> None:
        for _ in range(100):
            await mallory.call(METHOD, large, timeout_s=5)

    with pytest.raises(PeerBusy):
        await flood()
    await mallory.aclose()


async def test_a_sender_of_many_new_records_runs_out_of_checks(swarm):
    """Each record costs a signature: keys cost a stranger nothing."""
    node = await swarm.start(0)
    mallory = await swarm.transport(13).dial(node.address)
    now_ms = wall_ms()
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}

    many = [record(n, **stamp) for n in range(1_000, 3_100)]

    async def flood() -> None:
        for first in range(0, len(many), 300):
            await mallory.call(METHOD, tell(*many[first : first + 300]), timeout_s=30)

    with pytest.raises(PeerBusy):
        await flood()
    await mallory.aclose()

    assert len(node.gossip.table) < len(many)


def test_in_a_swarm_at_production_pace_the_dead_vanish_at_their_expiry_and_the_living_stay():
    n_nodes, seen = 14, {}

    async def life(loop):
        network = MemoryNetwork(seed=7, faults=Faults(delay_s=(0.01, 0.05)))
        swarm = GossipSwarm(lambda n: network.transport(identity_of(n), OPEN_SWARM_ID))
        times = {
            "timing": GossipTiming(),
            "now_ms": lambda: NOW_MS + round(loop.time() * 1000),
            "now_s": loop.time,
        }
        first = await swarm.start(0, **times)
        for n in range(1, n_nodes):
            await swarm.start(n, first.address, **times)
        await asyncio.sleep(45)  # long enough for beats: records come every 20 s
        [heartbeats] = {
            peer.heartbeats is not None for peer in first.gossip.table.live(times["now_ms"]())
        }
        network.kill(peer_of(5))
        await swarm.nodes[5].crash()
        died_s = loop.time()
        for at_s in (5, 19, 31):
            await asyncio.sleep(died_s + at_s - loop.time())
            running = [node for node in swarm.nodes if node.task is not None]
            now_ms = times["now_ms"]()
            seen[at_s] = {len(node.gossip.table.live(now_ms)) for node in running}
        await swarm.aclose()
        return heartbeats

    assert run_in_virtual_time(life), "this was to be about beats"
    assert seen == {5: {n_nodes}, 19: {n_nodes}, 31: {n_nodes - 1}}


def test_who_is_not_answered_asks_less_often_and_comes_back_when_it_is():
    async def life(loop):
        asked_s = []

        @dataclass(eq=False)
        class CountingConnection:
            connection: MemoryConnection
            path: Path = Path.DIRECT

            async def call(self, method, request, *, timeout_s):
                asked_s.append(loop.time())
                return await self.connection.call(method, request, timeout_s=timeout_s)

            async def aclose(self):
                await self.connection.aclose()

        class Counting(MemoryTransport):
            async def dial(self, address, *, timeout_s=5.0):
                return CountingConnection(await super().dial(address, timeout_s=timeout_s))

        def transport(n):
            plain = network.transport(identity_of(n), OPEN_SWARM_ID)
            return Counting(network, plain.peer_id, plain.greeting) if n else plain

        network = MemoryNetwork(seed=7)
        swarm = GossipSwarm(transport)
        times = {
            "timing": GossipTiming(lifetime_s=300),
            "now_ms": lambda: NOW_MS + round(loop.time() * 1000),
            "now_s": loop.time,
        }
        first = await swarm.start(0, **times)
        await swarm.start(1, first.address, **times)
        await asyncio.sleep(5)
        network.set_faults(Faults(loss=1.0))  # silence: nothing is refused, nothing arrives
        n_before = len(asked_s)
        await asyncio.sleep(90)
        n_in_silence = len(asked_s) - n_before
        network.set_faults(Faults())
        await asyncio.sleep(30)
        healed_s = next(at_s for at_s in asked_s[n_before + n_in_silence :]) - 95
        await swarm.aclose()
        return n_in_silence, healed_s

    n_in_silence, healed_s = run_in_virtual_time(life)
    assert 5 <= n_in_silence <= 12
    assert healed_s < 20, "one silence that is waited for, one pause"


def test_only_the_least_of_recent_round_trips_counts():
    links = LinkTimes()
    for at_s, rtt_s in ((0, 0.010), (200, 0.030), (210, 0.020)):
        links.learn(peer_of(1), rtt_s, at_s=at_s)
    links.learn(peer_of(2), 0.001, at_s=0)

    assert links.rtt_s(peer_of(1), now_s=250) == 0.010
    assert links.rtt_s(peer_of(1), now_s=400) == 0.020  # the first was long ago
    assert links.best(now_s=400) == (Link(peer_of(1), 20_000),)


def test_what_a_relay_carried_counts_until_the_direct_way_was_measured():
    links = LinkTimes()
    links.learn(peer_of(1), 0.010, at_s=0, path=Path.RELAYED)
    assert links.rtt_s(peer_of(1), now_s=1) == 0.010
    assert links.relayed(now_s=1) == (public_key_from_peer_id(peer_of(1)),)

    links.learn(peer_of(1), 0.040, at_s=100)

    assert links.rtt_s(peer_of(1), now_s=101) == 0.040
    assert links.relayed(now_s=101) == ()
    assert links.rtt_s(peer_of(1), now_s=301) == 0.040  # the relay's has aged


def test_an_announcement_holds_the_nearest_links_and_some_of_every_distance():
    links = LinkTimes()
    for n in range(1, 40):
        links.learn(peer_of(n), n / 1000, at_s=0)

    told_ms = [link.rtt_us / 1000 for link in links.best(now_s=1)]
    assert told_ms == [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 21, 26, 30, 34, 39]
