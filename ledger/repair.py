"""A damaged log, made whole from what can still be read of it and of older copies.

In: a directory, and copies of its database. Out: a new database in the place of the damaged one,
which stays beside it. What counts is the last head that the account signed: entries are taken from
wherever they can be read, and the tree over them must give its root, or nothing is changed. So
nothing is made up, and nothing that was signed is left out: there is no going back to an older log
(that would be a fork).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass, field
from hashlib import sha256
from itertools import count, takewhile
from pathlib import Path

from ledger import reader, spend_log
from ledger.beside import claim, read_meta
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import open_head
from ledger.entries import LogEntry
from ledger.errors import DamagedLedger, LedgerBusy
from ledger.filling import fill_lines
from ledger.merkle import appended, leaf_hash, root
from ledger.migrate import Table, tables_of
from ledger.notes import Note
from ledger.receipts import Receipt, read_receipt, receipt_id
from ledger.store import SCHEMA, SCHEMA_VERSION, Row, Store, translated
from ledger.tree_log import text_of
from protocol.errors import ConfigError, IntegrityError

SHARED_AT, SHARED_BYTES = 0x40000002, 510
Rows = dict[Row, list[Row]]  # by key: as each copy has it, the damaged one's first


@dataclass(frozen=True, slots=True)
class LogFile:
    """A kind of log: its database, and what a row of its entries is in the tree."""

    file_name: str
    head_name: str
    kind: str
    schema: str
    table: str
    hash_of: Callable[[Row], bytes]


def _receipt_hash(row: Row) -> bytes:
    return leaf_hash(LogEntry(*row).leaf())


def _spend_hash(row: Row) -> bytes:
    return leaf_hash(row[2])


RECEIPTS = LogFile(reader.FILE_NAME, reader.HEAD_NAME, "receipts", SCHEMA, "entry", _receipt_hash)
SPENDING = LogFile(
    spend_log.FILE_NAME, spend_log.HEAD_NAME, "spend", spend_log.SCHEMA, "leaf", _spend_hash
)


@dataclass(slots=True)
class Repaired:
    """What became of one log."""

    file_name: str
    n_entries: int = 0
    root: str = ""
    lost_receipts: list[int] = field(default_factory=list)  # entries whose body nobody has


def repair(
    directory: Path, log: LogFile, account: bytes, swarm_id: bytes, copies: Sequence[Path] = ()
) -> Repaired:
    """Make one log whole. What earlier repairs put aside is read, too.

    Raises:
        LedgerBusy: a process has it open: what it logs meanwhile would be put aside.
        DamagedLedger: not all that was signed can be read; it says which entries are missing.
        ConfigError: there is no such log, or its place cannot be written.
    """
    path = directory / log.file_name
    if not path.exists() and not (directory / log.head_name).exists():
        raise ConfigError(f"there is no {path}")
    _check_alone(path)
    found = _read(path, copies, log, account, swarm_id)
    head = _last_head(directory, log, found, account, swarm_id)
    repaired = Repaired(log.file_name, head.size, head.root.hex())
    chosen, nodes = _tree(path, log, found, head, swarm_id)
    fresh = path.with_name(f"{path.name}.repaired")
    fresh.unlink(missing_ok=True)
    store = Store.open(fresh, create=True, schema=log.schema)
    try:
        with store.transaction():
            _write(store, log, found, chosen, nodes, repaired)
        meta = {"account": account, "swarm": swarm_id}
        claim(store, meta | ({"schema": bytes([SCHEMA_VERSION])} if log is RECEIPTS else {}))
        if log is RECEIPTS:
            fill_lines(store)
        store.tidy()
    finally:
        store.close()
    _check_alone(path)
    aside = _free_name(path)
    for end in ("", "-wal", "-shm"):
        left = path.with_name(path.name + end)
        if left.exists():
            left.replace(aside.with_name(aside.name + end))
    fresh.replace(path)
    return repaired


# --- within --------------------------------------------------------------------------------------


def _check_alone(path: Path) -> None:
    """Whether no other process has the database open, which it needs not be whole to tell.

    As long as a connection in WAL mode is open it holds a shared lock on these bytes of the file
    (sqlite.org/lockingv3.html). Windows lets nobody rename a file that is open.
    """
    if sys.platform == "win32" or not path.exists():
        return
    import fcntl

    with translated(path), path.open("rb+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_BYTES, SHARED_AT)
        except BlockingIOError as error:
            raise LedgerBusy(
                f"{path} is open in another process", hint="stop what runs on this home, then again"
            ) from error


def _asides(path: Path) -> Iterator[Path]:
    """Where repairs put what they replaced, the first one first."""
    yield path.with_name(f"{path.name}.damaged")
    for number in count(2):
        yield path.with_name(f"{path.name}.damaged-{number}")


def _free_name(path: Path) -> Path:
    return next(aside for aside in _asides(path) if not aside.exists())


def _read(
    path: Path, copies: Sequence[Path], log: LogFile, account: bytes, swarm_id: bytes
) -> dict[str, Rows]:
    """What each table has, wherever it can be read. A copy of another account's counts nothing;
    tabs that are open now are those of the log itself.
    """
    found: dict[str, Rows] = {table.name: {} for table in tables_of(log.schema)}
    ours = {"account": account, "swarm": swarm_id}
    own = [path, *takewhile(Path.exists, _asides(path))]
    with ExitStack() as stack:
        for each in [*(place for place in own if place.exists()), *copies]:
            try:
                store = Store.open(each)
                stack.callback(store.close)
                if each not in own and not ours.items() <= read_meta(store).items():
                    raise ConfigError(f"{each} is no copy of this log")
            except IntegrityError:
                continue
            for table in tables_of(log.schema):
                if table.name == "open_tab" and each != path:
                    continue
                for key, row in _readable(store, table):
                    found[table.name].setdefault(key, []).append(row)
    return found


def _readable(store: Store, table: Table) -> Iterator[tuple[Row, Row]]:
    """Rows from either end up to what cannot be read, and then one by one."""
    columns, keys = ", ".join(table.columns), ", ".join(table.key)
    rows: dict[Row, Row] = {}
    for order in ("ASC", "DESC"):
        ordered = ", ".join(f"{key} {order}" for key in table.key)
        with suppress(IntegrityError):
            for row in store.stream(f"SELECT {columns} FROM {table.name} ORDER BY {ordered}"):
                key = tuple(row[table.columns.index(each)] for each in table.key)
                if key in rows and order == "DESC":
                    break
                rows[key] = row
    if keys == "idx" and rows:
        for index in range(max(key[0] for key in rows)):
            if (index,) not in rows:
                with suppress(IntegrityError):
                    sql = f"SELECT {columns} FROM {table.name} WHERE idx = ?"
                    for row in store.execute(sql, (index,)):
                        rows[index,] = row
    yield from rows.items()


def _last_head(
    directory: Path, log: LogFile, found: dict[str, Rows], account: bytes, swarm_id: bytes
) -> Checkpoint:
    """The largest that is signed, in any copy or beside the database."""
    name = origin(swarm_id, account, "receipts" if log is RECEIPTS else "spend")
    with suppress(OSError, IntegrityError):
        beside = (directory / log.head_name).read_text(errors="replace")
        size = Checkpoint.parse(Note.parse(beside).text).size
        stored = beside.encode() if log is RECEIPTS else beside
        found["checkpoint"].setdefault((size,), []).append((size, stored))
    notes = [text_of(row[1]) for rows in found["checkpoint"].values() for row in rows]
    heads = [Checkpoint(name, 0, root(0, lambda *_: b""))]
    for note in notes:
        with suppress(IntegrityError):
            heads.append(open_head(Note.parse(note), name, account))
    return max(heads, key=lambda head: head.size)


def _tree(
    path: Path, log: LogFile, found: dict[str, Rows], head: Checkpoint, swarm_id: bytes
) -> tuple[list[Row], dict[tuple[int, int], bytes]]:
    """An entry for each place, and the tree over them, which gives the signed root."""
    chosen: list[Row] = []
    nodes: dict[tuple[int, int], bytes] = {}
    missing = []
    for index in range(head.size):
        candidates = [row for row in _candidates(log, found, index, swarm_id) if _hash(log, row)]
        signed = {row[2] for row in found["node"].get((0, index), [])}
        candidates.sort(key=lambda row: _hash(log, row) not in signed)
        if not candidates:
            missing.append(index)
            continue
        chosen.append(candidates[0])
        if not missing:
            leaf = log.hash_of(candidates[0])
            for level, at, hash_ in appended(index, leaf, lambda lv, at: nodes[lv, at]):
                nodes[level, at] = hash_
    if missing or root(head.size, lambda level, at: nodes[level, at]) != head.root:
        what = f"entries {missing[:8]} of {head.size} are" if missing else "what was signed is"
        raise DamagedLedger(
            f"{path} cannot be made whole: {what} nowhere to be read",
            hint="give a copy that has them, however old: manyhands ledger repair --copy FILE;"
            " where there is none, begin a new account with another --home",
        )
    return chosen, nodes


def _candidates(log: LogFile, found: dict[str, Rows], index: int, swarm_id: bytes) -> list[Row]:
    """What may be this entry; a receipt gives all of it, ids too, which no tree commits to."""
    given = []
    for _, salt, data in found.get("body", {}).get((index,), []):
        with suppress(IntegrityError, TypeError):
            tab, digest = read_receipt(Receipt.decode(data)), sha256(salt + data).digest()
            given.append(astuple(LogEntry.of(index, receipt_id(data, swarm_id), tab, digest)))
    return given + found[log.table].get((index,), [])


def _hash(log: LogFile, row: Row) -> bytes:
    try:
        return log.hash_of(row)
    except (IntegrityError, TypeError, ValueError, OverflowError):
        return b""


def _write(
    store: Store,
    log: LogFile,
    found: dict[str, Rows],
    chosen: list[Row],
    nodes: dict[tuple[int, int], bytes],
    repaired: Repaired,
) -> None:
    _insert(store, log.table, chosen)
    _insert(store, "node", ((*at, hash_) for at, hash_ in nodes.items()))
    for (size,), rows in sorted(found["checkpoint"].items()):
        if isinstance(size, int) and 0 < size <= len(chosen):
            for row in rows:
                with suppress(IntegrityError):
                    head = Checkpoint.parse(Note.parse(text_of(row[1])).text)
                    given = size, root(size, lambda level, at: nodes[level, at])
                    if (head.size, head.root) == given:
                        _insert(store, "checkpoint", [row])
                        break
    if log is RECEIPTS:
        _insert(store, "open_tab", (rows[0] for rows in found["open_tab"].values()))
        pruned = found.get("pruned", {})
        _insert(store, "pruned", (rows[0] for rows in pruned.values()))
        for entry in (LogEntry(*row) for row in chosen):
            bodies = [
                row
                for row in found["body"].get((entry.index,), [])
                if (entry.index,) not in pruned
                and isinstance(row[1], bytes)
                and isinstance(row[2], bytes)
                and sha256(row[1] + row[2]).digest() == entry.digest
            ]
            _insert(store, "body", bodies[:1])
            if not bodies and (entry.index,) not in pruned:
                repaired.lost_receipts.append(entry.index)


def _insert(store: Store, table: str, rows: Iterable[Row]) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        store.execute(f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING", row)
