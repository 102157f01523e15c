"""The flow of a swarm whose spans are fixed, beside a linear program that knows no cuts."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.measured import Measured, State
from protocol.messages import Span
from scheduler import capacity
from scheduler.flow import Changes, Host, Swarm, bottleneck, max_flow
from tests.announcing import MANIFEST, announce
from tests.exact import exact_flow

N = 9
SPANS = st.integers(0, N - 1).flatmap(
    lambda start: st.integers(start + 1, N).map(lambda stop: Span(start, stop))
)
SPEEDS = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 50.0]), st.floats(0.01, 1e4))
HOSTS = st.lists(st.builds(Host, SPANS, SPEEDS), max_size=8)


def speed_of(hosts: list[Host], blocks: set[int]) -> float:
    return sum(speed for span, speed in hosts if blocks & set(range(span.start, span.stop)))


@settings(max_examples=60, deadline=None)
@given(HOSTS)
def test_the_flow_is_what_a_linear_program_finds(hosts):
    assert max_flow(hosts, N) == pytest.approx(exact_flow(hosts, N), rel=1e-6, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(HOSTS)
def test_the_flow_is_the_cheapest_set_of_blocks_gaps_or_not(hosts):
    sets = [set(s) for size in range(1, N + 1) for s in combinations(range(N), size)]

    cheapest = min(speed_of(hosts, blocks) / len(blocks) for blocks in sets)

    assert max_flow(hosts, N) == pytest.approx(cheapest, rel=1e-8, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(HOSTS, SPANS, st.floats(0.1, 1e3))
def test_only_a_host_that_holds_some_of_the_bottleneck_raises_the_flow(hosts, span, speed):
    found = bottleneck(hosts, N)
    limiting = {k for run in found.spans for k in range(run.start, run.stop)}
    flow = found.tokens_per_s

    assert speed_of(hosts, limiting) / len(limiting) == pytest.approx(flow, rel=1e-5, abs=1e-8)
    if not limiting & set(range(span.start, span.stop)):
        with_it = max_flow([*hosts, Host(span, speed)], N)
        assert with_it == pytest.approx(flow, rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(HOSTS, st.lists(SPANS, min_size=1, max_size=5), st.floats(0.1, 1e3), st.floats(0.1, 1e3))
def test_many_hypothetical_changes_at_once_are_the_same_as_one_by_one(hosts, spans, speed, rate):
    others = [Host(Span(0, 5), 7.0), *hosts]
    starts = np.array([[span.start, 0, 1] for span in spans])
    stops = np.array([[span.stop, 5, 2] for span in spans])
    changes = Changes(starts, stops, np.full(starts.shape, [speed, -7.0, 3.0]))
    swarm = Swarm.of(others, N)

    together = swarm.flows(changes)
    served = swarm.served(changes, np.full(len(spans), rate))

    for i, span in enumerate(spans):
        alone = [*hosts, Host(span, speed), Host(Span(1, 2), 3.0)]
        flow = max_flow(alone, N)
        assert together[i] == pytest.approx(flow, rel=1e-8)
        moved = swarm.plus(span, speed).plus(Span(0, 5), -7.0).plus(Span(1, 2), 3.0)
        assert moved.tokens_per_s() == pytest.approx(flow, rel=1e-6)
        # All that is asked for is served exactly as long as it is no more than the flow.
        assert (served[i] >= N * rate * (1 - 1e-9)) == (rate <= flow * (1 + 1e-9))
        assert served[i] <= speed_of(alone, set(range(N))) * (1 + 1e-9)


def test_two_ends_can_limit_while_the_middle_does_not():
    swarm = [Host(Span(0, 3), 3.0), Host(Span(6, 9), 3.0), Host(Span(2, 7), 500.0)]

    found = bottleneck(swarm, N)

    assert found.spans == (Span(0, 2), Span(7, 9))
    assert found.tokens_per_s == pytest.approx(1.5)
    assert found.n_hosts == 2


def test_blocks_without_a_host_are_the_bottleneck():
    assert bottleneck([], N).spans == (Span(0, 9),)
    assert bottleneck([Host(Span(0, 4), 1e8), Host(Span(6, 9), 1e-3)], N).spans == (Span(4, 6),)
    assert max_flow([Host(Span(0, 4), 1e8)], N) == 0.0


def test_a_balanced_swarm_is_limited_everywhere():
    assert bottleneck([Host(Span(0, 5), 5.0), Host(Span(5, 9), 4.0)], N).spans == (Span(0, 9),)


def test_what_is_no_speed_and_what_is_no_model_is_refused():
    for speed in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="blocks per second"):
            max_flow([Host(Span(0, 1), speed)], N)
    with pytest.raises(ValueError, match="has blocks"):
        max_flow([], 0)


def test_hosts_are_as_fast_as_at_their_best_batch_and_only_those_that_stay_count():
    swarm = [
        announce(1, (0, 4), decode_us=4_000),
        announce(2, (4, 8), measured=Measured(decode_steps_us=((1, 4_000), (8, 8_000)))),
        announce(3, (0, 8), measured=Measured(state=State.MOVING)),
        announce(4, (0, 8), manifest=bytes(32)),
        announce(5, None),
        announce(6, (0, 2), decode_us=0),
        announce(7, (0, 2), measured=Measured(decode_steps_us=((2**60, 1),))),
    ]

    assert capacity.hosts(swarm, MANIFEST) == [
        Host(Span(0, 4), pytest.approx(1_000)),
        Host(Span(4, 8), pytest.approx(4_000)),
        Host(Span(0, 2), capacity.UNMEASURED_BLOCKS_PER_S),
        Host(Span(0, 2), capacity.MOST_BLOCKS_PER_S),
    ]
