"""A witness: it signs that a log only grows, and remembers the last size it signed.

In: a log's checkpoint and the proof that it extends what was signed before. Out: a cosignature, or
a refusal with the status that C2SP tlog-witness gives it. The size is compared and set in one
transaction that is on disk before the cosignature leaves: a witness that forgets could be led to
sign two versions of a log. How often it signed is kept beside the database too, so that a database
put back to an older state is noticed. How requests come in is left to others.
"""

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ledger.beside import Beside, begun, claim
from ledger.checkpoint import Checkpoint
from ledger.cosigning import Witness, cosign, open_head
from ledger.errors import BadProof, WitnessRefused
from ledger.merkle import EMPTY_ROOT, verify_consistency
from ledger.notes import MAX_NOTE_BYTES, Note, NoteSignature
from ledger.places import is_there, open_store
from ledger.store import Store, damaged
from protocol.errors import IntegrityError
from protocol.signing import SigningKey

FILE_NAME, SEEN_NAME = "witness.sqlite", "witness.seen"
MAX_NEW_LOGS_AN_HOUR = 1000  # accounts are free to make, disks are not: half a MB an hour
MAX_NEW_LOGS_OF_ONE = 50  # an hour, whoever asks: the rest is left to others
MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = MAX_NOTE_BYTES + 64 * 64
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

LogKey = Callable[[str], bytes | None]
"""The key that a log of this origin signs with; None: not a log we know."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request: sign this note; it extends the tree of `old` leaves that you signed before."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        lines = (f"{b64encode(each).decode()}\n" for each in self.proof)
        return f"old {self.old}\n{''.join(lines)}\n{self.note}".encode()

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises WitnessRefused: 400, the body is no such request."""
        try:
            if len(body) > MAX_REQUEST_BYTES:
                raise ValueError("it is too long")
            head, _, note = body.decode().partition("\n\n")
            first, *proof = head.split("\n")
            word, old = first.split(" ")
            request = cls(int(old), tuple(b64decode(p, validate=True) for p in proof), note)
            if word != "old" or len(proof) > MAX_PROOF_LINES or request.encode() != body:
                raise ValueError("it is not spelled as it must be")
            if request.old < 0 or any(len(each) != 32 for each in request.proof):
                raise ValueError("a size or hash is none")
        except (ValueError, Base64Error) as error:
            raise WitnessRefused(400, f"no request to add a checkpoint: {error}") from error
        return request


def name_of(directory: Path) -> str | None:
    """Of the witness whose book is there; None: there is no book."""
    if not is_there(directory, FILE_NAME):
        return None
    store = open_store(directory, FILE_NAME)
    try:
        rows = store.execute("SELECT value FROM meta WHERE name = 'name'")
        return rows[0][0].decode(errors="replace") if rows else None
    finally:
        store.close()


class WitnessBook:
    """What a witness signed so far. Use `open`, and `close` in the end."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        name: str,
        key: SigningKey,
        log_key: LogKey,
        max_new_logs_an_hour: int = MAX_NEW_LOGS_AN_HOUR,
    ) -> None:
        self.witness = Witness(name, key.public_key)
        self._store, self._key, self._log_key = store, key, log_key
        self._max_new_logs_an_hour = max_new_logs_an_hour
        self._new_logs_of: tuple[int, Counter[str]] = (0, Counter())  # the hour, and who asked
        self._beside = Beside(directory / SEEN_NAME, store, self._latest)

    @classmethod
    def open(
        cls,
        directory: Path,
        name: str,
        key: SigningKey,
        log_key: LogKey,
        *,
        max_new_logs_an_hour: int = MAX_NEW_LOGS_AN_HOUR,
    ) -> Self:
        """Open or begin the book of the witness of this name and key.

        Raises:
            DamagedLedger: the database is corrupt, or knows less than was signed already.
            ForeignLedger: it is another witness's.
            ConfigError: the directory cannot be written.
        """
        with begun(directory, FILE_NAME, SEEN_NAME, SCHEMA) as store:
            book = cls(directory, store, name, key, log_key, max_new_logs_an_hour)
            claim(store, {"name": name.encode(), "key": key.public_key})
            book._check_count()
        return book

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size(self, origin: str) -> int:
        """Of the last checkpoint of this log that we signed; 0: none so far."""
        return self._seen(origin)[0]

    def latest(self, origin: str) -> str | None:
        """That checkpoint, as its log signed it."""
        rows = self._store.execute("SELECT note FROM seen WHERE origin = ?", (origin,))
        return str(rows[0][0]) if rows else None

    def add_checkpoint(self, request: AddCheckpoint, now_s: int, asker: str = "") -> NoteSignature:
        """Cosign a checkpoint that extends the last one we cosigned.

        asker: a peer that may bring so many new logs an hour; nothing: whoever it was, e.g. behind
            a proxy.

        Raises:
            WitnessRefused: 400 (no checkpoint), 404 (no log we know), 403 (not its signature),
                409 (another size or root than we signed; `size` is ours), 422 (no proof),
                503 (too many new logs this hour).
            ConfigError, OutOfMemory: what is promised beside the database cannot be written.
        """
        note, head = self._read(request)
        with self._store.transaction():  # compare and set: nobody comes between, and it is durable
            size, signed = self._seen(head.origin)
            if request.old != size:
                raise WitnessRefused(
                    409, f"the last checkpoint signed here has {size} entries", size
                )
            self._check_growth(size, signed, head, request)
            if not self._store.execute("SELECT 1 FROM seen WHERE origin = ?", (head.origin,)):
                self._admit(now_s // 3600, asker, is_empty=head.size == 0)
            self._store.execute(
                "INSERT INTO seen VALUES (?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE"
                " SET size = excluded.size, root = excluded.root, note = excluded.note",
                (head.origin, head.size, head.root, request.note),
            )
            grew = head.size > size
            count = self._count() + grew
            if grew:
                self._set("count", count)
        self._beside.keep(count)  # whether or not it is this signature that was counted
        return cosign(note.text, self.witness, self._key, now_s)

    def seen(self) -> list[tuple[str, int]]:
        """The logs we know to exist, and how many entries of each we signed."""
        return [
            (str(name), int(size))
            for name, size in self._store.execute("SELECT origin, size FROM seen ORDER BY origin")
        ]

    # --- within ----------------------------------------------------------------------------------

    def _read(self, request: AddCheckpoint) -> tuple[Note, Checkpoint]:
        """The cheap questions come first: shape, a log we know, then its signature."""
        try:
            note = Note.parse(request.note)
            named = Checkpoint.parse(note.text)
        except BadProof as error:
            raise WitnessRefused(400, str(error)) from error
        if (key := self._log_key(named.origin)) is None:
            raise WitnessRefused(404, f"{named.origin} is no log that this witness knows")
        try:
            open_head(note, named.origin, key)
        except IntegrityError as error:
            raise WitnessRefused(403, str(error)) from error
        if request.old > named.size:
            raise WitnessRefused(
                400, f"a tree of {named.size} entries extends none of {request.old}"
            )
        return note, named

    @staticmethod
    def _check_growth(size: int, signed: bytes, head: Checkpoint, request: AddCheckpoint) -> None:
        if head.size == size and head.root != signed:
            raise WitnessRefused(409, f"another tree of {size} entries was signed here", size)
        try:
            if size == 0:
                if request.proof or (head.size == 0 and head.root != EMPTY_ROOT):
                    raise BadProof(
                        "a first checkpoint comes without a proof, an empty one with no root"
                    )
            else:
                verify_consistency(size, head.size, request.proof, signed, head.root)
        except BadProof as error:
            raise WitnessRefused(422, str(error)) from error

    def _seen(self, origin: str) -> tuple[int, bytes]:
        """What we signed last; the note it was signed in says the same, or the disk has erred."""
        sql = "SELECT size, root, note FROM seen WHERE origin = ?"
        rows = self._store.execute(sql, (origin,))
        if not rows:
            return 0, EMPTY_ROOT
        size, root, note = rows[0]
        with suppress(BadProof):
            if Checkpoint(origin, size, root) == Checkpoint.parse(Note.parse(note).text):
                return size, root
        raise damaged(self._store.path, f"what it signed of {origin} is not what its note says")

    def _admit(self, hour: int, asker: str, *, is_empty: bool) -> None:
        """Count a log that is new, unless this hour had its share: the next one has another.

        Logs without entries take half of it at most: others are kept room by who wrote something.
        """
        n_new = self._number("new_logs") if self._number("hour") == hour else 0
        most = self._max_new_logs_an_hour
        if n_new >= (max(1, most // 2) if is_empty else most):
            raise WitnessRefused(503, "too many logs are new to this witness; try again in an hour")
        if self._new_logs_of[0] != hour:
            self._new_logs_of = hour, Counter()
        if asker and self._new_logs_of[1][asker] >= MAX_NEW_LOGS_OF_ONE:
            raise WitnessRefused(503, "too many new logs come from you; try again in an hour")
        self._new_logs_of[1][asker] += 1
        self._set("hour", hour)
        self._set("new_logs", n_new + 1)

    def _count(self) -> int:
        return self._number("count")

    def _number(self, name: str) -> int:
        rows = self._store.execute("SELECT value FROM meta WHERE name = ?", (name,))
        return int.from_bytes(rows[0][0], "big") if rows else 0

    def _set(self, name: str, number: int) -> None:
        self._store.execute(
            "INSERT INTO meta VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, number.to_bytes(8, "big")),
        )

    def _latest(self) -> tuple[int, str]:
        count = self._count()
        return count, f"{count}\n"

    def _check_count(self) -> None:
        """Whether the database knows all that was signed, as told beside it."""
        known, path = self._count(), self._beside.path
        if (text := self._beside.read()) is None:
            if known:
                raise damaged(path, f"it is missing, but {known} checkpoints were signed")
        elif not text.strip().isdigit() or len(text) > 20:
            raise damaged(path, "it holds no number")
        elif known < (promised := int(text)):
            raise damaged(self._store.path, f"it knows {known} of {promised} checkpoints signed")
        else:
            self._beside.is_at(promised)
        self._beside.keep(known)  # a process that died may have signed and not counted it
