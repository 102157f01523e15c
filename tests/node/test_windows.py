"""The law of how many guesses to send, and in how many frames."""

from itertools import pairwise

import pytest

from node.windows import best_window
from node.work import RowCost
from protocol.asking import MAX_DRAFTS

RING_S = 0.15


def window(acceptance: float, *, row_s: float, step_s: float = 0.0, n_decoding: int = 1):
    return best_window(acceptance, RING_S, RowCost(row_s, n_decoding, step_s), n_shares=4.0)


@pytest.mark.parametrize("acceptance", [0.6, 0.85, 0.95])
def test_where_rows_are_cheap_one_frame_carries_them_all(acceptance):
    assert window(acceptance, row_s=0.0001, step_s=0.001).at_once == 0


@pytest.mark.parametrize("acceptance", [0.6, 0.85, 0.95])
def test_where_rows_are_dear_hops_run_small_frames_side_by_side(acceptance):
    in_frames, in_one = (window(acceptance, row_s=0.01, n_decoding=n) for n in (1, 2))

    assert in_frames.at_once in (1, 2)
    assert in_frames.n_guesses > in_one.n_guesses
    assert in_frames.tokens_per_s > 1.3 * in_one.tokens_per_s
    assert in_one.at_once == 0, "others would wait for the steps of small frames"


def test_where_a_step_costs_much_and_a_row_little_frames_are_few():
    assert window(0.85, row_s=0.002, step_s=0.018).at_once == 4


def test_guesses_that_are_seldom_right_are_few_as_somebody_pays_for_their_rows():
    assert 0 < window(0.2, row_s=0.01).n_guesses < 4
    assert window(0.01, row_s=0.01).n_guesses == 0
    assert window(0.99, row_s=0.01).n_guesses > 10


@pytest.mark.parametrize("row_s", [0.0001, 0.002, 0.01, 0.1])
@pytest.mark.parametrize("n_decoding", [1, 8, 64])
def test_more_right_guesses_never_make_it_slower_and_none_are_slower_than_plain(row_s, n_decoding):
    rates = []
    for percent in range(0, 100, 5):
        best = window(percent / 100, row_s=row_s, step_s=0.005, n_decoding=n_decoding)
        assert 0 <= best.n_guesses <= MAX_DRAFTS
        assert best.at_once <= best.n_guesses
        rates.append(best.tokens_per_s)

    assert rates[0] == pytest.approx(1 / RING_S)
    assert all(slower <= 1.05 * quicker for slower, quicker in pairwise(rates))
