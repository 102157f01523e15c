"""How many guesses to send, and in how many frames: the law of docs/speed.md, as a function.

In: what was measured of a ring. Out: the window that brings the most tokens per second. One of `k`
guesses, each right with probability a, brings N = 1 + a + … + a^k tokens. In one frame it takes
L + k c: L is a row's time around the ring, c what one more costs all hops, one hop after the other.
In frames of `m` rows hops work side by side: the first is back after L + (m - 1) c, and each
further one a step of the slowest hop later, if the ring is still waiting for it, which it is with
probability a^rows before it. Each frame costs a step of its own, so light hops want one frame.
"""

from dataclasses import dataclass

from node.work import RowCost
from protocol.asking import MAX_DRAFTS

FRAMES = (1, 2, 4, 8)  # rows in one
CLEARLY = 1.1  # as much better small frames have to be than one: what is measured is never exact
WORTH = 0.003  # of the speed is what each guess in them has to add: the client pays for its row
LIGHT = 0.1  # where all rows that may be sent cost less of a round, nobody reckons with frames


@dataclass(frozen=True, slots=True)
class Window:
    """What to send. at_once: rows in a frame; 0: all of them."""

    n_guesses: int
    tokens_per_s: float
    at_once: int = 0


def best_window(
    acceptance: float,
    ring_s: float,
    costs: RowCost,
    n_shares: float,
    *,
    guess_s: float = 0.0,
    lag: float = 1.0,
) -> Window:
    """The most tokens per second.

    Args:
        acceptance: how probably a guess is right if those before it were.
        ring_s: what one row takes around the ring.
        costs: of a row here. Others who decode wait for each as well.
        n_shares: how many times the blocks of this hop go into the model's.
        guess_s: what it takes to think of one.
        lag: how many times later a frame is back behind another one than `frame_s` says: other
            hops may be slower, or share their cores.
    """
    each_s = costs.row_s * n_shares * max(1, costs.n_decoding) + guess_s
    best = Window(0, 1 / ring_s)
    n_tokens, odds = 1.0, 1.0
    for k in range(1, MAX_DRAFTS + 1):
        odds *= acceptance
        n_tokens += odds
        rate = n_tokens / (ring_s + k * each_s)
        if rate > best.tokens_per_s:
            best = Window(k, rate)
    # Frames are steps of their own, which other sessions would wait for; they go first. And nobody
    # runs one beside a hop that has most of the blocks.
    is_alone = costs.n_decoding <= 1 and n_shares >= 2
    if not is_alone or MAX_DRAFTS * each_s < LIGHT * ring_s:
        return best
    least, worth = CLEARLY * best.tokens_per_s, 0.0
    for at_once in FRAMES:
        for n_rows in range(2 * at_once, MAX_DRAFTS + 2, at_once):
            waited_for = sum(acceptance**rows for rows in range(at_once, n_rows, at_once))
            first_s = ring_s + (at_once - 1) * costs.row_s * n_shares
            frames_s = first_s + waited_for * lag * frame_s(costs, at_once)
            n_tokens = sum(acceptance**k for k in range(n_rows))
            rate = n_tokens / (frames_s + (n_rows - 1) * guess_s)
            if rate > least and rate * (1 - WORTH * n_rows) > worth:
                best, worth = Window(n_rows - 1, rate, at_once), rate * (1 - WORTH * n_rows)
    return best


def frame_s(costs: RowCost, rows: int) -> float:
    """How much later a frame is back than the one before it, where hops are alike."""
    return costs.step_s + rows * costs.row_s
