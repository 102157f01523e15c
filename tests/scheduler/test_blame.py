"""Who of a slow chain is slow: told from what other chains took."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PeerMisbehaved
from scheduler.blame import HALF_LIFE_S, Leg, Ride, slower_ms, undivided
from tests.announcing import peer_of

NOW = 1_000_000.0


def ride(token_ms, *hops, at_s=NOW, n_tokens=64, besides_ms=1.0):
    """hops: (peer, blocks, announced ms per block)."""
    legs = tuple(Leg(peer_of(n), blocks, ms, ms) for n, blocks, ms in hops)
    return Ride(at_s, n_tokens, token_ms, besides_ms, legs)


def test_chains_that_take_what_was_said_blame_nobody():
    rides = [ride(9.0, (1, 4, 1.0), (2, 4, 1.0)), ride(9.0, (1, 4, 1.0), (3, 4, 1.0))]

    assert max(slower_ms(rides, NOW).values()) < 0.01


def test_blame_that_cannot_be_told_apart_is_shared_by_the_blocks():
    slower = slower_ms([ride(9.0 + 4.0, (1, 4, 1.0), (2, 4, 1.0))], NOW)

    assert slower[peer_of(1)] == pytest.approx(slower[peer_of(2)])
    assert 0.3 < slower[peer_of(1)] < 0.5


def test_one_chain_without_the_liar_clears_those_who_were_beside_it():
    rides = [ride(9.0, (1, 4, 0.1), (2, 4, 1.0)), ride(9.0, (3, 4, 1.0), (2, 4, 1.0))]

    slower = slower_ms(rides, NOW)

    assert slower[peer_of(1)] > 0.7
    assert slower[peer_of(2)] < 0.1
    assert slower[peer_of(3)] < 0.1


def test_what_every_ride_shares_is_everybodys_alike():
    rides = [ride(9.8, (i, 4, 1.0), (j, 4, 1.0)) for i in (1, 2, 3) for j in (4, 5, 6)]

    slower = slower_ms(rides, NOW).values()

    assert all(ms == pytest.approx(0.1, rel=0.1) for ms in slower)


def test_a_chain_that_is_quicker_than_said_is_believed_to_be():
    assert slower_ms([ride(5.0, (1, 8, 1.0))], NOW)[peer_of(1)] == pytest.approx(-0.5, rel=0.1)


def test_an_old_ride_weighs_less_than_a_new_one():
    good, bad = (9.0, (1, 4, 1.0), (2, 4, 1.0)), (13.0, (1, 4, 1.0), (2, 4, 1.0))
    old_s = NOW - 4 * HALF_LIFE_S

    was_bad = slower_ms([ride(*bad[:1], *bad[1:], at_s=old_s), ride(*good[:1], *good[1:])], NOW)
    is_bad = slower_ms([ride(*good[:1], *good[1:], at_s=old_s), ride(*bad[:1], *bad[1:])], NOW)

    assert was_bad[peer_of(1)] < 0.1 < 0.3 < is_bad[peer_of(1)]


def test_blame_is_undivided_among_those_who_always_rode_together():
    together, other = ride(13.0, (1, 4, 1.0), (2, 4, 1.0)), ride(9.0, (2, 4, 1.0), (3, 4, 1.0))

    assert undivided([together]) == {peer_of(1): NOW, peer_of(2): NOW}
    assert undivided([together, other]) == {}
    assert undivided([ride(13.0, (1, 8, 1.0))]) == {}


def test_a_peer_that_corrected_what_it_says_is_judged_anew():
    rides = [
        ride(9.0, (1, 4, 0.1), (2, 4, 1.0), at_s=NOW - 60),
        ride(9.0, (1, 4, 1.0), (2, 4, 1.0)),
    ]

    assert max(slower_ms(rides, NOW).values()) < 0.01


def test_a_ride_without_legs_or_time_is_none():
    with pytest.raises(PeerMisbehaved, match="legs"):
        Ride(NOW, 8, 1.0, 0.0, ())
    with pytest.raises(PeerMisbehaved, match="takes time"):
        ride(float("nan"), (1, 4, 1.0))


@given(seed=st.integers(0, 10_000), liar=st.integers(0, 11))
def test_whoever_takes_ten_times_what_it_says_is_found_in_long_chains_too(seed, liar):
    rng = random.Random(seed)
    takes = [rng.uniform(0.5, 2.0) for _ in range(12)]
    rides = []
    for _ in range(24):  # six hops, each drawn from two hosts
        hops = [2 * i + rng.randrange(2) for i in range(6)]
        token_ms = 1.0 + sum(4 * takes[n] for n in hops)
        said = [(n, 4, takes[n] / 10 if n == liar else takes[n]) for n in hops]
        rides.append(ride(token_ms * rng.uniform(0.98, 1.02), *said))

    slower = slower_ms(rides, NOW)

    beyond = {n: slower.get(peer_of(n), 0.0) for n in range(12)}
    assert max(beyond, key=beyond.__getitem__) == liar
    assert beyond[liar] > 0.3 * takes[liar]
