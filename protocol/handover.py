"""Rows of a session that change hands: the client's leave to, and what travels (DESIGN 5a.19).

In: who gives what to whom, rows as bytes. Out: a signed note, requests and parts, and back. Whoever
takes a leaver's place asks it, call by call, for keys and values of its blocks and for the journal
behind the last one; the leaver looks at the note, answers with what fits into a part, and never
dials anybody. A request is [note, start] in deterministic CBOR. A part is `u32 header length,
little-endian | header in deterministic CBOR | rows`, where the rows are, block by block, keys
[heads, rows, dim] and values alike in the profile's dtype, then the journal's, as they were sent.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from protocol.asking import MAX_DRAFTS
from protocol.canonical import NotCanonical, decode, encode
from protocol.checks import MAX_POSITIONS, require, require_id
from protocol.config_limits import MAX_BLOCKS
from protocol.messages import SessionId, Span
from protocol.signing import Envelope, SigningKey, open_envelope, seal

METHOD = "handover"
TYPE = "mh/handover/1"
PART_BYTES = 8 << 20  # of rows in one answer: what a step between two of them waits for
MAX_HEADER_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The client lets `giver` hand what it has of `span` in this session to `taker`.

    epoch: the one that the taker reserves for; a giver that was raised that far gives nothing.
    most_drafts: the giver's latest rows, so many, may be of guesses, and stay with it. Where nobody
    guesses the note has no such field, and is as it was before there were drafts.
    """

    session: SessionId
    epoch: int
    giver: bytes  # public keys
    taker: bytes
    span: Span
    most_drafts: int = 0

    def seal(self, swarm_id: bytes, key: SigningKey) -> bytes:
        place = (self.giver, self.taker, self.span.start, self.span.stop)
        drafts = (self.most_drafts,) if self.most_drafts else ()
        return seal(TYPE, swarm_id, (self.session, self.epoch, *place, *drafts), key).encode()

    @classmethod
    def open(cls, data: bytes, swarm_id: bytes, client: bytes) -> Self:
        """Raises IntegrityError: it is none, or not `client`'s."""
        match open_envelope(Envelope.decode(data), TYPE, swarm_id, (client,)):
            case [
                bytes() as session, int() as epoch, bytes() as giver, bytes() as taker,
                int() as start, int() as stop, *drafts,
            ] if epoch >= 0 and 0 <= start < stop <= MAX_BLOCKS:  # fmt: skip
                return cls(
                    session=SessionId(session),
                    epoch=epoch,
                    giver=giver,
                    taker=taker,
                    span=Span(start, stop),
                    most_drafts=_most_drafts(drafts),
                )
            case _:
                raise NotCanonical("a handover note has other fields")


def _most_drafts(fields: Sequence[object]) -> int:
    """Raises NotCanonical: there are others."""
    match fields:
        case []:
            return 0
        case [int() as most] if 0 < most <= MAX_DRAFTS:
            return most
        case _:
            raise NotCanonical("a handover note has other fields")


def session_of(note: bytes) -> SessionId:
    """Which session a note is about, before anybody believes it: `Note.open` needs its client."""
    match decode(Envelope.decode(note).payload):
        case [bytes() as session, *_]:
            require_id(session, "session")
            return SessionId(session)
        case _:
            raise NotCanonical("a handover note names a session")


def request_bytes(note: bytes, start: int) -> bytes:
    return encode((note, start))


def read_request(data: bytes) -> tuple[bytes, int]:
    """(note, first position wanted). Raises NotCanonical: it is no request."""
    match decode(data):
        case [bytes() as note, int() as start] if 0 <= start <= MAX_POSITIONS:
            return note, start
        case _:
            raise NotCanonical("rows are asked for by a note and a position")


@dataclass(frozen=True, slots=True)
class BlockShape:
    """Keys and values of one block: positions `[first, stop)` of the part are here."""

    first: int
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int

    @property
    def row_elements(self) -> int:
        return self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Positions `[start, stop)` of the `length` that the giver gives.

    blocks: in order; a block with a window has lost its first positions.
    item_bytes: of one key or value. journal_row_bytes: 0 where no journal goes along, else its rows
    from `journal_from` on do.
    """

    profile: str
    start: int
    stop: int
    length: int
    item_bytes: int
    blocks: tuple[BlockShape, ...]
    journal_row_bytes: int
    journal_from: int
    body: bytes | memoryview

    def __post_init__(self) -> None:
        bounds = 0 <= self.start <= self.stop <= self.length <= MAX_POSITIONS
        require(bounds, "a part out of range")
        require(0 < self.item_bytes <= 8 and self.journal_row_bytes >= 0, "sizes out of range")
        require(0 < len(self.blocks) <= MAX_BLOCKS, "a part has blocks")
        require(self.start <= self.journal_from <= self.stop, "a journal out of the part's range")
        for block in self.blocks:
            sizes = (block.key_heads, block.key_dim, block.value_heads, block.value_dim)
            require(min(sizes) >= 0, "negative sizes of keys or values")
            require(self.start <= block.first <= self.stop, "a block out of the part's range")
        expected = sum(self.block_bytes(block) for block in self.blocks) + self.journal_bytes
        require(
            len(self.body) == expected, f"{expected} bytes announced, {len(self.body)} received"
        )

    def block_bytes(self, block: BlockShape) -> int:
        return (self.stop - block.first) * block.row_elements * self.item_bytes

    @property
    def journal_bytes(self) -> int:
        return (self.stop - self.journal_from) * self.journal_row_bytes

    @property
    def journal(self) -> memoryview:
        """The journal's rows."""
        return memoryview(self.body)[len(self.body) - self.journal_bytes :]

    def encode(self) -> bytes:
        blocks = tuple(
            (one.first, one.key_heads, one.key_dim, one.value_heads, one.value_dim)
            for one in self.blocks
        )
        places = (self.start, self.stop, self.length)
        sizes = (self.item_bytes, self.journal_row_bytes, self.journal_from)
        header = encode((self.profile, *places, *sizes, blocks))
        return b"".join((_LENGTH.pack(len(header)), header, self.body))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises PeerMisbehaved, NotCanonical: these bytes are no part."""
        require(len(data) >= _LENGTH.size, "a part has a header")
        (size,) = _LENGTH.unpack_from(data)
        body_at = _LENGTH.size + size
        require(size <= MAX_HEADER_BYTES and body_at <= len(data), "a header out of range")
        match decode(data[_LENGTH.size : body_at]):
            case [
                str() as profile, int() as start, int() as stop, int() as length,
                int() as item_bytes, int() as journal_row_bytes, int() as journal_from, [*blocks],
            ]:  # fmt: skip
                return cls(
                    profile=profile,
                    start=start,
                    stop=stop,
                    length=length,
                    item_bytes=item_bytes,
                    journal_row_bytes=journal_row_bytes,
                    journal_from=journal_from,
                    blocks=tuple(map(_read_block, blocks)),
                    body=memoryview(data)[body_at:],
                )
            case _:
                raise NotCanonical("a part's header has other fields")


def _read_block(fields: Any) -> BlockShape:
    match fields:
        case [int(), int(), int(), int(), int()]:
            return BlockShape(*fields)
        case _:
            raise NotCanonical("a block of a part is five numbers")


def rows_per_part(position_bytes: int, part_bytes: int = PART_BYTES) -> int:
    """How many positions fit into a part; at least one."""
    return max(1, part_bytes // max(1, position_bytes))


def blocks_in(body: memoryview, part: Part) -> Sequence[memoryview]:
    """Each block's bytes in a part's body."""
    views, at = [], 0
    for block in part.blocks:
        size = part.block_bytes(block)
        views.append(body[at : at + size])
        at += size
    return views
