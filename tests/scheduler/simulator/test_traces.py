"""Who is there when, on each kind of day: what their names promise holds for any seed."""

import random
from itertools import pairwise

import pytest

from scheduler.simulator import Asking, ModelShape, Trace, World, make_trace, volunteers
from scheduler.simulator.traces import KINDS, Churn

HORIZON_S = 6000.0
MODEL = ModelShape(n_blocks=16)
WORLD = World(MODEL, volunteers(200, random.Random(5), MODEL))
LARGEST = "eu"


def day(kind: str, seed: int = 1) -> Trace:
    rng = random.Random(f"{kind} {seed}")
    return make_trace(kind, WORLD, rng, asking=Asking(per_s=0.5), horizon_s=HORIZON_S)


def there(trace: Trace, at: float, region: str | None = None) -> float:
    """Which part of the peers, of that region or of all, is there at this part of the trace."""
    peers = [peer.peer_id for peer in WORLD.peers if region in (None, peer.region)]
    at_s = at * HORIZON_S
    here = {p.peer_id for p in trace.presences if p.join_s <= at_s < p.leave_s}
    return sum(peer in here for peer in peers) / len(peers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_day_is_the_same_for_the_same_seed_and_nobody_comes_who_is_there(kind):
    trace = day(kind)

    assert trace == day(kind) != day(kind, seed=2)
    assert trace.requests == tuple(sorted(trace.requests))
    assert all(0 <= request.at_s < HORIZON_S for request in trace.requests)
    for peer in WORLD.peers:
        own = [p for p in trace.presences if p.peer_id == peer.peer_id]
        assert all(before.leave_s < after.join_s for before, after in pairwise(own))


def test_on_a_steady_day_everybody_stays():
    trace = day("steady")

    assert len(trace.presences) == len(WORLD.peers)
    assert [there(trace, at) for at in (0.0, 0.5, 0.999)] == [1.0, 1.0, 1.0]


def test_on_an_exponential_day_as_many_are_there_as_their_stays_and_absences_make():
    trace, churn = day("exponential"), Churn()

    mix = churn.stay_s / (churn.stay_s + churn.away_s)
    means = sum(there(trace, at / 10) for at in range(10)) / 10
    assert means == pytest.approx(mix, abs=0.08)
    proper = [p.is_proper for p in trace.presences if p.leave_s < HORIZON_S]
    assert sum(proper) / len(proper) == pytest.approx(1 - churn.crash, abs=0.1)


def test_on_a_diurnal_day_each_region_has_its_night_and_they_differ():
    trace = day("diurnal")

    hours = [at / 20 for at in range(20)]
    for region in {peer.region for peer in WORLD.peers}:
        here = [there(trace, at, region) for at in hours]
        assert min(here) < 0.2, "its night"
        assert max(here) > 0.6, "its evening"
    nights = {
        min(hours, key=lambda at: there(trace, at, region))
        for region in {peer.region for peer in WORLD.peers}
    }
    assert len(nights) > 2


def test_a_flash_crowd_comes_and_goes_and_asks_for_twice_as_much():
    trace = day("flash crowd")

    assert there(trace, 0.3) < 0.6
    assert there(trace, 0.55) > there(trace, 0.3) + 0.2
    assert there(trace, 0.9) < there(trace, 0.55) - 0.2
    busy = sum(0.4 <= r.at_s / HORIZON_S < 0.6 for r in trace.requests)
    assert busy / len(trace.requests) == pytest.approx(0.4 / 1.2, abs=0.05)


def test_in_an_outage_a_whole_region_goes_without_a_word_and_comes_back():
    trace = day("outage")

    assert there(trace, 0.35, LARGEST) > 0.5
    assert [there(trace, at, LARGEST) for at in (0.41, 0.5, 0.59)] == [0.0, 0.0, 0.0]
    assert there(trace, 0.7, LARGEST) > 0.5
    assert there(trace, 0.5, "asia") > 0.4
    gone = [p for p in trace.presences if p.leave_s == 0.4 * HORIZON_S]
    assert gone
    assert not any(p.is_proper for p in gone)
