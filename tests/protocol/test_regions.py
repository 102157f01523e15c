"""What measurements say about declared regions: some cannot be true, and none is ever proven."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.announcements import Announcement, Link
from protocol.identity import public_key_from_peer_id
from protocol.measured import Measured
from protocol.regions import PLACES, doubts, is_within, least_rtt_ms, place_of
from tests.announcing import announce, peer_of

NEAR_US = 2_000  # microseconds, there and back


def says(n: int, region: str, *near: int, rtt_us: int = NEAR_US, **more: object) -> Announcement:
    """Peer `n`, which measured that round trip to each of `near`."""
    links = tuple(Link(peer_of(other), rtt_us) for other in near)
    return announce(n, region=region, links=links, **more)


def test_a_peer_that_two_others_elsewhere_are_too_near_to_is_doubted():
    swarm = [says(1, "us-east"), says(2, "eu", 1), says(3, "eu-west", 1)]

    found = doubts(swarm)

    assert set(found) == {peer_of(1)}
    doubt = found[peer_of(1)]
    assert (doubt.claimed, doubt.n_observers, doubt.rtt_ms) == ("us-east", 2, 2.0)
    assert doubt.least_ms == least_rtt_ms("us-east", doubt.region) > 10
    assert "it says region us-east, but 2 peers elsewhere are too near: 2.0 ms" in str(doubt)


def test_one_observer_alone_is_not_believed():
    assert not doubts([says(1, "us-east"), says(2, "eu", 1), says(3, "eu-west")])


def test_what_the_peer_measured_itself_counts_against_it_too():
    assert set(doubts([says(1, "us", 2, 3), says(2, "eu"), says(3, "eu")])) == {peer_of(1)}


def test_of_those_who_contradict_each_other_the_fewest_are_doubted():
    here, liars = range(10, 20), (1, 2, 3)
    swarm = [says(n, "eu", *liars) for n in here] + [says(n, "au", *here) for n in liars]

    assert set(doubts(swarm)) == {peer_of(n) for n in liars}


def test_what_a_relay_carried_is_no_measurement_of_the_peer_behind_it():
    relayed = Measured(relayed=(public_key_from_peer_id(peer_of(1)),))
    swarm = [says(1, "us"), *(says(n, "eu", 1, measured=relayed) for n in (2, 3, 4))]

    assert not doubts(swarm)


@pytest.mark.parametrize(
    ("claimed", "from_where"),
    [("eu", "eu-west"), ("", "eu"), ("my cellar", "eu"), ("us", "nowhere"), ("af", "eu")],
)
def test_places_that_touch_or_that_nobody_knows_contradict_nothing(claimed, from_where):
    swarm = [says(1, claimed), *(says(n, from_where, 1, rtt_us=1) for n in (2, 3, 4))]

    assert not doubts(swarm)


def test_light_has_time_enough_for_links_that_are_really_measured():
    """Round trips between cities of these regions, as networks of 2024 have them."""
    for one, other, rtt_ms in [
        ("us-east", "eu-west", 67.0),  # New York, London
        ("us-west", "as-east", 95.0),  # Seattle, Tokyo
        ("sa", "us-east", 100.0),  # São Paulo, Miami
        ("ap-southeast", "eu", 150.0),  # Singapore, Marseille
        ("au", "us-west", 135.0),
        ("af", "eu-south", 20.0),  # Tunis, Palermo
    ]:
        assert least_rtt_ms(one, other) < rtt_ms


@given(st.sampled_from(sorted(PLACES)), st.sampled_from(sorted(PLACES)))
def test_the_bound_is_that_of_a_pair_and_never_more_than_around_half_the_earth(one, other):
    assert least_rtt_ms(one, other) == pytest.approx(least_rtt_ms(other, one))
    assert 0 <= least_rtt_ms(one, other) < 134
    assert least_rtt_ms(one, one) == 0


def test_a_name_stands_for_the_longest_place_it_begins_with():
    assert place_of("EU-West-3") == "eu-west"
    assert place_of("europe-west4") == "europe"
    assert place_of("eu-lab") == "eu"
    assert place_of("europa") == place_of("") == ""
    assert is_within("EU-west", "eu")
    assert not is_within("europa", "eu")
