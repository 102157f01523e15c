"""Where one host more saves a token the most time: small swarms by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.messages import Span
from scheduler.board import Member
from scheduler.passage import ALONE, FAR_MS, NEAR_MS, through_ms

N = 8
FAST = ALONE * 1000  # blocks a second: a block takes one millisecond


def member(start: int, stop: int, speed: float = FAST) -> Member:
    return Member(Span(start, stop), speed)


def through(members, regions, places, *, speed=FAST, flow=0.0, region="here"):
    found = through_ms(members, regions, N, flow, places, region=region, blocks_per_s=speed)
    return [float(ms) for ms in found]


def test_a_newcomer_is_entered_where_another_host_ends():
    swarm = [member(0, 4), member(4, 8, FAST / 10)]

    [beside] = through(swarm, ["here"] * 2, [Span(4, 8)])

    assert beside == pytest.approx(8 + NEAR_MS)


def test_a_place_that_ends_where_fast_hosts_begin_saves_a_change_of_hosts():
    swarm = [member(0, 8, FAST / 100), member(4, 8)]

    aligned, astride = through(swarm, ["here"] * 2, [Span(0, 4), Span(2, 6)])

    assert aligned < astride


def test_hosts_of_other_regions_are_far():
    swarm = [member(0, 4)]

    [near] = through(swarm, ["here"], [Span(4, 8)])
    [far] = through(swarm, ["there"], [Span(4, 8)])

    assert far - near == pytest.approx(FAR_MS - NEAR_MS)


def test_blocks_of_a_host_that_is_busy_take_longer_so_that_help_goes_there():
    swarm = [member(0, 4, FAST / 4), member(4, 8, FAST / 2)]
    places = [Span(0, 4), Span(4, 8)]

    idle = through(swarm, ["here"] * 2, places)
    used = through(swarm, ["here"] * 2, places, flow=FAST / 16)

    assert used[1] - idle[1] > used[0] - idle[0] > 0
    assert idle[0] < idle[1]  # the slow one is replaced


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_every_place_leads_somewhere_and_a_faster_newcomer_sooner(data):
    spans = data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 8)), max_size=6))
    swarm = [
        member(a, min(N, a + n), data.draw(st.sampled_from([50, 500, FAST]))) for a, n in spans
    ]
    regions = [data.draw(st.sampled_from(["here", "there"])) for _ in swarm]
    places = [Span(start, start + 3) for start in range(N - 2)]

    slow = through(swarm, regions, places, speed=100.0, flow=10.0)
    fast = through(swarm, regions, places, speed=1000.0, flow=10.0)

    assert all(0 < soon < late < float("inf") for soon, late in zip(fast, slow, strict=True))
