"""Sums over ranges of a sorted set: where two tables differ, found without listing them.

In: keys, each with a mark that stands for its value. Out: for any range of keys, how many there are
and a sum of their marks. Equal sums mean equal ranges; unequal ones are cut in parts and compared
again, until a part is short enough to be listed. This is range-based set reconciliation (Meyer,
2023): d differences among n keys take O(d log n) bytes and O(log n) messages, and no state is kept
between them.

Marks are hashes added modulo 2^96, so a change costs one addition, not a tree's path. Somebody who
picks many keys of its own could make two different sums meet; it would hide its own records from
that comparison, and what is new travels without any comparison first.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SUM_BYTES = 12
N_PARTS = 8  # a range that differs is cut in so many
LISTED = 6  # a range with no more keys than that is listed


class Range(NamedTuple):
    """The keys in `[start, stop)`: how many, and the sum of their marks. Empty `stop`: no end."""

    start: bytes
    stop: bytes
    n_keys: int
    total: bytes


class KeyRanges:
    """A sorted map from key to mark."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._marks: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def set(self, key: bytes, mark: bytes) -> None:
        if key not in self._marks:
            insort(self._keys, key)
        self._marks[key] = int.from_bytes(mark[:SUM_BYTES], "big")

    def remove(self, key: bytes) -> None:
        """Nothing happens if it is not there."""
        if self._marks.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def keys(self, start: bytes = b"", stop: bytes = b"") -> Sequence[bytes]:
        first = bisect_left(self._keys, start)
        last = bisect_left(self._keys, stop) if stop else len(self._keys)
        return self._keys[first:last]

    def describe(self, start: bytes = b"", stop: bytes = b"") -> Range:
        keys = self.keys(start, stop)
        total = sum(map(self._marks.__getitem__, keys)) % (1 << 8 * SUM_BYTES)
        return Range(start, stop, len(keys), total.to_bytes(SUM_BYTES, "big"))

    def parts(self, start: bytes, stop: bytes) -> Iterator[Range]:
        """The range in up to `N_PARTS` of about equally many keys."""
        keys = self.keys(start, stop)
        size = max(1, -(-len(keys) // N_PARTS))
        border = start
        for i in range(size, len(keys), size):
            next_border = _shortest_between(keys[i - 1], keys[i])
            yield self.describe(border, next_border)
            border = next_border
        yield self.describe(border, stop)


def _shortest_between(below: bytes, above: bytes) -> bytes:
    """The shortest beginning of `above` that is greater than `below`: few bytes on the wire."""
    shared = 0
    while below[shared : shared + 1] == above[shared : shared + 1]:
        shared += 1
    return above[: shared + 1]
