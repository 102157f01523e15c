"""Where a ledger lives: one SQLite file, its schema, and what its errors mean.

Accounting rows and bodies are apart, so that balances and statements read few bytes and a body can
be erased without touching the tree. Appends are durable when they return (WAL, synchronous FULL);
an open tab's latest voucher survives a crash of the process at once and of the machine soon after
(NORMAL), because losing the last of it costs at most a window. What rows mean is left to `log.py`.
"""

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any, Self

from ledger.address import Address
from ledger.errors import DamagedLedger, LedgerBusy
from protocol.errors import ConfigError, ManyhandsError, OutOfMemory

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 5.0
CACHE_KIB = 512  # of pages, in memory: an append touches a few, and all are the system's to keep
QUICK_CHECK_BYTES = 64 * 2**20  # a larger file is checked by `verify`, not at every start

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS entry (
    idx INTEGER PRIMARY KEY,
    receipt_id BLOB NOT NULL UNIQUE,
    session_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    payer BLOB NOT NULL,
    payee BLOB NOT NULL,
    asset BLOB NOT NULL,
    net INTEGER NOT NULL,
    digest BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS line (
    idx INTEGER PRIMARY KEY,
    chain_id BLOB NOT NULL,
    closed_ms INTEGER NOT NULL,
    manifest BLOB NOT NULL,
    layer_lo INTEGER NOT NULL,
    layer_hi INTEGER NOT NULL,
    execution TEXT NOT NULL,
    constraints BLOB NOT NULL,
    rates BLOB NOT NULL,
    prefill_tl INTEGER NOT NULL,
    decode_tl INTEGER NOT NULL,
    cached_tl INTEGER NOT NULL,
    ctx_ktl INTEGER NOT NULL,
    kv_q INTEGER NOT NULL,
    act_kib INTEGER NOT NULL,
    head_tok INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS body (
    idx INTEGER PRIMARY KEY, salt BLOB NOT NULL, receipt BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS pruned (
    idx INTEGER PRIMARY KEY, allot BLOB NOT NULL -- what the erased body cited, or nothing
) STRICT;
CREATE TABLE IF NOT EXISTS node (
    level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
    size INTEGER PRIMARY KEY, note BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS open_tab (
    session_id BLOB PRIMARY KEY, owner TEXT NOT NULL, receipt BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

Row = tuple[Any, ...]


class Store:
    """A connection that several threads may share, one transaction at a time.

    This one is to a file; `postgres.py` has the one to a server.
    """

    path: Path | Address

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = RLock()
        self._is_durable: bool | None = None  # what the last transaction was asked to be

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        timeout_s: float = BUSY_TIMEOUT_S,
        schema: str = SCHEMA,
    ) -> Self:
        """Connect; with `create`, make the file (0600) and its tables when they are missing.

        Raises:
            DamagedLedger: the file is truncated, corrupt or no database.
            LedgerBusy: somebody else holds it for longer than `timeout_s`.
            ConfigError: it is missing or cannot be read or written.
        """
        with translated(path):
            if create:
                path.touch(mode=0o600, exist_ok=True)
            elif not path.is_file():
                raise ConfigError(f"there is no ledger at {path}")
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=timeout_s,
                isolation_level=None,
                check_same_thread=False,
            )
        store = cls(path, connection)
        try:
            store.execute("PRAGMA journal_mode = WAL")
            store.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            store.execute("PRAGMA synchronous = FULL")
            if create:
                store.create(schema)
        except BaseException:
            store.close()
            raise
        return store

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._lock, translated(self.path):
            return self._connection.execute(sql, values).fetchall()

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._lock, translated(self.path):
            self._connection.executemany(sql, rows)

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """Rows as they are read, few at a time. Others write to what is read at their own risk."""
        with translated(self.path):
            yield from self._connection.execute(sql, values)

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """One exclusive, short transaction; all of it happens or none.

        durable: survives a power cut once it returns; else only the end of this process.
        """
        with self._lock:
            if durable != self._is_durable:
                self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._is_durable = durable
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                with suppress(ManyhandsError):
                    self.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads within see one state, whatever others append meanwhile."""
        with self._lock:
            self.execute("BEGIN")
            try:
                yield
            finally:
                self.execute("ROLLBACK")

    def overwrite_what_is_deleted(self) -> None:
        """From here on, on this connection: a body that is erased is not left in a free page."""
        self.execute("PRAGMA secure_delete = ON")

    def tidy(self) -> None:
        """Move what the write-ahead log holds into the file, if nobody is reading just now."""
        with suppress(LedgerBusy):
            self.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def quick_check(self) -> None:
        """Look for a truncated or corrupt file."""
        (pages,), (page_bytes,) = (self.execute(f"PRAGMA page_{n}")[0] for n in ("count", "size"))
        if pages * page_bytes > QUICK_CHECK_BYTES:
            return
        found = self.execute("PRAGMA quick_check(1)")
        if found != [("ok",)]:
            raise damaged(self.path, str(found[0][0]) if found else "it has no pages")

    def faults(self) -> list[str]:
        """What is wrong with the file itself."""
        found = self.execute("PRAGMA integrity_check(20)")
        return [str(reason) for (reason,) in found if reason != "ok"]

    def has_table(self, name: str) -> bool:
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return bool(self.execute(sql, (name,)))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def create(self, schema: str) -> None:
        """The tables that are missing."""
        with self.transaction():
            for statement in schema.split(";"):
                self.execute(statement)


@contextmanager
def translated(path: Path | Address) -> Iterator[None]:
    """SQLite's errors, said as ours."""
    try:
        yield
    except sqlite3.Error as error:
        error_code = getattr(error, "sqlite_errorcode", 0)
        primary = error_code & 0xFF
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise LedgerBusy(
                f"{path} is locked by another process",
                hint=f"wait for it to finish, or find it: fuser -v {path}",
            ) from error
        if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            raise ConfigError(
                f"{path} cannot be opened for writing: {error}",
                hint=f"check who owns it: ls -l {getattr(path, 'parent', path)}",
            ) from error
        if primary == sqlite3.SQLITE_FULL or error_code in _WRITING:
            raise _no_space(path) from error
        raise damaged(path, str(error)) from error
    except UnicodeDecodeError as error:  # text that no longer is, in a row or in the schema
        raise damaged(path, str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise _no_space(path) from error
        raise ConfigError(
            f"{path} cannot be opened: {error.strerror or error}",
            hint=f"check who owns it: ls -l {getattr(path, 'parent', path)}",
        ) from error


def _no_space(path: Path | Address) -> OutOfMemory:
    hint = "free some (df), see whether the disk is well (dmesg), or choose another --home"
    return OutOfMemory(f"no disk space left for {path}, or it takes no more", hint=hint)


# A disk that takes no more, for whatever reason: what is on it is as it was.
_WRITING = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
}


def write_whole(path: Path, text: str) -> None:
    """Put this in place of what the file holds, durably; after a crash it is the one or the other.

    For who alone writes there just now.

    Raises:
        ConfigError, OutOfMemory: it cannot be written; what it held is still there.
    """
    fresh = path.with_name(f"{path.name}.new")
    with translated(path):
        descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # or the name may lead to the old file after a power cut
        finally:
            os.close(directory)


def damaged(path: Path | Address, reason: str) -> DamagedLedger:
    what, hint = _MENDED_BY.get(path.name.split(".")[0], ("is truncated or corrupt", ""))
    if not hint and isinstance(path, Path):
        hint = (
            "manyhands ledger repair, with --copy FILE for what only a backup has; where that finds"
            f" no way, begin a new account: mv {path.parent} {path.parent}.damaged"
        )
    return DamagedLedger(f"{path} {what}: {reason}", hint=hint or "restore the newest dump of it")


# Who signs on from an older copy shows two versions of a log: there, no backup is good advice.
_MENDED_BY = {
    "spend": (
        "is not as it was when it signed last",
        "manyhands ledger repair --spending, with --copy FILE for what only a backup has: to sign"
        " on from an older one is a fork; where that finds no way, put back the newest copy there"
        " is, or begin a new account with another --home",
    ),
    "witness": (
        "is not as it was when it signed last",
        "put back the newest copy there is, from after the last cosignature: a witness that forgets"
        " signs two versions of a log; where there is none, begin one of another name and key",
    ),
    "settlements": (
        "is truncated or corrupt",
        "move this file away, and settle again: manyhands ledger settle",
    ),
    "spending": (
        "is truncated or corrupt",
        "move this file away: it is made anew from the logs it is told",
    ),
}
