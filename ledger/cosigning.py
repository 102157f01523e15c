"""Cosignatures: witnesses say that they saw a log grow only, and how many of them it takes.

In: checkpoints. Out: a witness's signature with its time (C2SP tlog-cosignature's
`cosignature/v1`), and whether enough named witnesses signed one. Two quorums of `k = quorum(n)`
share an honest witness as long as no more than n - k lie, so of two versions of a log one gets a
quorum at most (Bracha 1987; the arithmetic as N. Möller gives it for Sigsum, 2023). A plain
majority is not enough: five of eight, three of them lying, sign both.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from statistics import median_low

from ledger.checkpoint import Checkpoint
from ledger.errors import BadProof
from ledger.notes import COSIGNATURE_V1, ED25519, Note, NoteKey, NoteSignature
from protocol.canonical import MAX_UINT
from protocol.errors import IntegrityError
from protocol.signing import SIGNATURE_BYTES, SigningKey, verify


def quorum(n_witnesses: int) -> int:
    """How many of n must sign: n - quorum of them may lie or be away."""
    return 1 + 2 * n_witnesses // 3 if n_witnesses else 0


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness as a swarm's policy names it."""

    name: str
    public_key: bytes

    @property
    def note_key(self) -> NoteKey:
        return NoteKey(self.name, COSIGNATURE_V1, self.public_key)


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A checkpoint that its log signed, and the times at which known witnesses did.

    At a size, a log has one root that `has_quorum`, as long as too few witnesses lie.
    """

    head: Checkpoint
    times_s: tuple[int, ...]  # one per witness, rising
    has_quorum: bool

    @property
    def time_s(self) -> int:
        """When, by the witnesses' median: a few that lie cannot move it past the honest ones."""
        return median_low(self.times_s) if self.times_s else 0


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Whom a swarm asks, and how many of them it takes. Nobody: every signed head counts."""

    known: tuple[Witness, ...] = ()
    quorum_k: int = 0

    def __post_init__(self) -> None:
        names, keys = {w.name for w in self.known}, {w.public_key for w in self.known}
        if not len(names) == len(keys) == len(self.known):
            raise BadProof("each witness has a name and a key of its own")
        if not quorum(len(self.known)) <= self.quorum_k <= len(self.known):
            raise BadProof(
                f"{len(self.known)} witnesses need a quorum of {quorum(len(self.known))} or more"
            )

    @classmethod
    def of(cls, *known: Witness) -> "Witnesses":
        """These, with as small a quorum as is safe."""
        return cls(known, quorum(len(known)))

    def add(
        self, note: str, lines: Iterable[NoteSignature], origin: str, log_key: bytes
    ) -> tuple[str, Cosigned]:
        """The note with these cosignatures, and what they come to.

        Only lines of the log and of witnesses we know are kept, and new ones that hold: else one
        witness could fill the note up, or put a line in another's name in place of its own.

        Raises:
            IntegrityError: the note is not the log's, or a line that it had does not hold.
        """
        parsed = Note.parse(note)
        keys = {(each.note_key.name, each.note_key.id): each.public_key for each in self.known}
        log = NoteKey(origin, ED25519, log_key)
        kept = keys.keys() | {(log.name, log.id)}
        so_far = tuple(line for line in parsed.signatures if (line.name, line.key_id) in kept)
        more = []
        for line in lines:
            if (key := keys.get((line.name, line.key_id))) is not None:
                with suppress(IntegrityError):
                    _check_cosignature(parsed.text, key, line.signature)
                    more.append(line)
        whole = with_cosignatures(Note(parsed.text, so_far).encode(), more)
        return whole, self.open(whole, origin, log_key)

    def open(self, note: str, origin: str, log_key: bytes) -> Cosigned:
        """Read a checkpoint of this log with its cosignatures; unknown signers are passed over.

        Raises:
            IntegrityError: the log did not sign it, or a signature of a known key does not hold.
        """
        return _opened(self, note, origin, log_key)


@lru_cache(maxsize=64)
def _opened(witnesses: Witnesses, note: str, origin: str, log_key: bytes) -> Cosigned:
    """Remembered by its very text: checkpoints are public, and told again by whoever has them."""
    parsed = Note.parse(note)
    head = open_head(parsed, origin, log_key)
    times = [
        _check_cosignature(parsed.text, witness.public_key, signature)
        for witness in witnesses.known
        for signature in parsed.of(witness.note_key)[:1]
    ]
    return Cosigned(head, tuple(sorted(times)), len(times) >= witnesses.quorum_k)


def open_head(note: Note, origin: str, log_key: bytes) -> Checkpoint:
    """The checkpoint in a note, once the log's own signature is seen to hold.

    Raises:
        BadProof: it is of another log, or not signed by this key.
        BadSignature: it claims to be, and is not.
    """
    head = Checkpoint.parse(note.text)
    if head.origin != origin:
        raise BadProof("the checkpoint is of another log")
    signatures = note.of(NoteKey(origin, ED25519, log_key))
    if not signatures:
        raise BadProof("the log did not sign this checkpoint")
    for signature in signatures:
        verify(log_key, note.text.encode(), signature)
    return head


def cosign(text: str, witness: Witness, key: SigningKey, time_s: int) -> NoteSignature:
    """A witness's line below a checkpoint's text."""
    if not 0 <= time_s <= MAX_UINT:
        raise BadProof("a time is seconds since 1970")
    signature = time_s.to_bytes(8, "big") + key.sign(_cosigned_bytes(text, time_s))
    return NoteSignature(witness.name, witness.note_key.id, signature)


def with_cosignatures(note: str, more: Sequence[NoteSignature]) -> str:
    """The same note with more lines; a line of a key that signed before is replaced."""
    parsed = Note.parse(note)
    lines = {(s.name, s.key_id): s for s in parsed.signatures} | {
        (s.name, s.key_id): s for s in more
    }
    return Note(parsed.text, tuple(lines.values())).encode()


def _check_cosignature(text: str, public_key: bytes, data: bytes) -> int:
    """When a witness signed this text."""
    if len(data) != 8 + SIGNATURE_BYTES:
        raise BadProof("a cosignature is a time and a signature")
    time_s = int.from_bytes(data[:8], "big")
    if time_s > MAX_UINT:
        raise BadProof("a cosignature's time is beyond 2^63")
    verify(public_key, _cosigned_bytes(text, time_s), data[8:])
    return time_s


def _cosigned_bytes(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()
