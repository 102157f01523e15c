"""Ghosts: who begins again under a new key takes its old place; a stranger's claim takes none."""

import asyncio
import random

import pytest

from node.ghosts import RECHECK_S, Ghosts, suspicions
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from tests.announcing import NOW_MS, announce, peer_of, record
from tests.exchanging import table_of
from tests.gossiping import GossipSwarm, identity_of, until


@pytest.fixture
def network():
    return MemoryNetwork(seed=7)


@pytest.fixture
async def swarm(network):
    swarm = GossipSwarm(lambda n: network.transport(identity_of(n), OPEN_SWARM_ID))
    yield swarm
    await swarm.aclose()


def at(n: int, *ports: int) -> tuple[Address, ...]:
    return tuple(Address("10.9.9.9", port, peer_of(n)) for port in ports)


async def test_a_node_that_began_again_under_a_new_key_replaces_its_former_self_at_once(swarm):
    first = await swarm.start(0)
    others = [await swarm.start(n, first.address) for n in (1, 2, 3)]
    await until(swarm.agree, timeout_s=5)
    port = others[0].address.port

    await others[0].crash()
    await swarm.start(9, first.address, port=port)

    took_s = await until(swarm.agree, timeout_s=5)  # the record would stand for half a minute
    assert took_s < 3
    assert peer_of(1) not in first.sees()
    assert peer_of(9) in first.sees()


async def test_a_stranger_that_announces_a_peers_address_evicts_nobody(swarm):
    honest = await swarm.start(0)
    watcher = await swarm.start(1, honest.address)
    await until(swarm.agree, timeout_s=5)
    now_ms = wall_ms()
    claim = (Address(honest.address.host, honest.address.port, peer_of(13)),)
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}

    watcher.gossip.table.merge(record(13, addresses=claim, **stamp), sender="", now_ms=now_ms)
    checks = watcher.gossip._ghosts.look(0.0)
    await asyncio.gather(*map(watcher.gossip._ghosts.check, checks))

    assert {(each.gone.peer_id, each.there.peer_id) for each in checks} == {
        (peer_of(0), peer_of(13)),
        (peer_of(13), peer_of(0)),
    }
    assert peer_of(0) in watcher.sees()
    assert peer_of(13) not in watcher.sees(), "the one whose claim is false is gone"


async def test_two_that_both_answer_both_stay(network):
    """As behind a relay, where one place leads to several peers."""
    table = table_of()
    ghosts = Ghosts(
        table,
        network.transport(identity_of(1), OPEN_SWARM_ID),
        random.Random(7),
        now_ms=lambda: NOW_MS,
        timeout_s=1.0,
    )
    one, other = (network.transport(identity_of(n), OPEN_SWARM_ID) for n in (2, 3))
    listeners = [await each.listen("127.0.0.1", 0, Service(calls={})) for each in (one, other)]
    addresses = [
        (*listener.addresses, Address(rest.addresses[0].host, rest.addresses[0].port, peer_of(n)))
        for n, listener, rest in zip((2, 3), listeners, reversed(listeners), strict=True)
    ]
    for n, announced in zip((2, 3), addresses, strict=True):
        table.merge(record(n, addresses=announced), sender="", now_ms=NOW_MS)

    await asyncio.gather(*map(ghosts.check, ghosts.look(0.0)))

    assert len(table.live(NOW_MS)) == 2
    for listener in listeners:
        await listener.aclose()


def test_who_has_a_place_of_its_own_is_no_suspect():
    one, other, third = (
        announce(1, addresses=at(1, 1, 2)),
        announce(2, addresses=at(2, 1)),
        announce(3, addresses=at(3, 3)),
    )

    found = list(suspicions([one, other, third]))

    assert [(each.gone, each.there) for each in found] == [(other, one)]


async def test_a_crowd_at_one_address_is_checked_slowly_and_each_pair_once_a_minute(network):
    table = table_of(*(record(n, addresses=at(n, 1)) for n in range(2, 30)))
    transport = network.transport(identity_of(1), OPEN_SWARM_ID)
    ghosts = Ghosts(table, transport, random.Random(7), now_ms=lambda: NOW_MS, timeout_s=1.0)

    first, second, later = ghosts.look(0.0), ghosts.look(2.0), ghosts.look(RECHECK_S + 1)

    assert (len(first), len(second)) == (8, 1)
    assert not set(first) & set(second)
    assert set(first) & set(later)


def test_an_evicted_record_stays_away_until_the_peer_speaks_again():
    table = table_of(record(1))
    [ghost] = table.live(NOW_MS)

    table.evict(ghost, NOW_MS)

    assert table.live(NOW_MS) == ()
    table.merge(record(1), sender="", now_ms=NOW_MS)
    assert table.live(NOW_MS) == ()
    table.merge(record(1, sequence=NOW_MS + 1), sender="", now_ms=NOW_MS)
    assert len(table.live(NOW_MS)) == 1


def test_a_record_that_was_renewed_meanwhile_is_not_evicted():
    table = AnnouncementTable(OPEN_SWARM_ID)
    table.merge(record(1), sender="", now_ms=NOW_MS)
    [ghost] = table.live(NOW_MS)
    table.merge(record(1, sequence=NOW_MS + 1), sender="", now_ms=NOW_MS)

    table.evict(ghost, NOW_MS)

    assert len(table.live(NOW_MS)) == 1
