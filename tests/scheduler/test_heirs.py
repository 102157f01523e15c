"""Whether who takes a leaver's place copies what it has run, runs it again, or need not come."""

import pytest

from protocol.measured import Measured
from protocol.messages import Leaving, Span
from scheduler.heirs import Choice, Estimate, estimate
from scheduler.routing import Route, RouteHop
from tests.announcing import announce


@pytest.mark.parametrize(
    ("times", "choice"),
    [
        ({"copy_s": 0.2, "run_again_s": 3.0, "rest_s": 60.0}, Choice.HAND_OVER),
        (
            {"copy_s": 0.9, "run_again_s": 0.1, "rest_s": 60.0},
            Choice.HAND_OVER,
        ),  # beside the answer
        ({"copy_s": 9.0, "run_again_s": 3.0, "rest_s": 60.0}, Choice.RUN_AGAIN),
        (
            {"copy_s": 40.0, "run_again_s": 90.0, "rest_s": 60.0},
            Choice.RUN_AGAIN,
        ),  # it is gone by then
        ({"copy_s": 0.2, "run_again_s": 3.0, "rest_s": 0.5}, Choice.STAY),
        ({"copy_s": 9.0, "run_again_s": 3.0, "rest_s": 2.0}, Choice.STAY),
        ({"copy_s": 0.2, "run_again_s": 3.0, "rest_s": float("inf")}, Choice.HAND_OVER),
    ],
)
def test_the_choice_is_what_disturbs_the_answer_least(times, choice):
    assert Estimate(left_s=30.0, **times).choice is choice


@pytest.mark.parametrize(
    ("told", "row_us"),
    [
        ({}, 16_000),  # 2 ms in each of 8 blocks: nobody knows better
        ({"measured": Measured(rows_per_s=500)}, 2_000),
        ({"measured": Measured(rows_per_s=3)}, 16_000),  # it had nothing to do
        ({"measured": Measured(decode_steps_us=((1, 4_000), (8, 8_000)))}, 1_000),
        ({"decode_us": 4_000, "measured": Measured(rows_per_s=100)}, 4_000),
        ({"prefill_us_per_row": 300, "measured": Measured(rows_per_s=9_000)}, 300),
    ],
)
def test_an_heir_that_measured_no_prefill_is_judged_by_the_rows_it_says_it_runs(told, row_us):
    peer = announce(1, (0, 8), **{"decode_us": 0, "prefill_us_per_row": 0, **told})
    route = Route((RouteHop(peer, Span(2, 6)),), cost_ms=1.0)
    leaving = Leaving(epoch=1, row_bytes=1_000, up_bytes_per_s=0, left_ms=5_000)

    found = estimate([route], leaving, n_rows=100, rest_s=60, left_s=5)

    assert found.run_again_s == pytest.approx(100 * row_us / 1e6 / 2)
