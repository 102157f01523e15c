"""How far a last hop guesses ahead: as far as that pays, for its session and those beside it.

In: a session's ids, what a row costs here, how many sessions decode here. Out: drafts, or none. How
many, and in how many frames, follows from the law of `windows.py`. Where others decode too, each of
them waits for a row as well, so it is counted for all of them: with many sessions guesses stop by
themselves, and idle hops run other sessions' rows instead. What the law needs is measured: guesses
are compared with what came, whether or not they were sent. Of several sources that one is taken
which brings most.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.draft_model import DraftModel, Thoughts, wants_model
from node.windows import Window, best_window, frame_s
from node.work import RowCost
from protocol.actions import Drafter, Launcher
from protocol.answer import end_ids
from protocol.asking import ANY_DRAFTER, MAX_DRAFTS
from protocol.guess_allowance import Allowance
from protocol.lookup import Lookup
from protocol.messages import Commit, Reserve

if TYPE_CHECKING:
    from node.surroundings import Surroundings

FORGETTING = 0.95  # weight of a guess after another one
PRIOR_RIGHT, PRIOR_GUESSES = 2.0, 4.0  # before any was judged
LATEST = 16  # rounds, of which the shortest tells the time around the ring
PROBING = 16  # ids, after which two guesses are thought of that do not pay, to see
LAGGING, MOST_LAG = 0.2, 10.0  # weight of the latest round that was waited for; what one may say
RELAXING = 0.995  # of what lag there is, each round that tells nothing of it: it is tried again
INDEX_BYTES = 160  # of a position: where ids like those before it stood last

DRAFTERS: dict[str, Callable[[], Drafter]] = {"lookup": Lookup, ANY_DRAFTER: Lookup}
"""By the name that a client asks for; besides, there may be a model."""


@dataclass(slots=True)
class Source:
    """Where guesses come from. thinks_s: what one takes; None: no time at all."""

    drafter: Drafter
    thinks_s: Callable[[], float] | None = None
    right: float = PRIOR_RIGHT
    guesses: float = PRIOR_GUESSES
    guess: Sequence[int] = ()  # the latest

    @property
    def acceptance(self) -> float:
        """How probably a guess is right if those before it were."""
        return self.right / self.guesses

    @property
    def guess_s(self) -> float:
        return self.thinks_s() if self.thinks_s is not None else 0.0

    def learn(self, came: Sequence[int]) -> None:
        for guessed, drawn in zip(self.guess, came, strict=False):
            self.guesses = FORGETTING * self.guesses + 1
            self.right = FORGETTING * self.right + (guessed == drawn)
            if guessed != drawn:
                break


class Drafting:
    """A `protocol.actions.Drafter` that sends as many of others' guesses as pay.

    n_shares: how many times the blocks of this hop go into the model's. allowance: what the client
        pays for of guesses that it could not have made; None: nobody makes such guesses here.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        costs: Callable[[int], RowCost],
        n_shares: float,
        ends: frozenset[int],
        clock: Callable[[], float] = time.monotonic,
        *,
        allowance: Allowance | None = None,
    ) -> None:
        self._sources, self._costs = sources, costs
        self._n_shares, self._ends, self._clock = n_shares, ends, clock
        self._allowance = allowance
        self._sent = self._n = 0  # the first few of somebody's guess, and ids by then
        self._probed, self._due = -1, 0  # ids when one that did not pay was asked for; will be
        self._is_second = False
        self._rings_s: deque[float] = deque(maxlen=LATEST)
        self.at_once = 0
        self._lag = 1.0  # how much later small frames come than the law has it
        self._at_s = self._late_s = 0.0  # when ids came last, and how much later guesses went
        self._follow = False  # the newest id had gone by then

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        costs, is_new = self._costs(len(ids)), len(ids) != self._n
        if is_new:  # else somebody thought of something meanwhile
            self._learn(ids, costs)
        self._n, self._sent = len(ids), 0
        best: Sequence[int] = ()
        rate = 0.0
        for source in self._sources:  # those that need no time first
            if not is_new and source.thinks_s is None:
                continue  # what it had to say was not sent
            guess, window = self._ask(source, ids, min(most, MAX_DRAFTS), costs, rate)
            if guess and window.tokens_per_s > rate:
                best, rate, self.at_once = guess, window.tokens_per_s, window.at_once
        self._sent, self._follow = len(best), not is_new
        self._late_s = self._clock() - self._at_s
        if self._allowance is not None:
            self._allowance.sent(self._sent)
        return best

    def _ask(
        self, source: Source, ids: Sequence[int], most: int, costs: RowCost, rate: float
    ) -> tuple[Sequence[int], Window]:
        """What to send of its guess, and the window that it would be.

        rate: of what others guess. A model does not think of what will not be sent, but to see.
        """
        window = self._window(costs, source)
        depth = window.n_guesses
        if source.thinks_s is not None:
            if not depth or window.tokens_per_s <= rate:
                depth, most = 0, min(most, 1 if self._is_probed(len(ids)) else 0)
            most = min(most, depth or most)
            if self._allowance is not None:
                depth = min(depth, self._allowance.most)
        source.guess = guess = self._until_end(source.drafter.guess(ids, most))
        return guess[:depth], window

    def _is_probed(self, n: int) -> bool:
        """Whether one guess is asked for here that does not pay. Whether it comes or not, the next
        is some ids later: who thinks too slowly does not think at each token. Two behind each
        other: the first reads what came since, so only the second says what a guess takes.
        """
        if n >= self._due and n != self._probed:
            self._probed, self._due = n, n + (PROBING if self._is_second else 1)
            self._is_second = not self._is_second
        return n == self._probed

    def _until_end(self, guess: Sequence[int]) -> Sequence[int]:
        for at, token_id in enumerate(guess):
            if token_id in self._ends:  # nothing comes after it
                return guess[:at]
        return guess

    def _learn(self, ids: Sequence[int], costs: RowCost) -> None:
        """From what came of the latest window, and how long that took."""
        now_s = self._clock()
        took_s, self._at_s = now_s - self._at_s, now_s
        if not self._n:
            return
        came = ids[self._n :]
        for source in self._sources:
            source.learn(came)
        if self._allowance is not None:
            self._allowance.came(len(came), min(self._sent, len(came) - 1))
        n_judged = min(len(came), 1 + self._sent)
        rows = min(1 + self._sent, self.at_once or 1 + self._sent)  # of a frame
        if self._follow and n_judged == 1:
            rows = 1  # it was not waited for: the row of the token had gone before
        else:
            took_s -= self._late_s
        ring_s = took_s - (rows - 1) * costs.row_s * self._n_shares
        n_waited = -(-n_judged // rows) - 1  # frames behind the first
        behind_s = n_waited * frame_s(costs, rows)
        if behind_s and self._rings_s:
            lag = min(max(0.0, ring_s - min(self._rings_s)) / behind_s, MOST_LAG)
            self._lag += LAGGING * (lag - self._lag)
        else:
            self._lag = 1 + (self._lag - 1) * RELAXING
        ring_s -= behind_s  # and no correction, or each would draw the other along
        # What a row is believed to cost may be too much, as where the head is among few blocks.
        self._rings_s.append(max(ring_s, took_s / (2 + n_waited)))

    def _window(self, costs: RowCost, source: Source) -> Window:
        """What of its guesses is worth sending now."""
        # A round that was longer waited somewhere: guessing further would make others wait for it.
        ring_s = min(self._rings_s, default=0.0)
        if ring_s <= 0 or not costs.row_s:
            return Window(0, 0.0)  # nothing is known yet of what a window takes
        measured = source.acceptance, ring_s, costs, self._n_shares
        return best_window(*measured, guess_s=source.guess_s, lag=self._lag)


def drafter_of(
    reserve: Reserve, around: "Surroundings", thoughts: Thoughts | None
) -> Callable[[Commit], Launcher] | None:
    """Who guesses ahead in this session, made anew for each epoch; None: nobody."""
    asked = reserve.extensions
    if not asked.drafter or not reserve.is_last or asked.reads_prompt:
        return None
    make, ends = DRAFTERS.get(asked.drafter), end_ids(around.grammars.tokenizer, reserve)
    costs = around.batcher.row_cost
    n_shares = reserve.n_blocks / len(reserve.span)

    def made(commit: Commit) -> Drafting:
        sources, allowance = [Source(make())] if make is not None else [], None
        if thoughts is not None:
            thoughts.begin_epoch()
            sources.append(Source(thoughts, lambda: thoughts.model.time.guess_s))
            allowance = Allowance(is_first=commit.n == commit.n_prompt)
        return Drafting(sources, costs, n_shares, ends, allowance=allowance)

    return made


def kept_bytes(reserve: Reserve, positions: int, model: DraftModel | None) -> int:
    """What a session keeps of its ids to guess by."""
    asked = reserve.extensions.drafter
    index = positions * INDEX_BYTES if reserve.is_last and asked in DRAFTERS else 0
    return index + (model.kept_bytes(positions) if model and wants_model(reserve) else 0)
