"""What the link lab's ways do to bytes, by arithmetic alone: the time is an argument."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.linklab.ways import (
    HEADERS_BYTES,
    LEAST_TIMER_S,
    SEGMENT_BYTES,
    Ground,
    Line,
    Stream,
    Way,
)

ways = st.builds(
    Way,
    st.floats(0, 200),
    st.sampled_from([0.0, 1e5, 1e7]),
    st.floats(0, 50),
    st.floats(0, 0.5),
)
sends = st.lists(
    st.tuples(st.floats(0, 0.5), st.binary(min_size=1, max_size=4000)), min_size=1, max_size=8
)


class Dice(random.Random):
    """Throws these, then always 1: nothing more is lost."""

    def __init__(self, *throws):
        super().__init__()
        self._throws = list(throws)

    def random(self):
        return self._throws.pop(0) if self._throws else 1.0


def lossy(*throws):
    """A way of 50 ms and as much back, on which a 0 loses a segment."""
    way = Way(50, loss=0.5)
    return Stream(way, way, (), Dice(*throws))


@given(ways, ways, sends, st.integers(0, 9))
def test_all_bytes_arrive_in_order_and_none_before_its_time(way, back, sends, seed):
    lines = (Line(way.bytes_per_s),) if way.bytes_per_s else ()
    stream, now, came = Stream(way, back, lines, random.Random(seed)), 0.0, b""
    soonest = max(0.0, way.one_way_ms - way.jitter_ms) / 1000
    for after_s, data in sends:
        now += after_s
        came += b"".join(stream.arrived(now))
        stream.send(now, data)
        assert stream.next_s is not None
    assert stream.next_s > 0 or soonest == 0
    while (next_s := stream.next_s) is not None:
        now = max(now, next_s)
        came += b"".join(stream.arrived(now))

    assert came == b"".join(data for _, data in sends)
    assert now >= soonest
    assert stream.queued_bytes == 0


def test_a_clean_way_takes_its_time_and_no_more():
    stream = Stream(Way(50), Way(50), (), random.Random(1))

    stream.send(3.0, b"x" * 5_000)

    assert stream.next_s == pytest.approx(3.05)
    assert stream.arrived(3.049) == []
    assert b"".join(stream.arrived(3.0501)) == b"x" * 5_000


def test_a_line_is_shared_by_all_who_send_on_it():
    line, size = Line(1e6), SEGMENT_BYTES
    one, other = (Stream(Way(10), Way(10), (line,), random.Random(1)) for _ in range(2))

    one.send(0.0, b"x" * size)
    other.send(0.0, b"x" * size)

    wire_s = (size + HEADERS_BYTES) / 1e6
    assert one.next_s == pytest.approx(wire_s + 0.01)
    assert other.next_s == pytest.approx(2 * wire_s + 0.01)
    assert line.queued_s(0.0) == pytest.approx(2 * wire_s)


def test_jitter_stays_within_its_bounds():
    stream = Stream(Way(50, jitter_ms=5), Way(50), (), random.Random(7))

    delays_s = []
    for at in range(200):
        stream.send(at, b"x")
        delays_s.append(stream.next_s - at)
        stream.arrived(at + 0.9)

    assert 0.045 <= min(delays_s) < 0.047
    assert 0.053 < max(delays_s) <= 0.055


def test_a_segment_that_was_alone_waits_for_the_timer():
    stream = lossy(0.0)

    stream.send(0.0, b"x")

    assert stream.next_s == pytest.approx(0.1 + LEAST_TIMER_S + 0.05)
    assert stream.sums.n_lost == 1


def test_a_segment_with_others_behind_it_waits_for_a_round_trip_and_a_quarter():
    stream = lossy(0.0)

    stream.send(0.0, b"x" * 3 * SEGMENT_BYTES)

    assert stream.next_s == pytest.approx(1.25 * 0.1 + 0.05)


def test_the_last_of_several_segments_waits_for_a_probe():
    stream = lossy(1.0, 1.0, 0.0)

    stream.send(0.0, b"x" * 3 * SEGMENT_BYTES)

    assert stream.next_s == pytest.approx(2 * 0.1 + 0.05)


def test_what_is_sent_next_tells_of_a_loss_before_the_timer_does():
    stream = lossy(0.0)

    stream.send(0.0, b"x")
    stream.send(0.02, b"y")

    assert stream.next_s == pytest.approx(0.02 + 1.25 * 0.1 + 0.05)
    assert stream.arrived(0.1) == []  # y is there, and waits for x
    assert b"".join(stream.arrived(1.0)) == b"xy"


def test_what_is_lost_again_waits_twice_as_long():
    stream = lossy(0.0, 0.0)

    stream.send(0.0, b"x")

    assert stream.next_s == pytest.approx(2 * (0.1 + LEAST_TIMER_S) + 0.05)


def test_an_uplink_comes_before_the_way():
    ground = Ground({(0, 1): Way(10, 2e6)}, {0: 1e6}, seed=1)

    stream = ground.stream(0, 1)
    stream.send(0.0, b"x" * SEGMENT_BYTES)

    assert stream.next_s == pytest.approx((SEGMENT_BYTES + HEADERS_BYTES) * (1e-6 + 5e-7) + 0.01)


@pytest.mark.parametrize("bad", [{"one_way_ms": -1}, {"loss": 1.0}, {"jitter_ms": -0.1}])
def test_there_is_no_such_way(bad):
    with pytest.raises(ValueError, match=r"way|loss"):
        Way(**bad)
