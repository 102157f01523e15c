"""Reading a log: its entries, receipts, tree head, and proofs. Needs no key and writes nothing,
but forgets bodies that it is told to.

In: a directory with a ledger in it. Out: values. Nothing read here is verified against its
signatures (except tree heads); whether everything still holds is asked of `verify.py`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.beside import read_meta
from ledger.checkpoint import Checkpoint
from ledger.debts import NOTHING, Passed
from ledger.entries import LogEntry, Proof
from ledger.line_rows import COLUMNS, ENTRY_COLUMNS, N_ENTRY, check_types, has_line_rows
from ledger.merkle import inclusion_proof
from ledger.objects import NO_ASSET
from ledger.places import open_store
from ledger.receipts import Receipt
from ledger.store import SCHEMA, Row, damaged
from ledger.tree_log import TreeLog
from protocol.errors import UsageError

FILE_NAME, HEAD_NAME = "ledger.sqlite", "ledger.checkpoint"
PAGE_ROWS = 4096  # read at once: a statement needs no more of a long log in memory


@dataclass(frozen=True, slots=True)
class Body:
    """A receipt that may be erased: its entry's place, and the allotment it cites, or nothing."""

    index: int
    allot_oid: bytes


class LedgerReader(TreeLog):
    """The log of one account, in one directory. Use `read`, and `close` in the end."""

    kind, table, head_name = "receipts", "entry", HEAD_NAME

    @classmethod
    def read(cls, directory: Path) -> "LedgerReader":
        """Open an existing log for reading; whose it is, it says itself.

        Raises:
            DamagedLedger: the database is truncated or corrupt.
            ConfigError: there is none, or it cannot be opened.
        """
        store = open_store(directory, FILE_NAME)
        try:
            meta = read_meta(store)
            return LedgerReader(directory, store, meta.get("account", b""), meta.get("swarm", b""))
        except BaseException:
            store.close()
            raise

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

    def sums(
        self, asset: bytes = NO_ASSET, *, from_epoch: int = 0, of: bytes | None = None
    ) -> dict[bytes, Passed]:
        """What we earned from each counterparty (or `of` this one) and spent with it in `asset`, in
        tabs that ended in this epoch or later. Of several receipts of one tab the highest counts.
        """
        found: dict[bytes, Passed] = {}
        sql = _SUMS.format("" if of is None else " AND ? IN (payer, payee)")
        values = (asset, from_epoch, *(() if of is None else (of,)))
        for payer, payee, ncr in self._store.execute(sql, values):
            earns = payee == self.account
            other = payer if earns else payee
            earned, spent = found.get(other, NOTHING)
            found[other] = Passed(earned + int(ncr) * earns, spent + int(ncr) * (not earns))
        return found

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

    def bodies(
        self, start: int = 0, **wanted: bytes
    ) -> Iterator[tuple[int, bytes | None, bytes | None]]:
        """Of each entry in an asset: its place, its receipt, or what that cited if it is erased.

        start: the first place. wanted: only of this payer, payee, asset or session_id.
        """
        erased, join = "NULL", ""
        if self._has_pruned():
            erased, join = "pruned.allot", "LEFT JOIN pruned ON pruned.idx = entry.idx"
        where = "".join(f" AND entry.{name} = ?" for name in sorted(wanted))
        values = [wanted[name] for name in sorted(wanted)]
        sql = (
            f"SELECT entry.idx, receipt, {erased} FROM entry"
            f" LEFT JOIN body ON body.idx = entry.idx {join}"
            f" WHERE asset <> ? AND entry.idx >= ?{where} ORDER BY entry.idx LIMIT ?"
        )
        while found := self._store.execute(sql, (b"", start, *values, PAGE_ROWS)):
            yield from found
            start = found[-1][0] + 1

    def tabs_of(self, payee: bytes) -> set[bytes]:
        """The ids of this payee's tabs."""
        sql = "SELECT DISTINCT session_id FROM entry WHERE payee = ?"
        return {tab_id for (tab_id,) in self._store.execute(sql, (payee,))}

    def forget(self, bodies: Iterable[Body]) -> None:
        """Erase the receipts of these entries, for good; the tree and all sums stay."""
        self._store.create(SCHEMA)  # an older log has no table for what was erased
        self._store.overwrite_what_is_deleted()
        with self._store.transaction():
            for body in bodies:
                self._store.execute(
                    "INSERT INTO pruned VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (body.index, body.allot_oid),
                )
                self._store.execute("DELETE FROM body WHERE idx = ?", (body.index,))
        self._store.tidy()

    def open_tabs(self) -> list[Receipt]:
        rows = self._store.execute("SELECT receipt FROM open_tab ORDER BY session_id")
        return [Receipt.decode(data) for (data,) in rows]

    def n_open_tabs(self) -> int:
        return int(self._store.execute("SELECT count(*) FROM open_tab")[0][0])

    def checkpoint(self) -> Checkpoint | None:
        """The latest signed tree head."""
        note = self._head_note()
        if note == self._signed[0]:
            return self._signed[1]
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

    def is_pruned(self, index: int) -> bool:
        """Whether the receipt of this entry was erased."""
        sql = "SELECT 1 FROM pruned WHERE idx = ?"
        return self._has_pruned() and bool(self._store.execute(sql, (index,)))

    def _has_pruned(self) -> bool:
        return self._store.has_table("pruned")

    def _body(self, index: int) -> tuple[bytes, bytes]:
        rows = self._store.execute("SELECT salt, receipt FROM body WHERE idx = ?", (index,))
        if not rows:
            if self.is_pruned(index):
                raise UsageError(
                    f"the receipt of entry {index} was pruned: its sums are here, its proof is not",
                    hint="the counterparty may still have it",
                )
            raise damaged(self._store.path, f"the receipt of entry {index} is missing")
        return rows[0][0], rows[0][1]

    def _head(self) -> Checkpoint | None:
        return self.checkpoint()


_SUMS = (
    "SELECT payer, payee, sum(net) FROM (SELECT payer, payee, max(net) AS net FROM entry"
    " WHERE asset = ? AND epoch >= ?{} GROUP BY session_id, payer, payee) AS tab"
    " GROUP BY payer, payee"
)
_ENTRY = ", ".join(f"entry.{name}" for name in ENTRY_COLUMNS)
_LINE = ", ".join(f"line.{name}" for name in COLUMNS)
_FROM = "WHERE entry.idx >= ? ORDER BY entry.idx LIMIT ?"
_ROWS = f"SELECT {_ENTRY}, {_LINE} FROM entry LEFT JOIN line ON line.idx = entry.idx {_FROM}"
_ROWS_WITHOUT_LINES = f"SELECT {_ENTRY}, NULL FROM entry {_FROM}"
