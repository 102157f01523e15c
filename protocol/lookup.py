"""Guessing what comes next by what came before: prompt lookup (Saxena 2023).

In: the ids so far. Out: those that followed when the last few of them stood there before, the
latest time. A pure function of the ids, but that a long prompt is read over the first few guesses,
as others wait meanwhile. It is silent unless `MATCH` ids agree: on text that repeats nothing a
guess is seldom right, and each costs a row at every hop.
"""

from collections.abc import Sequence

MATCH = 4  # ids that have to agree
READ_AT_ONCE = 4096  # ids, about 2 ms


class Lookup:
    """A `protocol.actions.Drafter` for one session in one epoch: its ids only ever grow."""

    def __init__(self, match: int = MATCH) -> None:
        self._match = match
        self._after: dict[int, int] = {}  # of each run of ids, by its hash: where it ended last
        self._read = match  # runs that end before this position are known

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        n, match = len(ids), self._match
        known = max(self._read, min(n, self._read + READ_AT_ONCE))
        for stop in range(self._read, known):  # not the one at the end, which would find itself
            self._after[hash(tuple(ids[stop - match : stop]))] = stop
        self._read = known
        if n <= match or most <= 0:
            return ()
        tail = tuple(ids[n - match :])
        at = self._after.get(hash(tail))
        if at is None or tuple(ids[at - match : at]) != tail:
            return ()
        period = n - at  # what follows may be itself: a text that goes round in a circle
        return [ids[at + i % period] for i in range(most)]
