"""What a client saw of its peers weighs more than what they say."""

import random

import pytest

from protocol.address import Address
from protocol.errors import (
    BadResult,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    SessionTimeout,
)
from protocol.reachability import Reach, Verdict
from scheduler.blame import Leg, Ride
from scheduler.peer_record import (
    CHEAT,
    DISPUTED_S,
    GONE_MS,
    GONE_S,
    HALF_LIFE_S,
    LINK_S,
    PeerRecords,
)
from scheduler.route_cost import cost_of
from scheduler.routing import Wanted, draw_route, find_routes
from tests.announcing import MANIFEST, NOW_MS, announce, peer_of

NOW = NOW_MS / 1000
ONE, TWO, THREE, FOUR = map(peer_of, (1, 2, 3, 4))


@pytest.fixture
def records():
    return PeerRecords()


def failed(records, n, error, at_s=NOW):
    records.note_failure(peer_of(n), error, at_s, announce(n))


def risk(records, n, at_s=NOW, **changes):
    return records.risk_ms([announce(n, **changes)], at_s).get(peer_of(n), 0.0)


def served(records, n, times, at_s=NOW):
    for _ in range(times):
        records.note_ride(Ride(at_s, 64, 8.5, 0.5, (Leg(peer_of(n), 8, 1.0, 1.0),)))


def test_a_peer_that_never_failed_costs_nothing_beside_its_time(records):
    served(records, 1, 3)

    assert records.risk_ms([announce(1), announce(2)], NOW) == {}


def test_a_failure_costs_the_guilty_peer_and_nobody_else(records):
    failed(records, 1, PeerError(ONE, "it failed"))

    assert risk(records, 1) > 5
    assert risk(records, 2) == 0


def test_who_says_that_no_stranger_can_dial_it_costs_until_it_has_served_unless_others_carry_it(
    records,
):
    hidden, own = Reach(verdict=Verdict.NAT), announce(1).addresses
    relayed = Address("203.0.113.9", 31402, peer_of(1), peer_of(2))

    assert risk(records, 1, reach=hidden) > 5
    assert risk(records, 1, reach=hidden, addresses=(*own, relayed)) == 0
    assert risk(records, 1, reach=Reach(verdict=Verdict.DIRECT)) == 0

    served(records, 1, 1)  # it is a neighbour
    assert risk(records, 1, reach=hidden) == 0


@pytest.mark.parametrize(
    "error",
    [PeerBusy(ONE, "full"), PeerRefused(ONE, "no"), SessionTimeout("our own deadline passed")],
)
def test_honest_refusals_and_our_own_deadline_are_nobodys_failure(records, error):
    failed(records, 1, error)

    assert risk(records, 1) == 0


@pytest.mark.parametrize("error", [PeerMisbehaved(ONE, "forged"), BadResult("NaN")])
def test_what_is_provably_wrong_counts_for_many_failures(records, error):
    failed(records, 1, error)
    failed(records, 2, PeerError(TWO, "it failed"))
    served(records, 1, 8)
    served(records, 2, 8)

    assert risk(records, 1) > CHEAT / 2 * risk(records, 2)


def test_success_and_time_make_a_failure_forgotten(records):
    failed(records, 1, PeerError(ONE, "it failed"))
    at_once, later = risk(records, 1), risk(records, 1, NOW + 3 * HALF_LIFE_S)
    assert later < at_once / 3

    served(records, 1, 20, NOW + 3 * HALF_LIFE_S)

    assert risk(records, 1, NOW + 3 * HALF_LIFE_S) < later / 5


def test_a_peer_that_is_gone_is_out_of_every_route_until_it_says_something_new(records):
    failed(records, 1, PeerUnreachable(ONE, "nobody answers"))

    assert risk(records, 1) >= GONE_MS
    assert 0 < risk(records, 1, sequence=NOW_MS + 1) < 100
    assert 0 < risk(records, 1, NOW + GONE_S + 1) < 100


def test_sessions_that_lose_one_peer_at_the_same_moment_count_once(records):
    for _ in range(64):
        failed(records, 1, PeerError(ONE, "it failed"))

    assert records.standings[ONE].failures == 1


def test_a_link_that_does_not_stand_is_avoided_and_neither_end_is_charged(records):
    records.note_link_down(ONE, TWO, NOW)
    failed(records, 2, PeerError(TWO, "its predecessor cannot reach it"))

    assert list(records.broken_links(NOW)) == [(ONE, TWO)]
    assert risk(records, 1) == risk(records, 2) == 0
    assert not records.broken_links(NOW + LINK_S + 1)


def test_a_link_whose_ends_contradict_each_other_is_avoided_and_neither_is_charged(records):
    for _ in range(3):
        records.note_disputed(ONE, TWO, NOW)

    assert list(records.disputed_links(NOW + LINK_S)) == [(ONE, TWO)]
    assert risk(records, 1) == risk(records, 2) == 0
    assert not records.disputed_links(NOW + DISPUTED_S + 1)


def test_nobody_is_charged_for_disputes_with_however_many_others(records):
    """Each of them may be the one that lies, and all of them one owner's. Its rows may be gone."""
    for number in range(3, 20):
        records.note_disputed(peer_of(number), TWO, NOW)
    records.note_disputed(TWO, ONE, NOW)

    assert risk(records, 1) == risk(records, 2) == risk(records, 3) == 0
    assert len(records.disputed_links(NOW)) == 18


def test_a_peer_that_two_others_cannot_reach_is_charged(records):
    records.note_link_down(ONE, TWO, NOW)
    records.note_link_down(THREE, TWO, NOW)

    assert risk(records, 2) > 0
    assert risk(records, 1) == risk(records, 3) == 0


def test_a_peer_that_complains_about_two_others_is_charged_itself(records):
    records.note_link_down(ONE, TWO, NOW)
    records.note_link_down(ONE, THREE, NOW)

    assert risk(records, 1) > 0
    assert risk(records, 2) == risk(records, 3) == 0


def test_what_chains_took_becomes_what_is_believed(records):
    records.note_ride(Ride(NOW, 64, 16.5, 0.5, (Leg(ONE, 8, 1.0, 1.0),)))

    believed = records.believed([announce(1), announce(2)], NOW)

    assert believed == {ONE: pytest.approx(2.0, rel=0.1)}


class Swarm:
    """Two hosts for each half of the model; what each takes per block is the truth."""

    def __init__(self, liar, takes):
        self.takes = {peer_of(n): ms for n, ms in takes.items()}
        spans = {1: (0, 4), 2: (0, 4), 3: (4, 8), 4: (4, 8)}
        self.peers = [
            announce(n, span, decode_us=round(4000 * takes[n] / (10 if n == liar else 1)))
            for n, span in spans.items()
        ]

    def session(self, records, rng, at_s):
        """One answer over the route that this client would take; the peers of it."""
        wanted = Wanted(manifest=MANIFEST, n_blocks=8)
        routes = find_routes(
            self.peers,
            wanted,
            rtt_ms={(a.peer_id, b.peer_id): 1.0 for a in self.peers for b in self.peers if a != b},
            slowdown=records.believed(self.peers, at_s),
            extra_ms=records.risk_ms(self.peers, at_s),
            seed=rng.getrandbits(32),
        )
        route = draw_route(routes, rng)
        besides_ms = len(route.hops) * 1.0
        token_ms = besides_ms + sum(len(h.span) * self.takes[h.peer_id] for h in route.hops)
        legs = tuple(
            Leg(h.peer_id, len(h.span), cost_of(h.announcement, wanted).compute_ms, ms)
            for h in route.hops
            for ms in [h.announcement.decode_us / 4000]
        )
        noisy_ms = token_ms * rng.uniform(0.97, 1.03)
        records.note_ride(Ride(at_s, 64, noisy_ms, besides_ms, legs))
        return route.peer_ids


@pytest.mark.parametrize("liar", [1, 4])
@pytest.mark.parametrize("takes", [1.0, 10.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_peer_that_announces_ten_times_its_speed_loses_its_traffic_within_20_sessions(
    records, liar, takes, seed
):
    """It is as fast as the others and says it is ten times faster, or says that it is as fast."""
    swarm = Swarm(liar, {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, liar: takes})
    rng = random.Random(seed)

    sessions = [swarm.session(records, rng, NOW + 5 * i) for i in range(160)]

    rode = [peer_of(liar) in peers for peers in sessions]
    assert sum(rode[:20]) <= 3
    assert sum(rode[20:]) <= 3  # those whose blame is doubtful get another chance, now and then
    believed = records.believed(swarm.peers, NOW + 800)
    innocent = [believed.get(peer_of(n), 1.0) for n in (1, 2, 3, 4) if n != liar]
    assert max(innocent) < 0.6 * believed[peer_of(liar)]


def test_honest_peers_of_one_speed_share_the_traffic(records):
    swarm = Swarm(None, {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0})
    rng = random.Random(1)

    sessions = [swarm.session(records, rng, NOW + i) for i in range(200)]

    shares = [sum(peer in peers for peers in sessions) for peer in (ONE, TWO, THREE, FOUR)]
    assert min(shares) > 50
