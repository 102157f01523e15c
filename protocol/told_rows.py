"""What token events tell of the rows that all hops of a chain ran in one epoch (DESIGN 5a.11).

In: events in order, each with the rows that were sent since the last one. Out: the positions that
were run, some of them twice: where drafts were refused, the rows behind the token that was drawn
instead are run again. What an honest hop states is no more than this, and may be less: rows that
were taken back before it ran them. Both sides sign the smaller, counter by counter.

A last hop's word for what it guessed is not needed: what `lookup` says is a function of the ids, so
the client asks its own, and believes in no more drafts than that one has. What a model at the last
hop says is believed as far as its word goes that it was right (`guess_allowance.py`).
"""

from collections.abc import Sequence

from protocol.actions import Drafter
from protocol.chain_actions import Stretch
from protocol.guess_allowance import Allowance
from protocol.messages import TokenEvent


class ToldRows:
    """Of one epoch, in which a chain goes on behind `n` ids.

    most_drafts: that were asked for behind one token; what is told beyond is not believed.
    drafter: says at least as much as the last hop's may, with the same ids; it may have been asked
        in earlier epochs. None: nobody here knows that one.
    is_earned: besides, as many are believed as were earned. With neither, all up to the most are.
    is_first: no token came in an epoch before.
    """

    def __init__(
        self,
        n: int,
        most_drafts: int,
        drafter: Drafter | None = None,
        *,
        is_earned: bool = False,
        is_first: bool = True,
    ) -> None:
        self._n, self._most_drafts, self._drafter = n, most_drafts, drafter
        self._allowance = Allowance(is_first=is_first) if is_earned else None
        self._refused: list[Stretch] = []
        self._stop = 0  # up to where rows were run

    def heard(self, event: TokenEvent, ids: Sequence[int]) -> bool:
        """Whether it is the first token of a round: others of one window take no time.

        ids: those before its token. Rows of a token event begin with the last of them. Those that
        had been run from there on were drafts that were refused.
        """
        start = event.position - 1
        # Its row had to be sent, whatever is told: who tells none hides no round of its own.
        begins_round = event.rows > 0 or start >= self._stop
        if event.position == self._n:
            self._stop = self._n  # the prompt, or what it was replayed for
        elif event.rows:
            if self._stop > start:
                self._refused.append(Stretch(start, self._stop, self._n))
            n_guesses = min(event.rows - 1, self._most_guessed(ids))
            self._stop = start + 1 + n_guesses
            if self._allowance is not None:
                self._allowance.sent(n_guesses)
        if self._allowance is not None and event.position > self._n:
            self._allowance.came(1, 0 if begins_round else 1)
        return begins_round

    def _most_guessed(self, ids: Sequence[int]) -> int:
        """How many drafts there may have been behind these ids.

        Asked at each round, as the last hop asks: a drafter may read long prompts bit by bit.
        """
        earned = self._allowance.most if self._allowance is not None else 0
        if not self._most_drafts or (self._drafter is None and self._allowance is None):
            return self._most_drafts
        guess = self._drafter.guess(ids, self._most_drafts) if self._drafter is not None else ()
        return min(self._most_drafts, max(len(guess), earned))

    def stretches(self, base: int, reached: int) -> list[Stretch]:
        """All that a hop ran which had `base` rows; at least those before `reached`, once."""
        stop = max(reached, self._stop)
        return [*self._refused, Stretch(base, stop, self._n)] if stop > base else []
