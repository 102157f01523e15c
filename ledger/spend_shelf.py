"""The spend logs in somebody's books, as others fetch them: C2SP tiles of any account.

In: an account and a path. Out: bytes that whoever asked checks against a checkpoint, so that nobody
has to be trusted; and how far each log is known, to compare.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.checkpoint import Checkpoint
from ledger.merkle import EMPTY_ROOT, root
from ledger.notes import Note
from ledger.spend_tables import Nodes
from ledger.store import Store
from ledger.tiles import WIDTH, Tile, bundle, tile_bytes
from protocol.errors import IntegrityError, UsageError

CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True)
class Head:
    """How far an account's log is known."""

    account: bytes
    size: int
    root: bytes


class Shelf:
    """Of one database of books; they go on changing it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def heads(self) -> list[Head]:
        """Of all logs that are whole as far as they go."""
        rows = self._store.execute(
            "SELECT name, note FROM log JOIN account ON id = acct WHERE cut IS NULL AND size > 0"
        )
        return [_head(account, note) for account, note in rows]

    def logs(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Account and leaves of each log that is whole as far as it goes, one after another."""
        sql = "SELECT data FROM leaf JOIN account ON id = acct WHERE name = ? ORDER BY idx"
        for head in self.heads():
            rows = self._store.execute(sql, (head.account,))
            yield head.account, [bytes(data) for (data,) in rows]

    def head(self, account: bytes) -> Head | None:
        """None: we have no log of it, or two versions that both count."""
        found = self._log(account)
        return _head(account, found[2]) if found else None

    def root_at(self, account: bytes, size: int) -> bytes | None:
        """Of the first so many entries; None: we do not know so many."""
        with self._store.snapshot():
            found = self._log(account)
            if found is None or size > found[1]:
                return None
            return root(size, Nodes(self._store, found[0])) if size else EMPTY_ROOT

    def forked(self) -> list[bytes]:
        """The accounts that showed two versions."""
        sql = "SELECT name FROM forked JOIN account ON id = acct ORDER BY name"
        return [name for (name,) in self._store.execute(sql)]

    def fault(self, account: bytes) -> bytes | None:
        """What proves it, as an encoded object without its signature: it needs none."""
        sql = "SELECT fault FROM forked JOIN account ON id = acct WHERE name = ?"
        rows = self._store.execute(sql, (account,))
        return bytes(rows[0][0]) if rows else None

    def fetch(self, account: bytes, path: str) -> bytes:
        """The bytes at a path of C2SP tlog-tiles: `checkpoint`, `tile/…`.

        Raises:
            UsageError: there is nothing there.
        """
        with self._store.snapshot():
            if (found := self._log(account)) is None:
                raise UsageError("no spend log of this account is known here")
            acct, size, note = found
            if path == CHECKPOINT:
                return note.encode()
            try:
                tile = Tile.parse(path)
            except IntegrityError as error:
                raise UsageError(f"a log has no {path[:80]}") from error
            if tile.width > tile.width_at(size):
                raise UsageError(f"the log is not as long as {path}")
            if tile.level is not None:
                return tile_bytes(tile, Nodes(self._store, acct))
            start = tile.index * WIDTH
            sql = "SELECT data FROM leaf WHERE acct = ? AND idx >= ? AND idx < ? ORDER BY idx"
            rows = self._store.execute(sql, (acct, start, start + tile.width))
            return bundle([data for (data,) in rows])

    def _log(self, account: bytes) -> tuple[int, int, str] | None:
        """Its number, size and checkpoint."""
        rows = self._store.execute(
            "SELECT acct, size, note FROM log JOIN account ON id = acct"
            " WHERE name = ? AND cut IS NULL AND size > 0",
            (account,),
        )
        return (int(rows[0][0]), int(rows[0][1]), str(rows[0][2])) if rows else None


def _head(account: bytes, note: str) -> Head:
    head = Checkpoint.parse(Note.parse(note).text)
    return Head(account, head.size, head.root)
