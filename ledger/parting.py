"""Two versions of a spend log that a quorum each signed, and the place where they part.

In: a checkpoint of each with its cosignatures, and the first leaf that they do not have alike. Out:
the verdict of whoever reads it, who needs neither version: the hashes to the left of that
leaf are one in both, so all before it is. It takes too many witnesses that lie; where it happens,
all who are shown this let the log count up to the same place.
"""

from dataclasses import dataclass
from typing import Any, Self

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import BadProof
from ledger.forks import Side, fork_fault, own_line
from ledger.merkle import HASH_BYTES, root_before, verify_inclusion
from ledger.notes import Note
from ledger.spending import Fault
from protocol.canonical import Field, decode, encode


@dataclass(frozen=True, slots=True)
class Parting:
    """One and other: what each version has at `index`, under a checkpoint that a quorum signed."""

    account: bytes
    index: int
    one: Side
    other: Side

    def encode(self) -> bytes:
        return encode((1, self.account, self.index, _fields(self.one), _fields(self.other)))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one. Nothing is believed yet: see `check`.

        Raises:
            IntegrityError: the bytes are none.
        """
        match decode(data):
            case [int() as version, bytes() as account, int() as index, [*one], [*other]] if (
                version,
                type(version),
                type(index),
            ) == (1, int, int):
                return cls(account, index, _side(one), _side(other))
            case _:
                raise BadProof("two versions of a log are an account, a place and both sides")

    def check(self, witnesses: Witnesses, swarm_id: bytes) -> bytes:
        """The root over the leaves that the two versions share: those before `index`.

        Raises:
            IntegrityError: no quorum signed both, or they do not part there.
        """
        if self.one.leaf_hash == self.other.leaf_hash:
            raise BadProof("the two versions do not part where they are said to")
        roots = {self._before(side, witnesses, swarm_id) for side in (self.one, self.other)}
        if len(roots) > 1:
            raise BadProof("the two versions part before where they are said to")
        return roots.pop()

    def fault(self, swarm_id: bytes) -> Fault:
        """What convinces those, too, who do not know the swarm's witnesses."""
        one, other = (
            Side(own_line(side.note, self.account), side.leaf_hash, side.path)
            for side in (self.one, self.other)
        )
        return fork_fault(self.account, swarm_id, one, other, self.index)

    def _before(self, side: Side, witnesses: Witnesses, swarm_id: bytes) -> bytes:
        return shown_before(self.account, self.index, side, witnesses, swarm_id)


def shown_before(
    account: bytes, index: int, side: Side, witnesses: Witnesses, swarm_id: bytes
) -> bytes:
    """The root over the leaves before this one, which is seen to be under its checkpoint.

    Raises:
        IntegrityError: it is not, or no quorum signed that.
    """
    head = cosigned(account, side.note, witnesses, swarm_id).head
    verify_inclusion(side.leaf_hash, index, head.size, side.path, head.root)
    return root_before(index, head.size, side.path)


def cosigned(account: bytes, note: str, witnesses: Witnesses, swarm_id: bytes) -> Cosigned:
    """
    Raises:
        IntegrityError: it is no checkpoint of this account's spend log that a quorum signed.
    """
    found = witnesses.open(note, origin(swarm_id, account, "spend"), account)
    if not found.has_quorum:
        raise BadProof(f"{len(found.times_s)} witnesses signed, {witnesses.quorum_k} must")
    return found


def size_of(note: str) -> int:
    """Of the tree that a checkpoint is of; none: 0."""
    return Checkpoint.parse(Note.parse(note).text).size if note else 0


def _fields(side: Side) -> tuple[Field, ...]:
    return side.note.encode(), side.leaf_hash, side.path


def _side(fields: list[Any]) -> Side:
    match fields:
        case [bytes() as note, bytes() as leaf, [*path]] if all(
            type(each) is bytes and len(each) == HASH_BYTES for each in (leaf, *path)
        ):
            return Side(note.decode(errors="replace"), leaf, tuple(path))
        case _:
            raise BadProof("a side is a checkpoint, the hash of a leaf, and a path")
