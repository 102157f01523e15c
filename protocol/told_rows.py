"""What token events tell of the rows that all hops of a chain ran in one epoch (DESIGN 5a.11).

In: events in order, each with the rows that were sent since the last one. Out: the positions that
were run, some of them twice: where drafts were refused, the rows behind the token that was drawn
instead are run again. What an honest hop states is no more than this, and may be less: rows that
were taken back before it ran them. Both sides sign the smaller, counter by counter.
"""

from protocol.chain_actions import Stretch
from protocol.messages import TokenEvent


class ToldRows:
    """Of one epoch, in which a chain goes on behind `n` ids.

    most_drafts: that were asked for behind one token; what is told beyond is not believed.
    """

    def __init__(self, n: int, most_drafts: int) -> None:
        self._n, self._most_drafts = n, most_drafts
        self._refused: list[Stretch] = []
        self._stop = 0  # up to where rows were run

    def heard(self, event: TokenEvent) -> None:
        """Rows of a token event begin with the one before its token. Those that had been run from
        there on were drafts that were refused.
        """
        start = event.position - 1
        if event.position == self._n:
            self._stop = self._n  # the prompt, or what it was replayed for
        elif event.rows:
            if self._stop > start:
                self._refused.append(Stretch(start, self._stop, self._n))
            self._stop = start + min(event.rows, 1 + self._most_drafts)

    def stretches(self, base: int, reached: int) -> list[Stretch]:
        """All that a hop ran which had `base` rows; at least those before `reached`, once."""
        stop = max(reached, self._stop)
        return [*self._refused, Stretch(base, stop, self._n)] if stop > base else []
