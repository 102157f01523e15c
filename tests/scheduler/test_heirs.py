"""Whether who takes a leaver's place copies what it has run, runs it again, or need not come."""

import pytest

from scheduler.heirs import Choice, Estimate


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
