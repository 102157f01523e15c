"""Which way to a peer comes first, and when the one in use is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.path import Path
from protocol.path_book import FRESH_S, MAX_PEERS, MAX_RETRY_S, RETRY_S, PathBook, Way
from tests.announcing import peer_of

PEER, RELAY, OTHER = peer_of(1), peer_of(2), peer_of(3)
DIRECT = Way(Path.DIRECT, Address("203.0.113.1", 1, PEER))
ONE = Way(Path.RELAYED, Address("203.0.113.2", 1, PEER, RELAY))
TWO = Way(Path.RELAYED, Address("203.0.113.3", 1, PEER, OTHER))
TUNNEL = Address("203.0.113.2", 2, PEER, RELAY, is_tunnel=True)
HOLE, CIRCUIT = Way(Path.PUNCHED, TUNNEL), Way(Path.CIRCUIT, TUNNEL)
ALL = (DIRECT, ONE, TWO, HOLE, CIRCUIT)


@given(ways=st.lists(st.sampled_from(ALL), unique=True, min_size=1))
def test_the_order_is_direct_relayed_punched_circuit_but_what_is_named_behind_a_worse_kind(ways):
    sure = [way for n, way in enumerate(ways) if all(rank(way) >= rank(each) for each in ways[:n])]
    doubted = [way for way in ways if way not in sure]

    ordered = PathBook().order(PEER, ways, 0.0)

    assert ordered == [*sure, *sorted(doubted, key=rank)]


@given(ways=st.permutations(ALL))
def test_what_has_worked_here_is_not_doubted(ways):
    book = PathBook()
    for way in ALL:
        book.worked(PEER, way)

    assert list(map(rank, book.order(PEER, ways, 0.0))) == sorted(map(rank, ALL))
    book.failed(PEER, DIRECT, 0.0)
    assert book.order(PEER, (ONE, DIRECT), MAX_RETRY_S) == [ONE, DIRECT]


def rank(way: Way) -> int:
    return way.path.rank


def test_what_failed_stands_last_until_it_is_due_again_each_time_later():
    book = PathBook()
    book.failed(PEER, DIRECT, 100.0)

    assert book.order(PEER, ALL, 100.0 + RETRY_S / 2)[-1] == DIRECT
    assert book.order(PEER, ALL, 100.0 + RETRY_S)[0] == DIRECT
    book.failed(PEER, DIRECT, 200.0)
    assert book.order(PEER, ALL, 200.0 + RETRY_S)[-1] == DIRECT
    book.worked(PEER, DIRECT)
    assert book.order(PEER, ALL, 200.0)[0] == DIRECT


def test_a_better_kind_is_looked_for_and_taken_unless_it_is_much_slower():
    book = PathBook()
    book.measured(PEER, ONE, 0.010, 0.0)
    assert book.worth_trying(PEER, ONE, ALL, 1.0) == [DIRECT]

    book.measured(PEER, DIRECT, 0.012, 1.0)
    assert book.is_better(PEER, DIRECT, ONE, 1.0)
    book.measured(PEER, DIRECT, 0.300, 2.0)
    assert not book.is_better(PEER, DIRECT, ONE, 2.0)


def test_a_way_that_decays_is_left_for_one_that_is_by_far_better_of_whatever_kind():
    book = PathBook()
    book.measured(PEER, DIRECT, 0.010, 0.0)
    assert book.worth_trying(PEER, DIRECT, ALL, 0.0) == []

    book.measured(PEER, DIRECT, 0.500, 1.0)

    assert book.worth_trying(PEER, DIRECT, ALL, 1.0) == [ONE, TWO, HOLE, CIRCUIT]
    book.measured(PEER, ONE, 0.400, 1.0)
    assert not book.is_better(PEER, ONE, DIRECT, 1.0)
    book.measured(PEER, TWO, 0.020, 1.0)
    assert book.is_better(PEER, TWO, DIRECT, 1.0)
    assert book.order(PEER, ALL, 1.0)[0] != DIRECT
    assert book.order(PEER, ALL, 2.0 + FRESH_S)[0] == DIRECT  # that was long ago


def test_what_does_not_answer_any_more_is_left_for_whatever_does():
    book = PathBook()
    book.measured(PEER, DIRECT, 0.010, 0.0)
    book.lost(PEER, DIRECT, 1.0)
    book.measured(PEER, CIRCUIT, 0.200, 1.0)

    assert book.is_better(PEER, CIRCUIT, DIRECT, 1.0)


@given(
    best=st.floats(1e-4, 1.0),
    other=st.floats(1e-4, 1.0),
    ways=st.lists(st.sampled_from(ALL), min_size=3, max_size=3, unique=True),
)
def test_numbers_of_one_way_are_never_held_for_anothers(best, other, ways):
    book, (one, two, three) = PathBook(), ways
    book.measured(PEER, one, best, 0.0)
    book.measured(PEER, two, other, 0.0)

    assert book.seen(PEER, one).best_s == best
    assert book.seen(PEER, two).best_s == other
    assert book.seen(PEER, three).best_s is None
    assert book.seen(OTHER, one).best_s is None


@pytest.mark.parametrize("n", [MAX_PEERS + 100])
def test_it_remembers_so_many_peers(n):
    book = PathBook()
    for i in range(n):
        book.failed(f"peer-{i}", DIRECT, 0.0)

    assert book.seen("peer-0", DIRECT).n_failed == 0
    assert book.seen(f"peer-{n - 1}", DIRECT).n_failed == 1


def test_whom_we_met_is_where_a_way_works_the_last_first_and_who_fails_everywhere_is_silent():
    book, others = PathBook(), [peer_of(n) for n in (4, 5)]
    other, silent = (Way(Path.DIRECT, Address("203.0.113.9", 1, peer)) for peer in others)

    book.worked(PEER, ONE)
    book.worked(PEER, DIRECT)
    book.worked(others[0], other)
    book.failed(others[1], silent, 0.0)
    assert book.met() == ((other.address, DIRECT.address), {others[1]})

    book.failed(PEER, DIRECT, 0.0)
    book.failed(others[0], other, 0.0)
    assert book.met() == ((ONE.address,), set(others))
