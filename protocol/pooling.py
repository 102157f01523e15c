"""One vector of a prompt, from its rows as they are run (Reimers and Gurevych 2019, section 3).

In: rows behind the final norm, in pieces, some of them again after a disturbance. Out: their mean,
or the last one, as bytes that travel. Sums are kept at the ends of pieces, in doubles: whoever cuts
a session back cuts it to the end of a piece, or to before its last row.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from protocol.errors import UsageError

Rows = npt.NDArray[np.float32]


class Pool:
    """Of one prompt of `n` rows."""

    def __init__(self, kind: str, n: int) -> None:
        self._kind, self._n = kind, n
        self._sums: dict[int, npt.NDArray[np.float64]] = {}  # of rows [0, key)
        self._last: Rows | None = None

    def add(self, start: int, rows: Rows, settled: int) -> None:
        """Rows from position `start` on. settled: how many are run for good, but for the last.

        Raises:
            UsageError: rows before these were never seen.
        """
        stop = start + len(rows)
        if start and start not in self._sums:
            raise UsageError(f"rows from {start} on, but not those before, were given to pool")
        before = self._sums.get(start, np.zeros(rows.shape[1]))
        ends = {stop} if stop < self._n or stop - 1 == start else {stop - 1, stop}
        self._sums = {end: self._sums[end] for end in _kept(self._sums, settled, start)}
        for end in ends:
            self._sums[end] = before + rows[: end - start].sum(axis=0, dtype=np.float64)
        self._last = rows[-1]

    def vector(self) -> bytes:
        """Float32, little-endian; all rows were added."""
        assert self._last is not None
        if self._kind == "last":
            return self._last.astype("<f4").tobytes()
        return (self._sums[self._n] / self._n).astype("<f4").tobytes()


def _kept(ends: Iterable[int], settled: int, start: int) -> list[int]:
    """Where a session may begin again: at `start`, or between what is settled and there."""
    return [end for end in ends if end == start or settled <= end < start]
