"""The last look before a choice: fresh word decides, and clients that come at once take turns."""

import random
from dataclasses import replace

import pytest

from protocol.canonical import encode
from protocol.errors import PeerMisbehaved
from protocol.load import METHOD, Load
from protocol.measured import State
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler.chain import Connections
from scheduler.probing import ask_loads, choose, choose_fresh
from scheduler.route_cost import cost_of
from scheduler.routing import find_routes
from tests.announcing import announce, peer_of
from tests.gossiping import identity_of
from tests.scheduler.test_wanted import WANTED

IDLE = Load(n_sessions=0, queue_us=0, kv_free_bytes=1 << 30, state=State.SERVING, ticket=0)
ROUTES = find_routes([announce(n) for n in (1, 2, 3)], WANTED)


def chosen(loads, seed=0):
    def token_ms(peer):
        cost = cost_of(peer, WANTED)
        return cost.block_ms, cost.visit_ms

    named = {peer_of(n): load for n, load in loads.items()}
    return choose(ROUTES, named, random.Random(seed), token_ms).peer_ids


def test_a_load_survives_the_wire_and_what_is_none_is_refused():
    load = replace(IDLE, n_sessions=3, queue_us=700, state=State.MOVING, ticket=9)

    assert Load.decode(load.encode(), sender="x") == load
    later = encode([1, 3, 700, 5, "resting", 9])
    assert Load.decode(later, sender="x").is_open is False
    for junk in (b"", b"\xff", encode([1, 2]), encode([1, "a", 2, 3, "serving", 0])):
        with pytest.raises(PeerMisbehaved):
            Load.decode(junk, sender="x")


def test_the_less_loaded_is_taken_whatever_was_announced():
    busy = replace(IDLE, n_sessions=5)

    for ticket in range(4):
        told = {1: replace(busy, ticket=ticket), 2: IDLE, 3: busy}
        assert chosen(told) == (peer_of(2),)


def test_clients_that_see_the_same_take_turns():
    turns = [chosen({n: replace(IDLE, ticket=ticket) for n in (1, 2, 3)}) for ticket in range(12)]

    assert [turns.count((peer_of(n),)) for n in (1, 2, 3)] == [4, 4, 4]


def test_who_is_gone_or_leaves_is_not_taken():
    leaving = replace(IDLE, state=State.DRAINING)

    assert {chosen({1: None, 2: IDLE, 3: leaving}, seed) for seed in range(9)} == {(peer_of(2),)}
    assert len({chosen({1: None, 2: None, 3: None}, seed) for seed in range(9)}) > 1


def test_who_is_silent_does_not_look_idle():
    busy = replace(IDLE, n_sessions=5)

    assert {chosen({1: busy, 2: IDLE}, seed) for seed in range(9)} == {(peer_of(2),)}


async def test_silent_unknowing_and_dead_peers_hold_nobody_up():
    network = MemoryNetwork()
    listening = []
    for n in (1, 2, 3):

        async def load(peer, request):
            return replace(IDLE, n_sessions=7).encode()

        transport = network.transport(identity_of(n), OPEN_SWARM_ID)
        calls = {METHOD: load} if n != 2 else {}
        listening.append(await transport.listen("127.0.0.1", 0, Service(calls=calls)))
    peers = [announce(n, addresses=listening[n - 1].addresses) for n in (1, 2, 3)]
    peers.append(announce(4))  # nobody answers there
    silent = Faults(delay_s=(60.0, 60.0))
    network.set_faults(silent, peer_of(3), peer_of(9))
    connections = Connections(network.transport(identity_of(9), OPEN_SWARM_ID))

    loads = await ask_loads(connections, peers, timeout_s=0.2)

    assert loads == {peer_of(1): replace(IDLE, n_sessions=7), peer_of(4): None}
    routes = find_routes(peers, WANTED)
    fresh = await choose_fresh(routes, WANTED, connections, random.Random(1), slowdown={})
    assert fresh.peer_ids[0] != peer_of(4)
    await connections.aclose()
    for listener in listening:
        await listener.aclose(grace_s=0)
