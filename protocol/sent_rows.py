"""Rows that a hop sent to its successor, shown to who paid for them when the session is over.

In: a tab by its terms, a position. Out: what fits into a part of the rows from there on, as the
very bytes that were sent. Both ends of the link have signed a root of these bytes in their last
statements (`ledger.roots`), so whoever shows them proves them, or shows that it has others.

A request is [1, terms_oid, start] in deterministic CBOR. A part is `u32 bytes of a row | u64 first
position | u64 rows in all, little-endian | rows`.
"""

import struct
from dataclasses import dataclass
from typing import Self

from protocol.canonical import NotCanonical, decode, encode
from protocol.checks import MAX_POSITIONS, require

METHOD = "sent_rows"
PART_BYTES = 4 << 20  # of rows in one answer
MAX_BYTES = 256 << 20  # of rows of one tab that anybody asks for: nodes keep as much of all
MAX_ROW_BYTES = 1 << 20
_HEAD = struct.Struct("<IQQ")


def request_bytes(terms_oid: bytes, start: int) -> bytes:
    return encode([1, terms_oid, start])


def read_request(data: bytes) -> tuple[bytes, int]:
    """(the terms' id, the first position). Raises NotCanonical: it is no request."""
    match decode(data):
        case [1, bytes() as terms_oid, int() as start] if (
            len(terms_oid) == 32 and 0 <= start <= MAX_POSITIONS
        ):
            return terms_oid, start
    raise NotCanonical("this asks for no rows")


@dataclass(frozen=True, slots=True)
class SentPart:
    """Rows from `start` on, of `length` that were sent."""

    row_bytes: int
    start: int
    length: int
    rows: bytes

    def encode(self) -> bytes:
        return _HEAD.pack(self.row_bytes, self.start, self.length) + self.rows

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises PeerMisbehaved: it is no part."""
        require(len(data) >= _HEAD.size, "a part of rows begins with a head")
        row_bytes, start, length = _HEAD.unpack_from(data)
        rows = data[_HEAD.size :]
        require(0 < row_bytes <= MAX_ROW_BYTES, "rows of a strange size")
        n_rows, rest = divmod(len(rows), row_bytes)
        require(not rest and n_rows > 0, "a part has whole rows")
        require(len(rows) <= PART_BYTES, "a part is no larger than was agreed")
        require(start + n_rows <= length <= MAX_POSITIONS, "rows of more positions than there are")
        return cls(row_bytes, start, length, rows)
