"""A log in a database: entries in order, the tree over them, and the heads that were signed of it.

In: the rows of one account's log, of receipts or of spending. Out: its size, once it is seen to
match the last signed head, and whether it has what somebody remembers. `OwnLog` is one whose key we
hold: it signs heads, keeps the last one beside the database, and signs nothing that may be a fork.
"""

from pathlib import Path
from typing import ClassVar, Literal, Self

from ledger.beside import Beside, claim
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import open_head
from ledger.errors import DamagedLedger
from ledger.merkle import EMPTY_ROOT, NodeAt, root
from ledger.notes import Note
from ledger.store import Store, damaged
from protocol.errors import IntegrityError
from protocol.signing import SigningKey


class TreeLog:
    """The log of one account, for reading. Use what opens it, and `close` in the end."""

    kind: ClassVar[Literal["receipts", "spend"]]
    table: ClassVar[str]  # of its entries
    _signed: tuple[str, Checkpoint | None] = ("", None)  # last, by us: it needs not be verified
    head_name: ClassVar[str]  # of the file beside the database

    def __init__(self, directory: Path, store: Store, account: bytes, swarm_id: bytes) -> None:
        self.directory, self.account, self.swarm_id = directory, account, swarm_id
        self._store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def __len__(self) -> int:
        return int(self._store.execute(f"SELECT coalesce(max(idx) + 1, 0) FROM {self.table}")[0][0])

    @property
    def origin(self) -> str:
        return origin(self.swarm_id, self.account, self.kind)

    def check_against(self, remembered: str) -> None:
        """Whether we know all that somebody, a witness say, remembers to have seen of this log.

        Ask each witness that answers before the first append after a start: a copy of the whole
        home put back, checkpoint and all, is noticed by nobody else.

        Raises:
            DamagedLedger: it remembers more, or another tree: to sign again would be a fork.
            IntegrityError: we never signed what it shows; that says nothing.
        """
        head = open_head(Note.parse(remembered), self.origin, self.account)  # our own signature
        size = len(self)
        if head.size > size:
            raise damaged(
                self._store.path, f"a witness signed {head.size} entries of it, it has {size}"
            )
        if head.root != (root(head.size, self._node_at) if head.size else EMPTY_ROOT):
            raise damaged(self._store.path, f"a witness signed {head.size} other entries")

    def sound_head(self) -> tuple[int, Checkpoint | None]:
        """The size of the tree and its signed head, which was seen to match it."""
        return self._sound_size(), self._head()

    # --- within ----------------------------------------------------------------------------------

    def _node_at(self, level: int, index: int) -> bytes:
        rows = self._store.execute(
            "SELECT hash FROM node WHERE level = ? AND idx = ?", (level, index)
        )
        if not rows:
            raise damaged(self._store.path, f"node {level}/{index} of the tree is missing")
        return bytes(rows[0][0])

    def _head_note(self) -> str | None:
        rows = self._store.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1")
        return text_of(rows[0][0]) if rows else None

    def _head(self) -> Checkpoint | None:
        note = self._head_note()
        return Checkpoint.parse(Note.parse(note).text) if note else None

    def _sound_size(self) -> int:
        """The size of the tree, once it is seen to match its last checkpoint."""
        size = len(self)
        try:
            head = self._head()
        except IntegrityError as error:
            raise damaged(self._store.path, f"its last checkpoint is none: {error}") from error
        promised = (head.size, head.root) if head else (0, EMPTY_ROOT)
        if (size, root(size, self._node_at)) != promised:
            raise damaged(self._store.path, "the tree does not match its last checkpoint")
        return size


class OwnLog(TreeLog):
    """The log of the account whose key we hold."""

    def __init__(self, directory: Path, store: Store, key: SigningKey, swarm_id: bytes) -> None:
        super().__init__(directory, store, key.public_key, swarm_id)
        self._key = key
        self._beside = Beside(directory / self.head_name, store, self._latest)

    def _make_sure(self, **more: bytes) -> None:
        """That the database is ours, and has all that was signed; then what is beside it says so.

        more: what else it must say of itself.

        Raises:
            ForeignLedger: it is another's.
            DamagedLedger: it is older than the checkpoint beside it, or another.
        """
        claim(self._store, {**more, "account": self.account, "swarm": self.swarm_id})
        if (promised := self._beside.read()) is not None:
            self._check_promise(promised)
        self._beside.keep(len(self))  # a process that died may have signed and not kept it

    def _check_promise(self, note: str) -> None:
        try:
            self.check_against(note)
            size = Checkpoint.parse(Note.parse(note).text).size
        except DamagedLedger as error:
            size = Checkpoint.parse(Note.parse(note).text).size
            reason = f"a checkpoint beside it promises {size} entries, which it has not"
            raise damaged(self._store.path, reason) from error
        except IntegrityError as error:
            raise damaged(self._beside.path, str(error)) from error
        self._beside.is_at(size)

    def _sign(self, size: int, node_at: NodeAt) -> str:
        """Sign the tree of this size, within the transaction that made it so."""
        head = Checkpoint(self.origin, size, root(size, node_at))
        note = head.sign(self._key)
        self._store.execute("INSERT INTO checkpoint VALUES (?, ?)", (size, self._stored(note)))
        self._signed = note, head
        return note

    @staticmethod
    def _stored(note: str) -> str | bytes:
        """As its column has it."""
        return note

    def _latest(self) -> tuple[int, str] | None:
        if (note := self._head_note()) is None:
            return None
        if note == self._signed[0] and self._signed[1]:
            return self._signed[1].size, note
        return Checkpoint.parse(Note.parse(note).text).size, note


def text_of(note: str | bytes) -> str:
    """As its column has it."""
    return note if isinstance(note, str) else note.decode(errors="replace")
