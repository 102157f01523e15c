"""Entries that are appended to a log together: what they are, and every row they need.

In: receipts that were found to hold, one after the other. Out: entries at once, and their rows all
together: in one go they cost the database a fraction of what they would one by one. The transaction
and the signature over the new tree head are left to `log.py`.
"""

from hashlib import sha256
from secrets import token_bytes

from ledger.entries import LogEntry
from ledger.filling import INSERT_LINE
from ledger.line_rows import row_of
from ledger.merkle import NodeAt, appended, leaf_hash
from ledger.receipts import ClosedTab
from ledger.store import Row, Store


class Batch:
    """What follows a log of `size` entries. Nothing is written before `write`."""

    def __init__(self, size: int, node_at: NodeAt) -> None:
        self.size = size
        self._stored_node_at = node_at
        self._entries: dict[bytes, LogEntry] = {}  # by receipt
        self._nodes: dict[tuple[int, int], bytes] = {}
        self._lines: list[Row] = []
        self._bodies: list[Row] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, id_: bytes, data: bytes, tab: ClosedTab) -> LogEntry:
        """The entry of this receipt; a repeat has the one that it got before."""
        if (known := self._entries.get(id_)) is not None:
            return known
        index, salt = self.size, token_bytes(32)
        entry = LogEntry.of(index, id_, tab, sha256(salt + data).digest())
        for level, place, hash_ in appended(index, leaf_hash(entry.leaf()), self.node_at):
            self._nodes[level, place] = hash_
        self._entries[id_] = entry
        self._lines.append((index, *row_of(tab)))
        self._bodies.append((index, salt, data))
        self.size += 1
        return entry

    def node_at(self, level: int, index: int) -> bytes:
        """Of the tree with these entries in it."""
        return self._nodes.get((level, index)) or self._stored_node_at(level, index)

    def write(self, store: Store) -> None:
        """All rows; the tabs are open no more."""
        entries = self._entries.values()
        columns = LogEntry.__slots__
        store.execute_many(
            f"INSERT INTO entry VALUES ({', '.join('?' * len(columns))})",
            ([getattr(entry, name) for name in columns] for entry in entries),
        )
        store.execute_many(INSERT_LINE, self._lines)
        store.execute_many("INSERT INTO body VALUES (?, ?, ?)", self._bodies)
        store.execute_many(
            "INSERT INTO node VALUES (?, ?, ?)", ((*at, hash_) for at, hash_ in self._nodes.items())
        )
        store.execute_many(
            "DELETE FROM open_tab WHERE session_id = ?", ((entry.session_id,) for entry in entries)
        )
