"""What nodes and payers say to each other about spend logs: the bodies of five calls.

    spend_log      [account, path] -> the bytes at a path of C2SP tlog-tiles, `fault`, `parting`
    spend_news     [whose numbers, n] -> [whose numbers, n, …]: what changed since
    spend_publish  a checkpoint and leaves -> [size known now, whether the account forked]
    spend_fault    a fork's proof -> nothing
    witness        C2SP tlog-witness `add-checkpoint` -> [status, type, body]

All but leaves and tiles is deterministic CBOR. Nothing here is signed: what it carries is.
"""

from dataclasses import dataclass
from typing import Any, Self

from ledger.errors import BadObject
from ledger.merkle import HASH_BYTES
from ledger.notes import MAX_NOTE_BYTES
from ledger.spend_shelf import Forked, Head
from ledger.spending import Fault
from ledger.tiles import MAX_ENTRY_BYTES
from ledger.witness_http import Answer
from protocol.canonical import decode, encode
from protocol.membership.state import framed, frames

LOG, NEWS, PUBLISH, FAULT, WITNESS = (
    "spend_log",
    "spend_news",
    "spend_publish",
    "spend_fault",
    "witness",
)
FAULT_PATH = "fault"
MAX_ROWS = 256
MAX_PUBLISH_BYTES, MAX_PUBLISHED = 4 * 2**20, 16_384  # leaves
INSTANCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of somebody's log."""

    account: bytes
    path: str

    def encode(self) -> bytes:
        return encode((self.account, self.path))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [bytes() as account, str() as path] if len(account) == 32:
                return cls(account, path)
            case _:
                raise BadObject("a log is asked for by account and path")


@dataclass(frozen=True, slots=True)
class Since:
    """The place up to which news were heard; `whose` numbers they are changes at each start."""

    whose: bytes = b""
    number: int = 0

    def encode(self) -> bytes:
        return encode((self.whose, self.number))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [bytes() as whose, int() as number] if type(number) is int:
                return cls(whose, number)
            case _:
                raise BadObject("news are asked for from a place on")


@dataclass(frozen=True, slots=True)
class News:
    """Which logs grew, and which forked, since. is_all: there is no more to be had now."""

    since: Since
    is_all: bool
    heads: tuple[Head, ...] = ()
    forked: tuple[Forked, ...] = ()

    def encode(self) -> bytes:
        heads = [(head.account, head.size, head.root) for head in self.heads]
        forked = [(each.account, each.cut) for each in self.forked]
        return encode((self.since.whose, self.since.number, self.is_all, heads, forked))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [bytes() as whose, int() as number, bool() as is_all, [*heads], [*forked]] if (
                type(number) is int and len(heads) + len(forked) <= MAX_ROWS
            ):
                told = tuple(map(_head, heads)), tuple(map(_forked, forked))
                return cls(Since(whose, number), is_all, *told)
            case _:
                raise BadObject("news are heads of logs, and forks")


def _head(fields: Any) -> Head:
    match fields:
        case [bytes() as account, int() as size, bytes() as root] if (
            type(size) is int and len(account) == len(root) == 32
        ):
            return Head(account, size, root)
        case _:
            raise BadObject("a head is an account, a size and a root")


def _forked(fields: Any) -> Forked:
    match fields:
        case [bytes() as account, cut] if len(account) == 32 and type(cut) in (int, type(None)):
            return Forked(account, cut)
        case _:
            raise BadObject("who forked is an account, and the place up to which its log counts")


@dataclass(frozen=True, slots=True)
class Published:
    """A log's checkpoint, and its leaves from `start` on up to it.

    path: where they end before it: that the last of them is in its tree (RFC 9162 2.1.3).
    """

    account: bytes
    note: str
    start: int
    leaves: tuple[bytes, ...]
    path: tuple[bytes, ...] | None = None

    def encode(self) -> bytes:
        """
        Raises:
            BadObject: it is more than fits one call.
        """
        more = () if self.path is None else (self.path,)
        head = encode((self.account, self.note.encode(), self.start, *more))
        data = b"".join(map(framed, (head, *self.leaves)))
        if len(data) > MAX_PUBLISH_BYTES or len(self.leaves) > MAX_PUBLISHED:
            raise BadObject(f"{len(self.leaves)} entries are more than a log is told of at once")
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        if len(data) > MAX_PUBLISH_BYTES:
            raise BadObject("more entries than a log is told of at once")
        head, *leaves = list(frames(data)) or [b""]
        if len(leaves) > MAX_PUBLISHED or any(len(leaf) > MAX_ENTRY_BYTES for leaf in leaves):
            raise BadObject("more entries than a log is told of at once, or longer ones")
        match decode(head):
            case [bytes() as account, bytes() as note, int() as start, *more] if (
                type(start) is int and len(account) == 32 and len(note) <= MAX_NOTE_BYTES
            ):
                text = note.decode(errors="replace")
                return cls(account, text, start, tuple(leaves), _path(more))
            case _:
                raise BadObject("a log is told of by account, checkpoint and leaves")


def _path(more: list[Any]) -> tuple[bytes, ...] | None:
    match more:
        case []:
            return None
        case [[*path]] if all(type(each) is bytes and len(each) == HASH_BYTES for each in path):
            return tuple(path)
        case _:
            raise BadObject("that leaves are the beginning of a log is shown by one path")


@dataclass(frozen=True, slots=True)
class Known:
    """What a node answers who told it of a log."""

    size: int
    is_forked: bool

    def encode(self) -> bytes:
        return encode((self.size, self.is_forked))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        match decode(data):
            case [int() as size, bool() as is_forked] if type(size) is int:
                return cls(size, is_forked)
            case _:
                raise BadObject("who was told of a log answers with its size")


def read_fault(data: bytes) -> Fault:
    """A fork's proof, as it travels: the object without its signature, which it does not need."""
    return Fault.from_fields(decode(data))


def encode_answer(answer: Answer) -> bytes:
    return encode((answer.status, answer.content_type, answer.body))


def decode_answer(data: bytes) -> Answer:
    match decode(data):
        case [int() as status, str() as content_type, bytes() as body] if type(status) is int:
            return Answer(status, content_type, body)
        case _:
            raise BadObject("a witness answers with status, type and body")
