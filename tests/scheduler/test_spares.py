"""When rows are worth copying before anybody is lost."""

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from protocol.measured import ASSUMED_BYTES_PER_S, Measured
from protocol.messages import Span
from scheduler.spares import (
    AGAIN_S,
    LEAST_ROWS,
    MOST_COPY_S,
    RENEW_S,
    SHARE,
    Progress,
    is_worth,
)
from tests.announcing import announce

SPAN = Span(0, 4)


def peer(up: int = 0, down: int = 0, position_bytes: int = 1000, prefill_us: int = 1000):
    measured = Measured(up_bytes_per_s=up, down_bytes_per_s=down, position_bytes=position_bytes)
    return announce(1, measured=measured, prefill_us_per_row=prefill_us)


def worth(n_rows: int = 300, giver=None, spare=None, rest_s: float = inf) -> bool:
    return is_worth(n_rows, SPAN, giver=giver or peer(), spare=spare or peer(), rest_s=rest_s)


def test_a_copy_is_due_when_it_would_add_enough_and_the_last_one_is_old():
    assert Progress(n_rows=LEAST_ROWS).is_due
    assert not Progress(n_rows=LEAST_ROWS - 1).is_due
    assert not Progress(n_rows=300, n_held=100, since_s=AGAIN_S - 0.1).is_due
    assert Progress(n_rows=300, n_held=100, since_s=AGAIN_S).is_due


def test_what_is_held_is_asked_for_again_before_the_spare_forgets_it():
    assert Progress(n_rows=300, n_held=299, since_s=RENEW_S).is_due
    assert not Progress(n_rows=30, n_held=0, since_s=RENEW_S).is_due, "nothing is"


@given(st.integers(0, 1000))
def test_failures_make_the_wait_longer_and_never_endless(n_failures):
    again_s = next(
        s for s in range(1000) if Progress(n_rows=300, since_s=s, n_failures=n_failures).is_due
    )

    assert again_s == AGAIN_S * 2 ** min(n_failures, 5)


def test_a_copy_takes_a_tenth_of_the_way_up_or_what_the_spares_way_down_is():
    most = int(MOST_COPY_S * SHARE * ASSUMED_BYTES_PER_S / 500)  # rows, of half a span
    assert worth(most)
    assert not worth(most + 1)
    assert worth(2 * most, giver=peer(up=2 * ASSUMED_BYTES_PER_S))
    narrow = peer(down=int(SHARE * ASSUMED_BYTES_PER_S / 2))
    assert not worth(most, spare=narrow)


def test_a_copy_that_comes_late_or_saves_nothing_is_not_worth_it():
    copy_s = 300 * 500 / (SHARE * ASSUMED_BYTES_PER_S)
    assert worth(rest_s=2.1 * copy_s)
    assert not worth(rest_s=1.9 * copy_s)
    assert not worth(spare=peer(prefill_us=100)), "it runs them again in 15 ms"


def test_nothing_is_copied_from_or_to_somebody_of_whom_nothing_is_known():
    for who in ({"giver": None}, {"spare": None}):
        known = {"giver": peer(), "spare": peer()} | who
        assert not is_worth(300, SPAN, **known, rest_s=inf)
