"""A hop's outputs in one session, from position 0, as the very bytes sent (DESIGN section 2).

In: rows as they leave the span. Out: any run of them again, for a successor that lost its own.
Room for the whole session is set aside when it is admitted; untouched memory costs nothing.
Cutting back is O(1), as in the KV cache beside it.
"""

from typing import Self

import numpy as np


class Journal:
    """At most `capacity` rows of `row_bytes` bytes each."""

    __slots__ = ("_room", "length", "row_bytes")

    def __init__(self, row_bytes: int, capacity: int) -> None:
        self.row_bytes = row_bytes
        self._room = bytearray(row_bytes * capacity)  # calloc: pages are touched when written
        self.length = 0

    def append(self, rows: bytes | memoryview) -> None:
        at = self.length * self.row_bytes
        self._room[at : at + len(rows)] = rows
        self.length += len(rows) // self.row_bytes

    def cut(self, length: int) -> None:
        self.length = min(self.length, length)

    def begin_with(self, other: Self, length: int) -> None:
        """Take over the first rows of another session's journal; the lock is free meanwhile."""
        if self.row_bytes != other.row_bytes or length > other.length:
            raise ValueError(f"no {length} rows of {self.row_bytes} bytes in that journal")
        n_bytes = length * self.row_bytes
        rows = np.frombuffer(other._room, np.uint8, n_bytes)
        np.copyto(np.frombuffer(self._room, np.uint8, n_bytes), rows)
        self.length = length

    def trimmed(self) -> Self:
        """A copy that has room for what is here, and no more."""
        copy = type(self)(self.row_bytes, self.length)
        copy.begin_with(self, self.length)
        return copy

    def rows(self, start: int, stop: int) -> bytes:
        """Rows `[start, stop)`; a copy, since a later cut may overwrite them."""
        if not 0 <= start <= stop <= self.length:
            raise IndexError(f"rows {start}:{stop} of a journal of {self.length}")
        return bytes(memoryview(self._room)[start * self.row_bytes : stop * self.row_bytes])
