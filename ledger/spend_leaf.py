"""One leaf of a spend log: an envelope, its place, and the leaf before it.

The place doubles as the account's sequence number. Each leaf names the hash of the one before, so
that a leaf fixes all that came earlier, and two different leaves at one place are a fork.
"""

from dataclasses import dataclass
from typing import Self

from ledger.errors import BadObject
from ledger.fields import VERSION
from ledger.merkle import leaf_hash
from protocol.canonical import MAX_UINT, decode, encode
from protocol.signing import Envelope

NO_LEAF = bytes(32)  # before the first
MAX_LEAF_BYTES = 65_535  # what an entry bundle can hold (C2SP tlog-tiles)


@dataclass(frozen=True, slots=True)
class SpendLeaf:
    """`[1, index, prev_leaf_hash, envelope]`, the envelope as its own bytes."""

    index: int
    previous: bytes
    envelope: Envelope

    def __post_init__(self) -> None:
        if type(self.index) is not int or not 0 <= self.index <= MAX_UINT:
            raise BadObject("a leaf's place is an integer in [0, 2^63)")
        if type(self.previous) is not bytes or len(self.previous) != 32:
            raise BadObject("a leaf names the hash of the one before")
        if (self.previous == NO_LEAF) != (self.index == 0):
            raise BadObject("the first leaf, and only the first, follows nothing")

    def encode(self) -> bytes:
        data = encode((VERSION, self.index, self.previous, self.envelope.encode()))
        if len(data) > MAX_LEAF_BYTES:
            raise BadObject(f"a leaf takes {len(data)} bytes, more than {MAX_LEAF_BYTES}")
        return data

    def hash(self) -> bytes:
        return leaf_hash(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a leaf's shape. Its envelope is not believed yet: see `spending.open_spending`.

        Raises:
            IntegrityError: the bytes are no leaf, or not the one spelling of it.
        """
        if len(data) > MAX_LEAF_BYTES:
            raise BadObject(f"a leaf takes {len(data)} bytes, more than {MAX_LEAF_BYTES}")
        match decode(data):
            case [int() as version, int() as index, bytes() as previous, bytes() as envelope] if (
                version is not True and version == VERSION
            ):
                return cls(index, previous, Envelope.decode(envelope))
            case _:
                raise BadObject("a leaf is a version, a place, a hash and an envelope")
