"""The windows of 32 positions in which work is committed to, and what a hop says of each.

In: positions that a tab ran, the sketches of their rows (`fingerprint.py`), a last hop's draws.
Out: one canonical byte string for a window, a leaf under the `fp_root` of statements. It is read
without computing anything, so that a ledger needs no numbers' library.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack, unpack
from typing import Self

from protocol.canonical import decode, encode
from protocol.errors import IntegrityError

WINDOW = 32
"""Positions in a window. Window `w` has positions [32 w, 32 w + 32), of which a tab ran some."""

BUCKETS = 8  # values of a row's sketch
VERSION = 1


@dataclass(frozen=True, slots=True)
class Window:
    """What one hop commits to of the positions `[start, stop)`, all of one window.

    draws: at the last hop, ids it drew from these rows, the first for position `draws_from`.
    """

    start: int
    sketches: bytes  # float32, little-endian, [stop - start, BUCKETS]
    draws_from: int = 0
    draws: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n, rest = divmod(len(self.sketches), 4 * BUCKETS)
        last = self.draws_from + len(self.draws) - 1
        if rest or not 0 < n <= WINDOW - self.start % WINDOW:
            raise IntegrityError("a fingerprint has the sketches of 1 to 32 rows of one window")
        if self.draws and not self.start < self.draws_from <= last <= self.stop:
            raise IntegrityError("a fingerprint has draws of other rows")
        if any(not 0 <= drawn < 1 << 32 for drawn in self.draws):
            raise IntegrityError("a fingerprint draws what is no token")

    @property
    def index(self) -> int:
        return self.start // WINDOW

    @property
    def stop(self) -> int:
        return self.start + len(self.sketches) // (4 * BUCKETS)

    def encode(self) -> bytes:
        drawn = pack(f"<{len(self.draws)}I", *self.draws)
        return encode([VERSION, self.start, self.sketches, self.draws_from, drawn])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises IntegrityError: it is no fingerprint, or of a version that is not known here."""
        match decode(data):
            case [int(version), int(start), bytes(sketches), int(draws_from), bytes(drawn)] if (
                version == VERSION and len(drawn) % 4 == 0
            ):
                draws = unpack(f"<{len(drawn) // 4}I", drawn)
                return cls(start, sketches, draws_from, draws)
        raise IntegrityError("these are no fingerprints that we can read")


def windows_of(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The parts of `[start, stop)` that lie in one window each."""
    while start < stop:
        end = min(stop, start - start % WINDOW + WINDOW)
        yield start, end
        start = end
