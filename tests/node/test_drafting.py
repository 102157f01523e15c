"""A last hop guesses as far ahead as that pays, by what it measured."""

from collections.abc import Callable, Sequence

import pytest

from node.drafting import Drafting, Source
from node.thinking_time import MOST_PIECE, PIECE_S, ThinkingTime
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


class Model:
    """A source that takes time. Guesses are there when `is_in_time` says so."""

    def __init__(self, thinks_s: float, right: int = 1) -> None:
        self.thinks_s, self.right, self.asked, self.is_in_time = thinks_s, right, 0, True

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        self.asked += most > 0
        return [self.right] * most if self.is_in_time else ()

    def drafting(self, cost: RowCost, n_shares: float, clock: Callable[[], float]) -> Drafting:
        source = Source(self, lambda: self.thinks_s)
        return Drafting([source], lambda position: cost, n_shares, frozenset(), clock)


@pytest.mark.parametrize("others_s", [0.004, 0.1])
def test_guesses_that_were_ready_and_waits_of_others_do_not_make_a_ring_shorter(others_s):
    """What a guess takes is one figure for all sessions; here they are ready when a token comes."""
    now_s, model, ids, sent = 0.0, Model(0.004), [1] * 20, []
    drafting = model.drafting(RowCost(0.0002, 1, 0.001), 4.0, lambda: now_s)
    for n in range(40):
        if n == 20:
            model.thinks_s = others_s
        sent.append(len(drafting.guess(ids, 500)))
        now_s += 0.03 + 0.0008 * sent[-1]
        ids = [*ids, *[1] * (1 + sent[-1])]
        assert min(drafting._rings_s, default=1.0) > 0.02

    assert sent[19] == MAX_DRAFTS
    assert sent[-1] == (MAX_DRAFTS if others_s < 0.03 else 0)


def test_what_late_guesses_were_waited_for_is_no_time_of_the_ring():
    now_s, model, ids = 0.0, Model(0.005), [1] * 20
    drafting = model.drafting(RowCost(0.0002, 1, 0.001), 4.0, lambda: now_s)
    for _ in range(20):
        model.is_in_time = False
        drafting.guess(ids, 500)
        model.is_in_time = True
        now_s += 0.02
        n = len(drafting.guess(ids, 500))  # it thought of something: they follow the token
        now_s += (0.03 + 0.0008 * n) if n else 0.01
        ids = [*ids, *[1] * (1 + n)]

    assert n > 0
    assert min(drafting._rings_s) == pytest.approx(0.03, rel=0.1)


def test_a_ring_that_takes_no_time_is_no_reason_to_guess_and_no_mistake():
    model, ids = Model(0.0), [1] * 20
    drafting = model.drafting(RowCost(0.001, 1, 0.005), 4.0, lambda: 1.0)
    for _ in range(10):
        assert not drafting.guess(ids, 500)
        ids = [*ids, 1]


def test_a_model_that_is_always_too_late_is_asked_now_and_then_only():
    now_s, model, ids = 0.0, Model(0.2), [1] * 20
    model.is_in_time = False
    drafting = model.drafting(RowCost(0.001, 1, 0.005), 4.0, lambda: now_s)
    for _ in range(200):
        drafting.guess(ids, 500)
        now_s, ids = now_s + 0.05, [*ids, 1]

    assert 0 < model.asked <= 2 * (200 // 17 + 1)


def test_a_model_that_has_become_quick_is_found_out():
    now_s, model, ids = 0.0, Model(0.2), [1] * 20
    drafting = model.drafting(RowCost(0.001, 1, 0.001), 4.0, lambda: now_s)
    for n in range(100):
        model.thinks_s = 0.2 if n < 50 else 0.001
        sent = drafting.guess(ids, 500)
        now_s, ids = now_s + 0.05, [*ids, *[1] * (1 + len(sent))]
        assert not sent or n >= 50

    assert sent


def test_reading_a_prompt_and_one_long_wait_are_no_time_of_a_guess():
    time = ThinkingTime()
    for _ in range(200):
        time.took(32, 0.1)
    assert time.guess_s == 0

    for waited_s in (0.0, 3.0, 0.0, 0.0, 0.0):
        time.took(1, 0.002, waited_s)
    assert time.guess_s == 0.002


def test_a_prompt_is_read_in_pieces_that_take_no_long_time():
    slow, quick = ThinkingTime(), ThinkingTime()
    for _ in range(20):
        slow.took(slow.piece_rows, 0.005 + 0.0005 * slow.piece_rows)
        quick.took(quick.piece_rows, 0.001 + 1e-6 * quick.piece_rows)

    assert 0.005 + 0.0005 * slow.piece_rows <= 1.1 * PIECE_S
    assert quick.piece_rows == MOST_PIECE
