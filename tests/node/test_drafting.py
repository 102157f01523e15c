"""A last hop guesses as far ahead as that pays, by what it measured."""

from collections.abc import Sequence

import pytest

from node.drafting import Drafting, Source
from node.work import RowCost
from protocol.asking import MAX_DRAFTS

END = 99


class Counting:
    """Guesses that each id is one more than the one before."""

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        return range(ids[-1] + 1, ids[-1] + 1 + most)


class Ring:
    """One session whose rows take `ring_s` around, `row_s` for each; draws are told by `after`."""

    def __init__(self, *, ring_s: float = 0.1, row_s: float = 0.001, n_decoding: int = 1) -> None:
        self.now_s, self.ring_s, self.row_s = 0.0, ring_s, row_s
        self.cost = RowCost(row_s, n_decoding)
        sources, ends = [Source(Counting())], frozenset({END})
        self.drafting = Drafting(sources, lambda position: self.cost, 1.0, ends, lambda: self.now_s)
        self.ids, self.sent = [0], []

    def play(self, rounds: int, *, misses: int = 0) -> None:
        """Every `misses`-th draw is none that anybody would guess; 0: none is."""
        for _ in range(rounds):
            drafts = list(self.drafting.guess(self.ids, 1000))
            self.sent.append(len(drafts))
            self.now_s += self.ring_s + len(drafts) * self.row_s
            for draft in [*drafts, None]:
                is_miss = bool(misses) and len(self.ids) % misses == 0
                self.ids.append(self.ids[-1] + (7 if is_miss else 1))
                if self.ids[-1] != draft:
                    break


def test_guesses_that_are_right_are_sent_as_far_ahead_as_may_be():
    ring = Ring()
    ring.play(30)

    assert ring.sent[0] == 0, "nothing is known yet"
    assert ring.sent[-1] == MAX_DRAFTS


def test_guesses_that_are_wrong_stop_and_begin_again_when_they_would_be_right():
    ring = Ring(row_s=0.01)
    ring.play(80, misses=1)
    assert ring.sent[-1] == 0
    ring.play(200)
    assert ring.sent[-1] > 4


@pytest.mark.parametrize(("n_decoding", "most"), [(1, MAX_DRAFTS), (8, 6), (64, 0)])
def test_the_more_sessions_wait_for_a_row_the_fewer_are_guesses(n_decoding, most):
    ring = Ring(row_s=0.004, n_decoding=n_decoding)
    ring.play(100, misses=5)

    assert ring.sent[-1] <= most
    assert most == 0 or ring.sent[-1] > 0


def test_one_slow_round_is_no_reason_to_guess_further():
    ring = Ring(row_s=0.05)
    ring.play(100, misses=3)
    usual = ring.sent[-1]
    ring.now_s += 60.0
    ring.play(1, misses=3)
    ring.play(1, misses=3)

    assert ring.sent[-1] <= usual + 1


def test_sessions_that_wait_at_other_hops_are_no_reason_to_guess_further():
    alone, beside = (Ring(ring_s=0.05, row_s=0.01) for _ in range(2))
    for n in range(60):
        alone.play(1, misses=4)
        beside.ring_s = 0.05 if n % 5 == 0 else 0.18  # rows stand in line at a hop that is shared
        beside.play(1, misses=4)

    assert max(beside.sent[20:]) <= max(alone.sent[20:]) + 1
    assert max(alone.sent) > 0


def test_a_ring_that_became_much_slower_is_learned_in_the_midst_of_an_answer():
    ring = Ring(ring_s=0.01, row_s=0.01)
    ring.play(40, misses=4)
    before = ring.sent[-1]
    ring.ring_s = 0.2
    ring.play(40, misses=4)

    assert ring.sent[-1] > before + 1


def test_a_row_that_is_believed_to_cost_too_much_does_not_hide_the_ring():
    ring = Ring(ring_s=0.02, row_s=0.0002)
    ring.cost = RowCost(0.004, 1)
    ring.play(60)

    assert ring.sent[-20:] == [MAX_DRAFTS] * 20


def test_nothing_is_guessed_behind_the_end():
    ring = Ring()
    ring.play(3)
    ring.ids[-1] = END - 3

    assert list(ring.drafting.guess(ring.ids, 10)) == [END - 2, END - 1]


def test_small_frames_that_come_back_one_long_after_the_other_are_given_up():
    """Hops that share their cores do not run them side by side, whatever a step is said to cost."""
    apart, sharing = (Ring(ring_s=0.15, row_s=0.04) for _ in range(2))
    for ring in (apart, sharing):
        ring.cost = RowCost(0.01, 1)
        ring.drafting._n_shares = 4.0
    widths: list[int] = []
    for ring, each_s in ((apart, 0.01), (sharing, 0.2)):
        ring.row_s = 0.0  # `took_s` is all there is
        for _ in range(60):
            n = len(ring.drafting.guess(ring.ids, 1000))
            at_once = ring.drafting.at_once or 1 + n
            ring.now_s += ring.ring_s + (at_once - 1) * 0.04
            ring.now_s += each_s * (-(-(1 + n) // at_once) - 1)
            ring.ids += range(ring.ids[-1] + 1, ring.ids[-1] + 2 + n)
        widths.append(ring.drafting.at_once or 1 + n)

    assert widths[0] < 4
    assert widths[1] >= 8
