"""Who may connect to a libp2p host, and how much of it one peer may hold: rules, no sockets."""

from protocol.transport.control_plane import PlaneLimits
from protocol.transport.doorkeeper import HANDSHAKES, Doorkeeper

LIMITS = PlaneLimits(
    connections=4, connections_per_peer=1, connections_per_host=2, streams=20, streams_per_peer=10
)


def door(admits=lambda peer: True, now=lambda: 0.0) -> Doorkeeper:
    return Doorkeeper(LIMITS, admits, now)


def test_one_address_may_hold_a_few_connections_and_the_next_handshake_is_refused():
    keeper = door()
    held = [keeper.open_connection(f"peer-{n}", "10.0.0.1") for n in range(2)]

    assert keeper.open_connection(None, "10.0.0.1") is None
    assert keeper.open_connection(None, "10.0.0.2") is not None
    held[0].close()
    held[0].close()

    assert keeper.open_connection(None, "10.0.0.1") is not None
    assert keeper.refused == {"connections of one address": 1}


def test_a_peer_holds_no_more_connections_than_allowed_from_wherever_it_dials():
    keeper = door()
    keeper.open_connection("peer", "10.0.0.1")

    assert keeper.open_connection("peer", "10.0.0.2") is None
    assert keeper.refused == {"connections of one peer": 1}


def test_when_all_places_are_taken_nobody_else_comes_in():
    keeper = door()
    held = [keeper.open_connection(f"peer-{n}", f"10.0.0.{n}") for n in range(4)]

    assert all(held)
    assert keeper.open_connection(None, "10.0.0.9") is None
    assert keeper.open_connection("late", "10.0.0.9") is None
    assert keeper.refused == {"connections": 2}


def test_a_peer_that_is_not_admitted_is_refused_in_both_directions():
    keeper = door(admits=lambda peer: peer != "denied")

    assert keeper.open_connection("denied", "10.0.0.1") is None
    assert keeper.open_connection("denied", None, "outbound") is None
    assert keeper.open_connection("friend", "10.0.0.1") is not None
    assert keeper.refused == {"peer not admitted": 2}


def test_handshakes_of_one_address_are_paced():
    now = 0.0
    keeper = door(now=lambda: now)
    tried = [keeper.open_connection(None, "10.0.0.1") for _ in range(int(HANDSHAKES.burst) + 5)]

    assert sum(each is None for each in tried) == 5
    now = 1.0
    assert keeper.open_connection(None, "10.0.0.1") is not None


def test_a_thousand_streams_of_one_peer_take_its_own_share_and_no_more():
    keeper = door()

    opened = sum(keeper.acquire_stream("greedy", "inbound") for _ in range(1000))

    assert opened == 10
    assert keeper.acquire_stream("other", "inbound")
    assert keeper.refused == {"streams of one peer": 990}
    keeper.release_stream("greedy", "inbound")
    assert keeper.acquire_stream("greedy", "inbound")
