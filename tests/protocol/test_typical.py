"""What something usually takes."""

import statistics

from hypothesis import given
from hypothesis import strategies as st

from protocol.typical import PARTS, typical

TIMES = st.floats(1e-6, 1e6)


@given(st.lists(TIMES, min_size=1, max_size=200))
def test_it_lies_among_what_was_seen(times):
    assert min(times) <= typical(times) * (1 + 1e-9)
    assert typical(times) <= max(times) * (1 + 1e-9)


@given(st.integers(1, 20), TIMES, TIMES)
def test_what_comes_again_and_again_counts_as_often_as_it_comes(n_rounds, often, seldom):
    times = [often, often, often, seldom] * (PARTS * n_rounds)

    assert abs(typical(times) / statistics.fmean(times) - 1) < 1e-9


def test_one_hiccup_is_not_typical():
    assert typical([1.0] * 30 + [1000.0] + [1.0] * 33) == 1.0


def test_a_few_times_speak_by_their_median():
    assert typical([3.0]) == 3.0
    assert typical([1.0, 2.0, 90.0]) == 2.0
