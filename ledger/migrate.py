"""A party's databases, taken from files to a server or back.

In: a directory, and where its databases are to be. Out: the same rows there, compared, and the
pointer turned. All of it is done under the locks of what is left, so that nothing is appended
meanwhile. Broken off at any moment, it is begun again: rows that are there already are compared and
kept. Before the pointer turns, what is left is made unfit for writing: a process that still has it
open would sign there, beside the log that went on.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from ledger import settled, spend_log, spend_tables, store, witness
from ledger.address import Address
from ledger.balances import balances
from ledger.beside import read_meta
from ledger.errors import DamagedLedger, ForeignLedger
from ledger.places import address_of, open_at, point
from ledger.reader import FILE_NAME, LedgerReader
from ledger.spend_books import FILE_NAME as BOOKS_NAME
from ledger.store import Row, Store
from ledger.tree_log import TreeLog
from protocol.errors import ConfigError

PAGE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Database:
    """One that a party may have, and the table without which nothing is written in it."""

    file_name: str
    schema: str
    vital: str

    @property
    def moved(self) -> str:
        return f"moved_{self.vital}"


DATABASES = (
    Database(FILE_NAME, store.SCHEMA, "checkpoint"),
    Database(spend_log.FILE_NAME, spend_log.SCHEMA, "checkpoint"),
    Database(BOOKS_NAME, spend_tables.SCHEMA, "log"),
    Database(settled.FILE_NAME, settled.SCHEMA, "settlement"),
    Database(witness.FILE_NAME, witness.SCHEMA, "seen"),
)


@dataclass(slots=True)
class Moved:
    """One database that was taken along."""

    file_name: str
    rows: dict[str, int] = field(default_factory=dict)  # by table
    n_written: int = 0  # of them, now; the others were there
    root: str = ""  # of its tree, where it has one


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Pair:
    database: Database
    source: Store
    target: Store


Told = Callable[[str, str, int], None]
"""A database, a table of it, and how many rows are done: for whoever waits."""


def migrate(directory: Path, to: Address | None, told: Told = lambda *_: None) -> list[Moved]:
    """Take all of a party's databases there; None: into files in its directory.

    Raises:
        ConfigError: they are there already, or one of the two cannot be used.
        LedgerBusy: somebody writes there; stop the node first.
        DamagedLedger: what arrived is not what was sent. The pointer is as it was.
    """
    held = address_of(directory)
    if held == to:
        raise ConfigError(f"the databases of {directory} are there already")
    with ExitStack() as stack:
        pairs = list(_opened(stack, directory, held, to))
        with ExitStack() as locks:
            for pair in pairs:
                locks.enter_context(pair.source.transaction())
                _fit_for_use(pair.database, pair.source)
            moved = [_copied(pair, told) for pair in pairs]
            for pair, each in zip(pairs, moved, strict=True):
                _compare(directory, pair, each)
            for pair in pairs:
                name = pair.database
                pair.source.execute(f"ALTER TABLE {name.vital} RENAME TO {name.moved}")
        point(directory, to)
    if held is None:
        for pair in pairs:
            path = directory / pair.database.file_name
            path.replace(path.with_name(f"{path.name}.moved"))
    return moved


def tables_of(schema: str) -> list[Table]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(schema)
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        found = []
        for (name,) in names:
            about = database.execute(f"PRAGMA table_info({name})").fetchall()
            key = sorted((place, column) for _, column, _, _, _, place in about if place)
            columns = tuple(column for _, column, *_ in about)
            found.append(Table(name, columns, tuple(column for _, column in key)))
        return found


# --- within --------------------------------------------------------------------------------------


def _opened(
    stack: ExitStack, directory: Path, held: Address | None, to: Address | None
) -> Iterator[_Pair]:
    for each in DATABASES:
        if held is None and not (directory / each.file_name).exists():
            continue
        source = _open(stack, directory, held, each)
        if read_meta(source):  # else it was made just now
            yield _Pair(each, source, _open(stack, directory, to, each))


def _open(stack: ExitStack, directory: Path, at: Address | None, each: Database) -> Store:
    opened = (
        Store.open(directory / each.file_name, create=True, schema=each.schema)
        if at is None
        else open_at(at.at(each.file_name), create=True, schema=each.schema)
    )
    stack.callback(opened.close)
    return opened


def _fit_for_use(database: Database, kept: Store) -> None:
    """Undo what an earlier migration did to it at its end; what stands in its place is empty."""
    if kept.has_table(database.moved):
        kept.execute(f"DROP TABLE {database.vital}")
        kept.execute(f"ALTER TABLE {database.moved} RENAME TO {database.vital}")


def _copied(pair: _Pair, told: Told) -> Moved:
    moved = Moved(pair.database.file_name)
    with pair.target.transaction():
        _fit_for_use(pair.database, pair.target)
        if not read_meta(pair.target).items() <= read_meta(pair.source).items():
            raise ForeignLedger(
                f"{pair.target.path} belongs to somebody else",
                hint="name another database, or remove it there",
            )
    for table in tables_of(pair.database.schema):
        n_rows = 0
        for after, rows, last in _pages(pair.source, table):
            moved.n_written += _make_alike(pair.target, table, after, rows, last)
            n_rows += len(rows)
            told(pair.database.file_name, table.name, n_rows)
        moved.rows[table.name] = n_rows
    with pair.target.transaction():  # the first that is durable, and all before it with it
        pair.target.execute("UPDATE meta SET value = value")
    pair.target.tidy()
    return moved


def _pages(source: Store, table: Table) -> Iterator[tuple[Row | None, list[Row], Row | None]]:
    """Rows in the order of their keys, with the keys that bound them: after, and up to."""
    after: Row | None = None
    while True:
        rows = _rows(source, table, after, None, PAGE_ROWS)
        if len(rows) < PAGE_ROWS:
            yield after, rows, None
            return
        last = _key_of(table, rows[-1])
        yield after, rows, last
        after = last


def _rows(
    at: Store, table: Table, after: Row | None, upto: Row | None, most: int = 2**62
) -> list[Row]:
    keys, marks = ", ".join(table.key), ", ".join("?" * len(table.key))
    bounds = [
        f"({keys}) {sign} ({marks})"
        for sign, key in ((">", after), ("<=", upto))
        if key is not None
    ]
    where = f"WHERE {' AND '.join(bounds)}" if bounds else ""
    sql = f"SELECT {', '.join(table.columns)} FROM {table.name} {where} ORDER BY {keys} LIMIT ?"
    return at.execute(sql, (*(after or ()), *(upto or ()), most))


def _make_alike(
    target: Store, table: Table, after: Row | None, rows: list[Row], last: Row | None
) -> int:
    """Make the rows between two keys these, and say how many were not."""
    wanted = {_key_of(table, row): row for row in rows}
    there = {_key_of(table, row): row for row in _rows(target, table, after, last)}
    gone = [key for key, row in there.items() if wanted.get(key) != row]
    new = [row for key, row in wanted.items() if there.get(key) != row]
    if gone or new:
        where = " AND ".join(f"{column} = ?" for column in table.key)
        marks = ", ".join("?" * len(table.columns))
        columns = ", ".join(table.columns)
        with target.transaction(durable=False):
            target.execute_many(f"DELETE FROM {table.name} WHERE {where}", gone)
            target.execute_many(f"INSERT INTO {table.name} ({columns}) VALUES ({marks})", new)
    return len(new)


def _key_of(table: Table, row: Row) -> Row:
    return tuple(row[table.columns.index(column)] for column in table.key)


def _compare(directory: Path, pair: _Pair, moved: Moved) -> None:
    """That what arrived gives the same root and the same balances."""
    sent, arrived = (_summed(directory, pair.database, at) for at in (pair.source, pair.target))
    if sent != arrived:
        raise DamagedLedger(
            f"what arrived of {moved.file_name} is not what was sent",
            hint="nothing is lost: the ledger is where it was. Begin again with the same command",
        )
    moved.root = arrived[0]


def _summed(directory: Path, database: Database, at: Store) -> tuple[str, list[str]]:
    """The root of the tree that is there, seen to match its signed head; and what rows come to."""
    meta, root, sums = read_meta(at), "", []
    log = {FILE_NAME: LedgerReader, spend_log.FILE_NAME: _SpendReader}.get(database.file_name)
    if log is not None:
        reader = log(directory, at, meta.get("account", b""), meta.get("swarm", b""))
        _, head = reader.sound_head()
        root = head.root.hex() if head else ""
        if isinstance(reader, LedgerReader):
            claims = (entry.claim(reader.account) for entry in reader.entries())
            rows = balances(reader.account, claims)
            sums = sorted(map(repr, rows))
    elif database.file_name == BOOKS_NAME:
        sums = list(map(repr, at.execute("SELECT * FROM balance ORDER BY acct, asset")))
    return root, sums


class _SpendReader(TreeLog):
    kind, table, head_name = "spend", "leaf", spend_log.HEAD_NAME
