"""Does a log still hold? Everything is derived again from the bytes, and compared.

In: a directory. Out: a report that names each entry that does not hold, and which part of it. For
every entry: the receipt against its salted digest and id, every signature in it, the bond of terms
and offer, the amount from meter and rates, the rows and the leaf from the receipt, and a proof to
the signed tree head. For the log: each node of the tree, each checkpoint, the copy of the last one
that is kept outside, and open tabs. Nothing is changed, and no key is needed: reading goes on past
what is broken, so that the report is complete.
"""

from collections.abc import Iterator
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger.beside import read_meta
from ledger.checkpoint import Checkpoint, origin
from ledger.entries import LogEntry
from ledger.errors import BadProof, BadReceipt
from ledger.line_rows import COLUMNS, has_line_rows, row_of
from ledger.merkle import NodeAt, appended, inclusion_proof, leaf_hash, root, verify_inclusion
from ledger.places import open_store
from ledger.reader import FILE_NAME, HEAD_NAME
from ledger.receipts import ClosedTab, Receipt, open_receipt, receipt_id
from ledger.report import Report
from ledger.store import SCHEMA_VERSION, Store
from protocol.errors import IntegrityError

Nodes = dict[tuple[int, int], bytes]
ENTRY_COLUMNS = ", ".join(LogEntry.__slots__).replace("index", "idx", 1)


def verify_ledger(directory: Path, account: bytes | None = None) -> Report:
    """Check a log against itself, and against `account` when its owner is known from elsewhere.

    A database that cannot be read at all is a failure in the report, like any other.

    Raises:
        ConfigError: there is no ledger, or it cannot be opened.
    """
    report = Report(directory, account or b"")
    try:
        store = open_store(directory, FILE_NAME)
        with closing(store), store.snapshot():
            meta = read_meta(store)
            report.account = account or meta.get("account", b"")
            _Check(store, report, meta).run()
    except IntegrityError as error:
        report.add("database", error)
    return report


def _looking_up(nodes: Nodes) -> NodeAt:
    return lambda level, index: nodes[level, index]


def _grow(leaves: list[bytes]) -> Nodes:
    nodes: Nodes = {}
    for size, leaf in enumerate(leaves):
        for level, index, hash_ in appended(size, leaf, _looking_up(nodes)):
            nodes[level, index] = hash_
    return nodes


class _Check:
    """One pass over a log. Rows are read one by one: a broken one must not hide the next."""

    def __init__(self, store: Store, report: Report, meta: dict[str, bytes]) -> None:
        self.store, self.report, self.meta = store, report, meta
        self.swarm_id = meta.get("swarm", b"")
        self.leaves: list[bytes] = []
        self.ids: list[bytes | None] = []
        self.nodes: Nodes = {}
        self.has_lines = has_line_rows(store)
        self.pruned = self._pruned()

    def run(self) -> None:
        self._check_file()
        self._check_meta()
        if len(self.swarm_id) != 32:
            return
        size = self._rows("log", "SELECT count(*) FROM entry")
        self.report.n_entries = size[0][0] if size else 0
        for index in range(self.report.n_entries):
            self._check_entry(index)
        self._check_stray_rows()
        self._check_nodes()
        self._check_checkpoints()
        self._check_head_file()
        self._check_open_tabs()

    def _pruned(self) -> set[int]:
        """Entries whose receipts the owner says it erased: that they are gone is no damage."""
        if not self.store.has_table("pruned"):
            return set()
        return {index for (index,) in self._rows("pruned", "SELECT idx FROM pruned")}

    def _rows(self, part: str, sql: str, *values: Any, entry: int | None = None) -> list[Any]:
        try:
            return self.store.execute(sql, values)
        except IntegrityError as error:
            self.report.add(part, error, entry)
            return []

    def _add_at(self, index: int, part: str, reason: str) -> None:
        id_ = self.ids[index] if 0 <= index < len(self.ids) else None
        self.report.add(part, reason, max(index, 0), id_)

    def _check_file(self) -> None:
        try:
            found = self.store.faults()
        except IntegrityError as error:
            found = [str(error)]
        for fault in found:
            self.report.add("database", fault)

    def _check_meta(self) -> None:
        if self.meta.get("schema") != bytes([SCHEMA_VERSION]):
            self.report.add("meta", "of an unknown version")
        if self.meta.get("account") != self.report.account:
            self.report.add("meta", "names another account than its owner's key")
        if len(self.swarm_id) != 32:
            self.report.add("meta", "names no swarm")
        if set(self.meta) != {"schema", "account", "swarm"}:
            self.report.add("meta", "has other rows than it should")

    def _check_entry(self, index: int) -> None:
        """One row, its receipt, and whether each gives the other."""
        rows = self._rows(
            "row", f"SELECT {ENTRY_COLUMNS} FROM entry WHERE idx = ?", index, entry=index
        )
        if not rows:
            self.report.add("row", "is missing", index)
            self.leaves.append(b"")
            self.ids.append(None)
            return
        row = LogEntry(*rows[0])
        self.ids.append(row.receipt_id)
        try:
            self.leaves.append(leaf_hash(row.leaf()))
        except IntegrityError as error:
            self.leaves.append(b"")
            self.report.add("leaf", error, index, row.receipt_id)
        body = self._rows(
            "receipt", "SELECT salt, receipt FROM body WHERE idx = ?", index, entry=index
        )
        if not body and index in self.pruned:
            self.report.n_pruned += 1
            return
        if not body:
            self.report.add("receipt", "is missing", index, row.receipt_id)
            return
        for part, reason in self._entry_failures(row, *body[0]):
            self.report.add(part, reason, index, row.receipt_id)

    def _entry_failures(self, row: LogEntry, salt: Any, data: Any) -> Iterator[tuple[str, str]]:
        if not isinstance(salt, bytes) or not isinstance(data, bytes):
            yield "receipt", "is not made of bytes"
            return
        if len(salt) != 32 or sha256(salt + data).digest() != row.digest:
            yield "receipt", "the receipt and its salt do not give the digest in the leaf"
        if receipt_id(data, self.swarm_id) != row.receipt_id:
            yield "receipt", "the receipt does not give the id it is filed under"
        try:
            tab = open_receipt(Receipt.decode(data), self.swarm_id)
        except BadReceipt as error:
            yield error.part, error.reason
            return
        except IntegrityError as error:
            yield "receipt", str(error)
            return
        yield from self._line_failures(row.index, tab)
        given = LogEntry.of(row.index, row.receipt_id, tab, row.digest)
        for name in LogEntry.__slots__:
            if getattr(given, name) != getattr(row, name):
                yield "leaf", f"{name} is not what the receipt gives"
        if self.report.account not in tab.terms.parties:
            yield "leaf", "the log's owner is no party to this receipt"

    def _line_failures(self, index: int, tab: ClosedTab) -> Iterator[tuple[str, str]]:
        """Of the accounting row. An older log's entry has none: statements read its receipt."""
        if not self.has_lines:
            return
        sql = f"SELECT {', '.join(COLUMNS)} FROM line WHERE idx = ?"
        for row in self._rows("line", sql, index, entry=index):
            for name, given, held in zip(COLUMNS, row_of(tab), row, strict=True):
                if type(given) is not type(held) or given != held:
                    yield "line", f"{name} is not what the receipt gives"

    def _check_stray_rows(self) -> None:
        for table in (
            "entry",
            "body",
            *(("pruned",) if self.pruned else ()),
            *(("line",) if self.has_lines else ()),
        ):
            sql = f"SELECT idx FROM {table} WHERE idx < 0 OR idx >= ?"
            for (index,) in self._rows("log", sql, self.report.n_entries):
                self.report.add("log", f"a row of {table} lies outside the log", index)

    def _check_nodes(self) -> None:
        """Compare each stored node with the tree that the leaves give."""
        rows = self._rows("tree", "SELECT level, idx, hash FROM node")
        stored = {(level, index): hash_ for level, index, hash_ in rows if type(hash_) is bytes}
        signed = self._signed_leaves(stored)
        for index, (given, leaf) in enumerate(zip(self.leaves, signed, strict=True)):
            if given != leaf:
                self.report.add("leaf", "is not the one that was signed", index, self.ids[index])
        self.nodes = _grow(signed)
        for (level, index), hash_ in self.nodes.items():
            if stored.pop((level, index), None) != hash_:
                last = (index + 1 << level) - 1
                reason = f"node {level}/{index} of the tree is not what the leaves give"
                self.report.add("tree", reason, last, self.ids[last])
        for level, index in stored:
            self.report.add("tree", f"node {level}/{index} lies outside the tree")

    def _signed_leaves(self, stored: Nodes) -> list[bytes]:
        """Our leaves, or where rows were changed, the stored ones that lead to the signed root.

        So a changed row is one failure, with its entry, and not one of every checkpoint after it.
        """
        size = len(self.leaves)
        kept = [stored.get((0, index), b"") for index in range(size)]
        for (note,) in self._rows("checkpoint", "SELECT note FROM checkpoint WHERE size = ?", size):
            with suppress(IntegrityError):
                if self._open_note(note).root == root(size, _looking_up(_grow(kept))):
                    return kept
        return self.leaves

    def _check_checkpoints(self) -> None:
        rows = self._rows("checkpoint", "SELECT size, note FROM checkpoint ORDER BY size")
        self.report.n_checkpoints = len(rows)
        promised, held = max((size for size, _ in rows), default=0), len(self.leaves)
        if promised != held:
            reason = f"the last one promises {promised} entries, the log has {held}"
            self._add_at(min(promised, held), "checkpoint", reason)
        for size, note in rows:
            self._check_checkpoint(size, note)

    def _check_checkpoint(self, size: int, note: bytes) -> None:
        try:
            head = self._open_note(note)
            if head.size != size or not 0 < size <= len(self.leaves):
                raise BadProof("its size is not that of its row")
            if head.root != root(size, _looking_up(self.nodes)):
                raise BadProof(f"the first {size} entries do not give its root")
        except IntegrityError as error:
            self._add_at(min(size, len(self.leaves)) - 1, f"checkpoint {size}", str(error))
            return
        if size == len(self.leaves):
            self._check_proofs(head)

    def _check_proofs(self, head: Checkpoint) -> None:
        for index, leaf in enumerate(self.leaves):
            path = inclusion_proof(index, head.size, _looking_up(self.nodes))
            try:
                verify_inclusion(leaf, index, head.size, path, head.root)
            except BadProof as error:
                self.report.add("proof", error, index, self.ids[index])

    def _open_note(self, note: Any) -> Checkpoint:
        if not isinstance(note, bytes):
            raise BadProof("it is not made of bytes")
        head = Checkpoint.open(note.decode(errors="replace"), self.report.account)
        if head.origin != origin(self.swarm_id, self.report.account):
            raise BadProof("it is of another log")
        return head

    def _check_head_file(self) -> None:
        path = self.report.directory / HEAD_NAME
        if not path.exists():
            return  # nothing was appended yet, or the copy was not taken along
        try:
            note = path.read_bytes()
            head = self._open_note(note)
            if head.size > len(self.leaves):
                reason = f"promises {head.size} entries, the log has {len(self.leaves)}"
                self._add_at(len(self.leaves), HEAD_NAME, reason)
            elif head.root != root(head.size, _looking_up(self.nodes)):
                raise BadProof(f"the first {head.size} entries do not give its root")
        except IntegrityError as error:
            self.report.add(HEAD_NAME, error)

    def _check_open_tabs(self) -> None:
        rows = self._rows("open tab", "SELECT session_id, receipt FROM open_tab")
        self.report.n_open_tabs = len(rows)
        for session_id, data in rows:
            name = f"open tab {session_id.hex() if isinstance(session_id, bytes) else ''}".strip()
            try:
                if not isinstance(data, bytes):
                    raise BadReceipt("receipt", "is not made of bytes")
                tab = open_receipt(Receipt.decode(data), self.swarm_id)
                if tab.terms.session_id != session_id:
                    raise BadReceipt("terms", "are of another tab")
            except IntegrityError as error:
                self.report.add(name, error)
