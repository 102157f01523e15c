"""The rows of all spend logs that a node knows, and of the balances they come to.

In: keys and values. Out: the same, from a cache of what one transaction touched; what it changed is
written once, at its end. What rows mean is left to `spend_books.py`.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ledger.chain import Kind
from ledger.checkpoint import Checkpoint
from ledger.fold import Allotted
from ledger.merkle import leaf_hash
from ledger.notes import Note
from ledger.posting import StepRow, Tables, post
from ledger.spend_leaf import SpendLeaf
from ledger.store import Store, damaged

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Found = dict[bytes, Allotted]

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS account (
    id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS log (
    acct INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,     -- leaves we have
    readable INTEGER NOT NULL, -- of them, before the first that breaks a rule
    cut INTEGER,               -- where two branches that count part: nothing from there on does
    granted INTEGER NOT NULL,
    note TEXT NOT NULL         -- the last cosigned checkpoint
) STRICT;
CREATE TABLE IF NOT EXISTS leaf (
    acct INTEGER NOT NULL, idx INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (acct, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS node (
    acct INTEGER NOT NULL, level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL,
    PRIMARY KEY (acct, level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place (
    acct INTEGER NOT NULL, oid BLOB NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (acct, oid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked (
    acct INTEGER NOT NULL, oid BLOB NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (acct, oid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS given_back (
    acct INTEGER NOT NULL, oid BLOB NOT NULL, floor INTEGER NOT NULL, PRIMARY KEY (acct, oid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS noted (
    acct INTEGER NOT NULL, session BLOB NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (acct, session)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS collected (
    acct INTEGER NOT NULL, place BLOB NOT NULL, amount INTEGER NOT NULL, PRIMARY KEY (acct, place)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS step (
    acct INTEGER NOT NULL, idx INTEGER NOT NULL, sub INTEGER NOT NULL,
    kind INTEGER NOT NULL, oid BLOB NOT NULL, party INTEGER NOT NULL, asset INTEGER NOT NULL,
    amount INTEGER NOT NULL, PRIMARY KEY (acct, idx, sub)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS step_by_oid ON step (oid, kind, acct);
CREATE TABLE IF NOT EXISTS counted (acct INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS balance (
    acct INTEGER NOT NULL, asset INTEGER NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (acct, asset)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tab (
    allot BLOB NOT NULL, session BLOB NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (allot, session)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signer ( -- of tabs that another key than the payer's signed for
    allot BLOB NOT NULL, session BLOB NOT NULL, payer BLOB NOT NULL, key BLOB NOT NULL,
    PRIMARY KEY (allot, session)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS forked (acct INTEGER PRIMARY KEY, fault BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS ahead (
    acct INTEGER PRIMARY KEY,
    note TEXT NOT NULL,        -- cosigned: the leaves beyond the log's own note are its beginning
    path BLOB NOT NULL         -- as the last of them shows
) STRICT;
CREATE TABLE IF NOT EXISTS parting (acct INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT
"""

# Of each table that a transaction reads and writes by key: its key's columns, and its value.
_COLUMNS = {
    "counted": (("acct",), "n"),
    "balance": (("acct", "asset"), "amount"),
    "place": (("acct", "oid"), "idx"),
    "asked": (("acct", "oid"), "amount"),
    "given_back": (("acct", "oid"), "floor"),
    "noted": (("acct", "session"), "amount"),
    "collected": (("acct", "place"), "amount"),
    "node": (("acct", "level", "idx"), "hash"),
}


class Cached(Generic[K, V]):
    """One table as a dict, for the length of one transaction. A key of one column is bare."""

    def __init__(self, store: Store, table: str, prefix: tuple[int, ...] = ()) -> None:
        keys, value = _COLUMNS[table]
        self._store, self._prefix = store, prefix
        self._is_bare_key = len(keys) - len(prefix) == 1
        where = " AND ".join(f"{name} = ?" for name in keys)
        self._select = f"SELECT {value} FROM {table} WHERE {where}"
        self._upsert = (
            f"INSERT INTO {table} VALUES ({'?, ' * len(keys)}?)"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {value} = excluded.{value}"
        )
        self._known: dict[K, V | None] = {}
        self._changed: dict[K, None] = {}

    def get(self, key: K, /) -> V | None:
        if key not in self._known:
            rows = self._store.execute(self._select, self._row(key))
            self._known[key] = rows[0][0] if rows else None
        return self._known[key]

    def __setitem__(self, key: K, value: V, /) -> None:
        self._known[key] = value
        self._changed[key] = None

    def write(self) -> None:
        rows = ((*self._row(key), self._known[key]) for key in self._changed)
        self._store.execute_many(self._upsert, rows)
        self._changed.clear()

    def _row(self, key: Any) -> tuple[Any, ...]:
        return (*self._prefix, key) if self._is_bare_key else (*self._prefix, *key)


@dataclass(slots=True)
class LogRow:
    """One account's log, as far as we have it."""

    acct: int
    size: int = 0
    readable: int = 0
    cut: int | None = None
    granted: int = 0
    note: str = ""

    @property
    def is_whole(self) -> bool:
        return self.readable == self.size

    @property
    def noted(self) -> int:
        """Entries that the checkpoint is of; leaves beyond are the beginning of a longer log."""
        return Checkpoint.parse(Note.parse(self.note).text).size if self.note else 0


class Nodes(Cached[tuple[int, int], bytes]):
    """A log's tree, with what one transaction adds to it; a `merkle.NodeAt`."""

    def __init__(self, store: Store, acct: int) -> None:
        super().__init__(store, "node", (acct,))

    def __call__(self, level: int, index: int) -> bytes:
        if (hash_ := self.get((level, index))) is None:
            raise damaged(self._store.path, f"node {level}/{index} of a tree is missing")
        return hash_


class Leaves:
    """A log's leaves, each seen to be what its tree was made of; a `chain.LeafAt`."""

    def __init__(self, store: Store, acct: int) -> None:
        self._store, self._acct = store, acct

    def __call__(self, index: int, /) -> SpendLeaf:
        sql = "SELECT data FROM leaf WHERE acct = ? AND idx = ?"
        rows = self._store.execute(sql, (self._acct, index))
        if not rows:
            raise damaged(self._store.path, f"leaf {index} of a log is missing")
        self._check(index, rows[0][0])
        return SpendLeaf.decode(rows[0][0])

    def parted(self, others: Sequence[bytes], start: int) -> int | None:
        """Where leaves from `start` on first differ from these, if they do."""
        sql = "SELECT idx, data FROM leaf WHERE acct = ? AND idx >= ? AND idx < ? ORDER BY idx"
        for index, data in self._store.execute(sql, (self._acct, start, start + len(others))):
            if others[index - start] != data:
                self._check(index, data)
                return int(index)
        return None

    def _check(self, index: int, data: bytes) -> None:
        if leaf_hash(data) != Nodes(self._store, self._acct)(0, index):
            raise damaged(self._store.path, f"leaf {index} of a log is not what it was")


class Names:
    """Small integers for accounts and assets."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids: dict[bytes, int] = {}

    def id(self, name: bytes) -> int:
        """Of this account, new if need be."""
        if (known := self._ids.get(name)) is None:
            self._store.execute(
                "INSERT INTO account SELECT coalesce(max(id), 0) + 1, ? FROM account"
                " WHERE TRUE ON CONFLICT DO NOTHING",
                (name,),
            )
            known = self.find(name)
            assert known is not None
        return known

    def find(self, name: bytes) -> int | None:
        rows = self._store.execute("SELECT id FROM account WHERE name = ?", (name,))
        if not rows:
            return None
        self._ids[name] = int(rows[0][0])
        return self._ids[name]

    def all(self) -> dict[int, bytes]:
        return dict(self._store.execute("SELECT id, name FROM account"))

    def forget(self) -> None:
        """A transaction that gave new ones was rolled back."""
        self._ids.clear()


class Derived(Generic[K, V]):
    """What the steps that counted when the transaction began say, and what it added since.

    Kept nowhere but in the steps themselves, so that folding anew has little to write.
    """

    def __init__(self, store: Store, kind: Kind, what: str, where: str = "TRUE") -> None:
        self._store = store
        self._is_bare = "," not in what
        self._select = (
            f"SELECT {what} FROM step JOIN counted USING (acct)"
            f" WHERE oid = ? AND kind = {int(kind)} AND {where} AND idx < n"
        )
        self._known: dict[K, V | None] = {}

    def get(self, key: K, /) -> V | None:
        if key not in self._known:
            values: Any = key if isinstance(key, tuple) else (key,)
            rows = self._store.execute(self._select, values)
            self._known[key] = self._value(rows[0]) if rows else None
        return self._known[key]

    def __setitem__(self, key: K, value: V, /) -> None:
        self._known[key] = value

    def _value(self, row: tuple[Any, ...]) -> Any:
        return row[0] if self._is_bare else row


def cached_tables(store: Store) -> tuple[Tables, Callable[[], None]]:
    """The state of all walks as it stands in the database, and how to write what changed."""
    balances: Cached[tuple[int, int], int] = Cached(store, "balance")
    counted: Cached[int, int] = Cached(store, "counted")
    tables = Tables(
        counted,
        balances,
        Derived(store, Kind.ALLOT, "acct, party, asset, amount"),
        Derived(store, Kind.LEVEL, "max(amount)", "acct = ? AND party = ? AND asset = ?"),
        Derived(store, Kind.FLOOR, "min(amount)", "acct = ?"),
        Derived(store, Kind.NOTE, "max(amount)", "acct = ?"),
    )

    def write() -> None:
        balances.write()
        counted.write()

    return tables, write


def steps_from(store: Store, account: int, place: int) -> Iterator[StepRow]:
    yield from store.stream(
        "SELECT idx, kind, oid, party, asset, amount FROM step WHERE acct = ? AND idx >= ?"
        " ORDER BY idx, sub",
        (account, place),
    )


def refold(store: Store) -> None:
    """Fold all balances anew from the steps, and write them in place of what was there."""
    counted: dict[int, int] = {}
    balances: dict[tuple[int, int], int] = {}
    sizes: dict[int, int] = dict(store.execute("SELECT acct, readable FROM log"))
    post(
        sizes,
        Tables(counted, balances),
        lambda acct, place: steps_from(store, acct, place),
        lambda acct: sizes.get(acct, 0),
    )
    store.execute("DELETE FROM counted")
    store.execute_many("INSERT INTO counted VALUES (?, ?)", counted.items())
    store.execute("DELETE FROM balance")
    store.execute_many(
        "INSERT INTO balance VALUES (?, ?, ?)", ((*key, left) for key, left in balances.items())
    )


def allotted(store: Store, oid: bytes | None = None) -> Found:
    """What became of this allotment, or of all that are funded."""
    where, values = ("AND s.oid = ?", (oid,)) if oid is not None else ("", ())
    promised = _promised(store, where, values)
    rows = store.execute(
        "SELECT s.oid, payer.name, payee.name, asset.name, s.amount,"
        " (SELECT max(l.amount) FROM step l JOIN counted c ON c.acct = l.acct"
        "  WHERE l.oid = s.oid AND l.kind = 3 AND l.acct = s.party AND l.party = s.acct"
        "  AND l.asset = s.asset AND l.idx < c.n),"
        " (SELECT min(f.amount) FROM step f JOIN counted c ON c.acct = f.acct"
        "  WHERE f.oid = s.oid AND f.kind = 4 AND f.acct = s.party AND f.idx < c.n)"
        " FROM step s JOIN counted ON counted.acct = s.acct"
        " JOIN account payer ON payer.id = s.acct JOIN account payee ON payee.id = s.party"
        " JOIN account asset ON asset.id = s.asset"
        f" WHERE s.kind = 2 AND s.idx < counted.n {where}",
        values,
    )
    return {
        oid: Allotted.of(
            payer,
            payee,
            asset,
            amount,
            level=level or 0,
            floor=amount if floor is None else floor,
            promised=promised.get(oid, 0),
        )
        for oid, payer, payee, asset, amount, level, floor in rows
    }


def _promised(store: Store, where: str, values: Sequence[Any]) -> dict[bytes, int]:
    """What tabs claim of allotments, less credit notes. Summed here: it may be beyond 2^63."""
    net: dict[bytes, int] = {}
    for oid, promised, noted in store.execute(
        "SELECT s.oid, t.amount, (SELECT max(n.amount) FROM step n JOIN counted c"
        "  ON c.acct = n.acct WHERE n.oid = t.session AND n.kind = 5 AND n.acct = s.party"
        "  AND n.idx < c.n)"
        f" FROM step s JOIN tab t ON t.allot = s.oid WHERE s.kind = 2 {where}",
        values,
    ):
        net[oid] = net.get(oid, 0) + max(0, promised - (noted or 0))
    return net
