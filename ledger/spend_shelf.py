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

CHECKPOINT, PARTING = "checkpoint", "parting"


@dataclass(frozen=True, slots=True)
class Head:
    """How far an account's log is known."""

    account: bytes
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Forked:
    """An account that showed two versions. cut: up to where its log counts, where a quorum signed
    both; None: all that it signed of one goes on counting."""

    account: bytes
    cut: int | None = None


class Shelf:
    """Of one database of books; they go on changing it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def heads(self) -> list[Head]:
        """Of all logs that are whole as far as they go."""
        rows = self._store.execute(
            "SELECT name, note FROM log JOIN account ON id = acct WHERE cut IS NULL AND note <> ''"
        )
        return [_head(account, note) for account, note in rows]

    def logs(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Account and leaves of each log, one after another: what counts, and what may yet."""
        sql = "SELECT data FROM leaf WHERE acct = ? ORDER BY idx"
        for acct, account in self._store.execute(
            "SELECT acct, name FROM log JOIN account ON id = acct WHERE size > 0 ORDER BY acct"
        ):
            yield account, [bytes(data) for (data,) in self._store.execute(sql, (acct,))]

    def head(self, account: bytes) -> Head | None:
        """None: we have no log of it, or two versions that both count."""
        found = self._log(account)
        return _head(account, found[2]) if found else None

    def root_at(self, account: bytes, size: int) -> bytes | None:
        """Of the first so many entries; None: we do not know so many."""
        with self._store.snapshot():
            sql = "SELECT acct, size FROM log JOIN account ON id = acct WHERE name = ?"
            rows = self._store.execute(f"{sql} AND cut IS NULL", (account,))
            if not rows or size > rows[0][1]:
                return None
            return root(size, Nodes(self._store, rows[0][0])) if size else EMPTY_ROOT

    def forked(self) -> list[Forked]:
        """The accounts that showed two versions."""
        sql = (
            "SELECT name, cut FROM forked JOIN account ON id = forked.acct"
            " LEFT JOIN log ON log.acct = forked.acct ORDER BY name"
        )
        return [Forked(name, cut) for name, cut in self._store.execute(sql)]

    def fork(self, account: bytes) -> Forked | None:
        """None: it showed one version, as far as we know."""
        sql = (
            "SELECT name, cut FROM forked JOIN account ON id = forked.acct"
            " LEFT JOIN log ON log.acct = forked.acct WHERE name = ?"
        )
        return next((Forked(*row) for row in self._store.execute(sql, (account,))), None)

    def fault(self, account: bytes) -> bytes | None:
        """What proves it, as an encoded object without its signature: it needs none."""
        sql = "SELECT fault FROM forked JOIN account ON id = acct WHERE name = ?"
        rows = self._store.execute(sql, (account,))
        return bytes(rows[0][0]) if rows else None

    def fetch(self, account: bytes, path: str) -> bytes:
        """The bytes at a path of C2SP tlog-tiles: `checkpoint`, `tile/…`; or at `parting`.

        Raises:
            UsageError: there is nothing there.
        """
        with self._store.snapshot():
            if (found := self._log(account, is_cut=None)) is None:
                raise UsageError("no spend log of this account is known here")
            acct, size, note, is_cut = found
            if path == CHECKPOINT:
                if is_cut:
                    raise UsageError("two spend logs of this account are known here")
                return note.encode()
            if path == PARTING:
                return self._parting(acct)
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

    def _log(
        self, account: bytes, is_cut: bool | None = False
    ) -> tuple[int, int, str, bool] | None:
        """Its number, how much of it others are told, its checkpoint, and whether it was cut.

        is_cut: which ones are looked for; None: both.
        """
        rows = self._store.execute(
            "SELECT acct, note, cut FROM log JOIN account ON id = acct WHERE name = ?", (account,)
        )
        for acct, note, cut in rows:
            if is_cut in (None, cut is not None) and (note or cut is not None):
                size = _head(account, note).size if cut is None else int(cut)
                return int(acct), size, str(note), cut is not None
        return None

    def _parting(self, acct: int) -> bytes:
        rows = self._store.execute("SELECT data FROM parting WHERE acct = ?", (acct,))
        return bytes(rows[0][0]) if rows else b""


def _head(account: bytes, note: str) -> Head:
    head = Checkpoint.parse(Note.parse(note).text)
    return Head(account, head.size, head.root)
