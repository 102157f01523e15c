"""One client's share of a node's room: what is held uncommitted, and what while others wait."""

from hypothesis import given
from hypothesis import strategies as st

from node.shares import LEAST, UNCOMMITTED, WAITING_S, Holding, Shares
from protocol.errors import PeerBusy

ROOM = 1_000
GREEDY, HONEST = "greedy", "honest"


def holds(client: str, n_bytes: int, *, is_committed: bool = False) -> Holding:
    return Holding(client, n_bytes, is_committed)


def may(shares: Shares, client: str, n_bytes: int, *held: Holding, now_s: float = 0.0) -> bool:
    try:
        shares.check(client, n_bytes, held, now_s)
    except PeerBusy:
        return False
    return True


def test_a_first_reservation_may_be_of_any_size_and_the_next_ones_share_a_quarter():
    shares = Shares(ROOM)

    assert may(shares, GREEDY, ROOM)
    assert may(shares, GREEDY, 100, holds(GREEDY, 150))
    assert not may(shares, GREEDY, 101, holds(GREEDY, 150))
    assert may(shares, GREEDY, 600, holds(GREEDY, 400, is_committed=True))
    assert may(shares, HONEST, 600, holds(GREEDY, 250))


def test_an_heir_gives_way_to_others_when_it_has_more_than_a_quarter():
    shares = Shares(ROOM)

    assert not shares.is_large(250)
    assert shares.is_large(251)


def test_who_reserves_all_and_commits_to_nothing_waits_and_others_do_not():
    shares = Shares(ROOM)
    shares.wasted(GREEDY, ROOM, 3.0, now_s=3.0)

    assert not may(shares, GREEDY, 1, now_s=3.0)
    assert may(shares, HONEST, ROOM, now_s=3.0)
    assert may(shares, GREEDY, ROOM, now_s=25.0)


@given(st.integers(1, ROOM))
def test_in_the_long_run_nothing_is_held_for_nothing_beyond_a_seventh(n_bytes: int):
    shares, now_s, held = Shares(ROOM), 0.0, 0.0
    while now_s < 600.0:
        if may(shares, GREEDY, n_bytes, now_s=now_s):
            now_s += 3.0
            shares.wasted(GREEDY, n_bytes, 3.0, now_s)
            held += n_bytes / ROOM * 3.0
        else:
            now_s += 0.5

    assert held / now_s <= 1 / 7


def test_tries_that_are_taken_back_at_once_cost_next_to_nothing():
    shares = Shares(ROOM)
    for n in range(200):  # of a tenth of the room, while other hops refuse
        assert may(shares, HONEST, 100, now_s=0.5 * n)
        shares.wasted(HONEST, 100, 0.1, 0.5 * n)


def test_one_client_may_use_all_of_a_node_until_others_are_turned_away():
    shares, full = Shares(ROOM), holds(GREEDY, 900, is_committed=True)

    assert may(shares, GREEDY, 100, full)
    shares.turned_away(HONEST, now_s=0.0)

    assert not may(shares, GREEDY, 10, full)
    assert may(shares, GREEDY, 10, holds(GREEDY, 490, is_committed=True))
    assert may(shares, HONEST, 100, full)
    shares.admitted(HONEST)
    assert may(shares, GREEDY, 100, full)


def test_who_waits_is_forgotten_when_it_does_not_come_again():
    shares = Shares(ROOM)
    shares.turned_away(HONEST, now_s=0.0)

    assert may(shares, GREEDY, 100, holds(GREEDY, 900, is_committed=True), now_s=WAITING_S)


def test_a_crowd_of_identities_does_not_squeeze_a_client_below_a_quarter():
    shares = Shares(ROOM)
    for n in range(1_000):
        shares.turned_away(f"sybil-{n}", now_s=0.0)

    quarter = round(LEAST * ROOM)
    assert may(shares, HONEST, 10, holds(HONEST, quarter - 10, is_committed=True))
    assert not may(shares, HONEST, 11, holds(HONEST, quarter - 10, is_committed=True))
    assert UNCOMMITTED == LEAST
