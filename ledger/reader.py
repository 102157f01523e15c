"""Reading a log: its entries, receipts, tree head, and proofs. Needs no key and writes nothing.

In: a directory with a ledger in it. Out: values. Nothing read here is verified against its
signatures (except tree heads); whether everything still holds is asked of `verify.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ledger.checkpoint import Checkpoint
from ledger.entries import LogEntry, Proof
from ledger.line_rows import COLUMNS, ENTRY_COLUMNS, N_ENTRY, check_types, has_line_rows
from ledger.merkle import EMPTY_ROOT, inclusion_proof, root
from ledger.receipts import Receipt
from ledger.store import Row, Store, damaged
from protocol.errors import UsageError

FILE_NAME, HEAD_NAME = "ledger.sqlite", "ledger.checkpoint"
PAGE_ROWS = 4096  # read at once: a statement needs no more of a long log in memory


class LedgerReader:
    """The log of one account, in one directory. Use `open`, and `close` in the end."""

    def __init__(self, directory: Path, store: Store, account: bytes, swarm_id: bytes) -> None:
        self.directory, self.account, self.swarm_id = directory, account, swarm_id
        self._store = store

    @classmethod
    def read(cls, directory: Path) -> "LedgerReader":
        """Open an existing log for reading; whose it is, it says itself.

        Raises:
            DamagedLedger: the database is truncated or corrupt.
            ConfigError: there is none, or it cannot be opened.
        """
        store = Store.open(directory / FILE_NAME)
        try:
            meta = read_meta(store)
            return LedgerReader(directory, store, meta.get("account", b""), meta.get("swarm", b""))
        except BaseException:
            store.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def __len__(self) -> int:
        return int(self._store.execute("SELECT coalesce(max(idx) + 1, 0) FROM entry")[0][0])

    def entries(self, start: int = 0) -> Iterator[LogEntry]:
        """From this index on."""
        rows = self._store.execute("SELECT * FROM entry WHERE idx >= ? ORDER BY idx", (start,))
        yield from (LogEntry(*row) for row in rows)

    def rows(self, start: int = 0, most: int = PAGE_ROWS) -> Iterator[Row]:
        """Of each entry from this index on, in order: ENTRY_COLUMNS, and COLUMNS of its accounting
        row where it has one. So many are read at a time.

        Raises:
            IntegrityError: a row is none that was written.
        """
        sql = _ROWS if has_line_rows(self._store) else _ROWS_WITHOUT_LINES
        while found := self._store.execute(sql, (start, most)):
            for row in found:
                told = row if row[-1] is not None else row[:N_ENTRY]
                check_types(told)
                yield told
            start = found[-1][0] + 1

    def id_at(self, index: int) -> bytes | None:
        """Of the receipt of this entry; None: there is none so far."""
        rows = self._store.execute("SELECT receipt_id FROM entry WHERE idx = ?", (index,))
        return rows[0][0] if rows else None

    def entry(self, id_: bytes) -> LogEntry:
        """The entry of the receipt of this id.

        Raises:
            UsageError: the log has none.
        """
        entry = self._find(id_)
        if entry is None:
            raise UsageError(f"this log has no receipt {id_.hex()}")
        return entry

    def receipt(self, id_: bytes) -> Receipt:
        """The receipt of this id.

        Raises:
            UsageError: the log has none.
        """
        return Receipt.decode(self._body(self.entry(id_).index)[1])

    def open_tabs(self) -> list[Receipt]:
        rows = self._store.execute("SELECT receipt FROM open_tab ORDER BY session_id")
        return [Receipt.decode(data) for (data,) in rows]

    def n_open_tabs(self) -> int:
        return int(self._store.execute("SELECT count(*) FROM open_tab")[0][0])

    def checkpoint(self) -> Checkpoint | None:
        """The latest signed tree head."""
        note = self._head_note()
        return Checkpoint.open(note, self.account) if note else None

    def prove(self, id_: bytes) -> Proof:
        """That the receipt of this id is in our log, under the latest checkpoint."""
        with self.at_rest() as (size, note):
            return self.proof_at(self.entry(id_).index, size, note)

    @contextmanager
    def at_rest(self) -> Iterator[tuple[int, str]]:
        """The log as it is now, whatever others append meanwhile: its size and signed head."""
        with self._store.snapshot():
            yield self._sound_size(), self._head_note() or ""

    def proof_at(self, index: int, size: int, note: str) -> Proof:
        """That an entry is in our log of this size, under this checkpoint of it."""
        salt, data = self._body(index)
        path = tuple(inclusion_proof(index, size, self._node_at))
        return Proof(index=index, salt=salt, receipt=data, path=path, checkpoint=note)

    # --- within ----------------------------------------------------------------------------------

    def _find(self, id_: bytes) -> LogEntry | None:
        rows = self._store.execute("SELECT * FROM entry WHERE receipt_id = ?", (id_,))
        return LogEntry(*rows[0]) if rows else None

    def _body(self, index: int) -> tuple[bytes, bytes]:
        rows = self._store.execute("SELECT salt, receipt FROM body WHERE idx = ?", (index,))
        if not rows:
            raise damaged(self._store.path, f"the receipt of entry {index} is missing")
        return rows[0][0], rows[0][1]

    def _node_at(self, level: int, index: int) -> bytes:
        rows = self._store.execute(
            "SELECT hash FROM node WHERE level = ? AND idx = ?", (level, index)
        )
        if not rows:
            raise damaged(self._store.path, f"node {level}/{index} of the tree is missing")
        return bytes(rows[0][0])

    def _head_note(self) -> str | None:
        rows = self._store.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1")
        return rows[0][0].decode(errors="replace") if rows else None

    def _sound_size(self) -> int:
        """The size of the tree, once it is seen to match its last checkpoint."""
        size, head = len(self), self.checkpoint()
        promised = (head.size, head.root) if head else (0, EMPTY_ROOT)
        if (size, root(size, self._node_at)) != promised:
            raise damaged(self._store.path, "the tree does not match its last checkpoint")
        return size


_ENTRY = ", ".join(f"entry.{name}" for name in ENTRY_COLUMNS)
_LINE = ", ".join(f"line.{name}" for name in COLUMNS)
_FROM = "WHERE entry.idx >= ? ORDER BY entry.idx LIMIT ?"
_ROWS = f"SELECT {_ENTRY}, {_LINE} FROM entry LEFT JOIN line ON line.idx = entry.idx {_FROM}"
_ROWS_WITHOUT_LINES = f"SELECT {_ENTRY}, NULL FROM entry {_FROM}"


def read_meta(store: Store) -> dict[str, bytes]:
    """What a database says of itself: its schema, account and swarm."""
    rows = store.execute("SELECT name, value FROM meta")
    return {str(name): value if isinstance(value, bytes) else b"" for name, value in rows}
