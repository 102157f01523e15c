"""How far a last hop guesses ahead: as far as that pays, for its session and those beside it.

In: a session's ids, what a row costs here, how many sessions decode here. Out: drafts, or none. Of
a window with `k` drafts, each right with probability a, come N = 1 + a + … + a^k tokens, and it
takes L + k c: L is the time a row takes around the ring, c what one more row costs at all hops.
Where others decode too, each of them waits for that row as well, so it is counted for all of them:
with many sessions guesses stop by themselves, and idle hops run other sessions' rows instead. What
a and L are is measured: guesses are compared with what came, whether or not they were sent.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence

from node.grammars import Grammars
from node.work import RowCost
from protocol.actions import Drafter
from protocol.answer import end_ids
from protocol.asking import ANY_DRAFTER, MAX_DRAFTS
from protocol.lookup import Lookup
from protocol.messages import Reserve

FORGETTING = 0.95  # weight of a guess after another one
PRIOR_RIGHT, PRIOR_GUESSES = 2.0, 4.0  # before any was judged
LATEST = 16  # rounds, of which the shortest tells the time around the ring
INDEX_BYTES = 160  # of a position: where ids like those before it stood last

DRAFTERS: dict[str, Callable[[], Drafter]] = {"lookup": Lookup, ANY_DRAFTER: Lookup}
"""By the name that a client asks for."""


class Drafting:
    """A `protocol.actions.Drafter` that sends as many of another one's guesses as pay.

    n_shares: how many times the blocks of this hop go into the model's.
    """

    def __init__(
        self,
        drafter: Drafter,
        costs: Callable[[int], RowCost],
        n_shares: float,
        ends: frozenset[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drafter, self._costs, self._n_shares, self._ends = drafter, costs, n_shares, ends
        self._clock = clock
        self._right, self._guesses = PRIOR_RIGHT, PRIOR_GUESSES
        self._guess: Sequence[int] = ()  # the latest, of which the first `_sent` were sent
        self._sent = 0
        self._n = 0  # ids by then
        self._rings_s: deque[float] = deque(maxlen=LATEST)
        self._at_s = 0.0

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        costs = self._costs(len(ids))
        self._learn(ids, costs)
        guess = self._drafter.guess(ids, min(most, MAX_DRAFTS))
        for at, token_id in enumerate(guess):
            if token_id in self._ends:  # nothing comes after it
                guess = guess[:at]
                break
        self._guess, self._n = guess, len(ids)
        self._sent = min(len(guess), self._depth(costs)) if guess else 0
        return guess[: self._sent]

    @property
    def acceptance(self) -> float:
        """How probably a guess is right if those before it were."""
        return self._right / self._guesses

    def _learn(self, ids: Sequence[int], costs: RowCost) -> None:
        """From what came of the latest window, and how long that took."""
        now_s = self._clock()
        took_s, self._at_s = now_s - self._at_s, now_s
        if not self._n:
            return
        came = ids[self._n :]
        for guessed, drawn in zip(self._guess, came, strict=False):
            self._guesses = FORGETTING * self._guesses + 1
            self._right = FORGETTING * self._right + (guessed == drawn)
            if guessed != drawn:
                break
        ring_s = took_s - self._sent * costs.row_s * self._n_shares
        # What a row is believed to cost may be too much, as where the head is among few blocks.
        self._rings_s.append(max(ring_s, took_s / 2))

    def _depth(self, costs: RowCost) -> int:
        """How many drafts give the most tokens per second."""
        # A round that was longer waited somewhere: guessing further would make others wait for it.
        ring_s = min(self._rings_s, default=0.0)
        if not ring_s or not costs.row_s:
            return 0  # nothing is known yet of what a window takes
        a, row_s = self.acceptance, costs.row_s * self._n_shares * max(1, costs.n_decoding)
        best, depth = 1 / ring_s, 0
        n_tokens, odds = 1.0, 1.0
        for k in range(1, MAX_DRAFTS + 1):
            odds *= a
            n_tokens += odds
            rate = n_tokens / (ring_s + k * row_s)
            if rate > best:
                best, depth = rate, k
        return depth


def drafter_of(
    reserve: Reserve, costs: Callable[[int], RowCost], grammars: Grammars
) -> Callable[[], Drafter] | None:
    """Who guesses ahead in this session, made anew for each epoch; None: nobody."""
    asked = reserve.extensions
    if not asked.drafter or not reserve.is_last or asked.reads_prompt:
        return None
    make, ends = DRAFTERS[asked.drafter], end_ids(grammars.tokenizer, reserve)
    n_shares = reserve.n_blocks / len(reserve.span)
    return lambda: Drafting(make(), costs, n_shares, ends)


def kept_bytes(reserve: Reserve, positions: int) -> int:
    """What a session keeps of its ids to guess by."""
    return positions * INDEX_BYTES if reserve.is_last and reserve.extensions.drafter else 0
