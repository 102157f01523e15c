"""Proof that a log forked: an account signed two checkpoints that cannot both be of one log.

In: two signed checkpoints and, where their sizes differ, a leaf of each at one place with its path.
Out: a fault that convinces whoever knows the account and nothing else, and the verdict of whoever
reads one. Two roots of one size need no leaves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import open_head
from ledger.errors import BadProof
from ledger.merkle import HASH_BYTES, NodeAt, inclusion_proof, leaf_hash, verify_inclusion
from ledger.notes import ED25519, Note, NoteKey
from ledger.spending import Fault
from protocol.canonical import decode, encode

KIND = "fork"
LOGS: tuple[Literal["receipts", "spend"], ...] = ("receipts", "spend")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions: a signed checkpoint, and what it has at the place in question.

    leaf_hash, path: empty where the two checkpoints have one size.
    """

    note: str
    leaf_hash: bytes = b""
    path: tuple[bytes, ...] = ()

    def encode(self, index: int) -> bytes:
        return encode((1, self.note.encode(), index, self.leaf_hash, self.path))


@dataclass(frozen=True, slots=True)
class Version:
    """A log as somebody holds it: a checkpoint and the tree it is of."""

    note: str
    size: int
    node_at: NodeAt

    def side(self, account: bytes, index: int | None) -> Side:
        """What it has at this place; None: its root alone."""
        if index is None:
            return Side(own_line(self.note, account))
        path = inclusion_proof(index, self.size, self.node_at)
        return Side(own_line(self.note, account), self.node_at(0, index), tuple(path))


@dataclass(frozen=True, slots=True)
class Proven:
    """A leaf by its hash and place, and the path that was seen to lead from it to a root."""

    index: int
    leaf_hash: bytes
    path: Sequence[bytes]


def own_line(note: str, account: bytes) -> str:
    """A checkpoint with the log's own line only: what others wrote below could fill an object."""
    parsed = Note.parse(note)
    key = NoteKey(Checkpoint.parse(parsed.text).origin, ED25519, account)
    lines = tuple(s for s in parsed.signatures if (s.name, s.key_id) == (key.name, key.id))
    return Note(parsed.text, lines[:1]).encode()


def fork_fault(account: bytes, swarm_id: bytes, one: Side, other: Side, index: int = 0) -> Fault:
    """The fault these two sides prove; `index` is the place where they differ.

    Raises:
        IntegrityError: they prove nothing.
    """
    evidence = (one.encode(index), other.encode(index))
    fault = Fault(kind=KIND, accused=account, evidence=evidence)
    check_fork(fault, swarm_id)
    return fault


def check_fork(fault: Fault, swarm_id: bytes) -> int:
    """Whether the evidence convinces. The first place at which it shows two versions.

    Raises:
        IntegrityError: it does not.
    """
    if fault.kind != KIND or len(fault.evidence) != 2:
        raise BadProof("a fork is shown by two versions of a log")
    (head, index, leaf, path), (other, other_index, other_leaf, other_path) = (
        _open(fault.accused, swarm_id, piece) for piece in fault.evidence
    )
    if head.origin != other.origin:
        raise BadProof("these are checkpoints of two logs")
    if head.size == other.size:
        if head.root == other.root:
            raise BadProof("the two checkpoints are one")
        return 0
    if index != other_index or leaf == other_leaf:
        raise BadProof("the two versions do not differ where they are said to")
    verify_inclusion(leaf, index, head.size, path, head.root)
    verify_inclusion(other_leaf, index, other.size, other_path, other.root)
    return index


def first_difference(leaves: Sequence[bytes], others: Sequence[bytes]) -> int | None:
    """Where two versions of a log part; None: one is the beginning of the other."""
    for index, (leaf, other) in enumerate(zip(leaves, others, strict=False)):
        if leaf_hash(leaf) != leaf_hash(other):
            return index
    return None


def _open(account: bytes, swarm_id: bytes, piece: bytes) -> tuple[Checkpoint, int, bytes, Any]:
    match decode(piece):
        case [int() as version, bytes() as note, int() as index, bytes() as leaf, [*path]] if (
            (version, type(version), type(index)) == (1, int, int)
            and (len(leaf) == HASH_BYTES or not (leaf or path))
            and all(type(each) is bytes and len(each) == HASH_BYTES for each in path)
        ):
            parsed = Note.parse(note.decode(errors="replace"))
        case _:
            raise BadProof("a version of a log is a checkpoint, a place, a hash and a path")
    name = Checkpoint.parse(parsed.text).origin
    if name not in [origin(swarm_id, account, log) for log in LOGS]:
        raise BadProof("the checkpoint is of no log of the accused")
    return open_head(parsed, name, account), index, leaf, path
