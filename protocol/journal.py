"""A hop's outputs in one session, as the very bytes sent (DESIGN section 2).

In: rows as they leave the span. Out: any run of them again, for a successor that lost its own.
Room for the whole session is set aside when it is admitted; untouched memory costs nothing.
Cutting back is O(1), as in the KV cache beside it. It begins at position 0, but where the rows
before were run elsewhere and came without their outputs.
"""

from contextlib import suppress
from typing import Self

import numpy as np


class Journal:
    """At most `capacity` rows of `row_bytes` bytes each."""

    __slots__ = ("_room", "_written", "length", "row_bytes", "start")

    def __init__(self, row_bytes: int, capacity: int) -> None:
        self.row_bytes = row_bytes
        self._room = bytearray(row_bytes * capacity)  # calloc: pages are touched when written
        self.start = 0  # the first row held
        self.length = 0
        self._written = 0  # up to where rows ever stood

    @property
    def available(self) -> int:
        """Up to where a successor may have rows."""
        return self.length

    @property
    def n_bytes(self) -> int:
        """The room that was set aside."""
        return len(self._room)

    @property
    def n_written_bytes(self) -> int:
        """What of it takes memory; rows that were cut off still do."""
        return min(len(self._room), self._written)

    def append(self, rows: bytes | memoryview) -> None:
        at = self.length * self.row_bytes
        self._room[at : at + len(rows)] = rows
        self.length += len(rows) // self.row_bytes
        self._written = max(self._written, at + len(rows))

    @property
    def is_empty(self) -> bool:
        return self.length == self.start

    def end(self) -> None:
        """Nothing is appended any more: give back the room behind what was written. The C library
        may have filled it with zeros, where it lay before."""
        with suppress(BufferError):  # somebody copies rows just now, and is done in a moment
            del self._room[self._written :]

    def begin(self, start: int) -> None:
        """While it is empty: what is appended first is row `start`."""
        assert self.is_empty
        self.start = self.length = start

    def cut(self, length: int) -> None:
        self.length = min(self.length, length)
        self.start = min(self.start, length)

    def extend_from(self, other: Self, stop: int) -> None:
        """Take over another session's rows, from where this one ends; without the lock."""
        if (
            self.row_bytes != other.row_bytes
            or not self.length <= stop <= other.length
            or (other.start > self.length)
        ):
            raise ValueError(f"no rows {self.length}:{stop} of {self.row_bytes} bytes there")
        at, n_bytes = self.length * self.row_bytes, (stop - self.length) * self.row_bytes
        rows = np.frombuffer(other._room, np.uint8, n_bytes, at)
        np.copyto(np.frombuffer(self._room, np.uint8, n_bytes, at), rows)
        self.length = stop
        self._written = max(self._written, at + n_bytes)

    def view(self, start: int, stop: int) -> memoryview:
        """What was written last in the places of rows `[start, stop)`, cut off since or not.

        For who looks and lets go at once: nothing is copied.
        """
        return memoryview(self._room)[start * self.row_bytes : stop * self.row_bytes]

    def rows(self, start: int, stop: int) -> bytes:
        """Rows `[start, stop)`; a copy, since a later cut may overwrite them."""
        if not self.start <= start <= stop <= self.length:
            raise IndexError(f"rows {start}:{stop} of a journal of {self.start}:{self.length}")
        return bytes(self.view(start, stop))
