"""Whom a node exchanges with: few connections at first, more of them one by one."""

import random

import pytest

from node.partners import KEPT, LEAST, Partners
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from tests.announcing import announce
from tests.gossiping import identity_of

N_OTHERS = 20


@pytest.fixture
async def others():
    """Peers, and a node that knows them all and is connected to none."""
    network = MemoryNetwork(seed=1)
    peers = []
    for n in range(1, N_OTHERS + 1):
        transport = network.transport(identity_of(n), OPEN_SWARM_ID)
        listener = await transport.listen("127.0.0.1", 0, Service())
        peers.append(announce(n, addresses=tuple(listener.addresses)))
    partners = Partners(
        network.transport(identity_of(0), OPEN_SWARM_ID), random.Random(7), shun_s=5.0
    )
    yield partners, peers
    await partners.aclose()


async def meet(partners, drawn):
    """How many of those drawn had to be dialled."""
    known = [peer.peer_id for peer in drawn]
    before = set(partners._connections)
    for peer in drawn:
        await partners.connect(peer.peer_id, peer.addresses, timeout_s=1.0)
    return len(set(known) - before)


async def test_a_newcomer_with_news_shakes_hands_with_few(others):
    partners, peers = others

    dialled = await meet(partners, partners.draw(peers, 3, 0.0))

    assert dialled == LEAST


async def test_further_connections_come_one_by_one_and_then_hardly_change(others):
    partners, peers = others

    dialled = [await meet(partners, partners.draw(peers, 3, 0.0)) for _ in range(100)]

    assert max(dialled[1:]) == 1
    assert sum(dialled[:10]) < KEPT <= sum(dialled)
    assert sum(dialled[50:]) <= 8


async def test_all_are_partners_where_there_are_few(others):
    partners, peers = others

    drawn = {
        peer.peer_id
        for _ in range(50)
        for peer in partners.draw(peers[:2], 1, 0.0)
        if await meet(partners, [peer]) <= 1
    }

    assert drawn == {peer.peer_id for peer in peers[:2]}


async def test_nobody_new_is_dialled_because_those_that_were_are_slow(others):
    partners, peers = others
    for peer in partners.draw(peers, 3, 0.0):
        partners.begin(peer.peer_id)

    drawn = [partners.draw(peers, 3, 0.0) for _ in range(80)]

    assert 0 < sum(map(len, drawn)) <= 20, "now and then one, as always"


async def test_who_is_known_no_more_is_let_go_and_counts_as_nobodys_partner(others):
    """All partners of a node are gone at once, as when a line is cut, and it has heard of it."""
    partners, peers = others
    for peer in peers[:KEPT]:
        await partners.connect(peer.peer_id, peer.addresses, timeout_s=1.0)
    rest = peers[KEPT:]

    drawn = [partners.draw(rest, 1, 0.0) for _ in range(20)]
    closed = partners.part_from({peer.peer_id for peer in rest})

    assert all(drawn)  # its old ones do not keep it from drawing others
    assert {connection.peer_id for connection in closed} == {p.peer_id for p in peers[:KEPT]}
    assert not partners._connections
    for connection in closed:
        await connection.aclose()


async def test_who_is_being_asked_is_not_let_go(others):
    partners, peers = others
    await partners.connect(peers[0].peer_id, peers[0].addresses, timeout_s=1.0)
    partners.begin(peers[0].peer_id)

    assert partners.part_from(frozenset()) == []
    partners.end(peers[0].peer_id)
    (connection,) = partners.part_from(frozenset())
    await connection.aclose()
