"""The same tables on a PostgreSQL server (15 or newer), through psycopg 3 (`manyhands[postgres]`).

In: what `Store` takes, in the SQL that both databases read. Out: the same rows, and our errors. A
transaction holds an advisory lock of its database, as SQLite's holds the file: one writes at a
time, whoever waits longer than five seconds is told so. A connection that is lost ends what ran on
it with an error; the next call makes a new one. Whether a commit that was under way then happened
is not known to anybody here, and need not be: nothing of it was acknowledged, and a log says
itself what it has.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import sha256
from threading import RLock
from typing import Any, Self

import psycopg
from psycopg import errors
from psycopg.types.numeric import IntLoader

from ledger.address import Address
from ledger.errors import BadObject, LedgerBusy, LedgerUnreachable
from ledger.store import BUSY_TIMEOUT_S, Row, Store, damaged
from protocol.errors import ConfigError, ManyhandsError, OutOfMemory

OLDEST_VERSION = 150_000
CONNECT_TIMEOUT_S = 5
STREAM_ROWS = 2000

log = logging.getLogger(__name__)

# What SQLite's schemas say otherwise. Text is ordered by its bytes, as there.
_DIALECT = (
    (r"--[^\n]*", ""),
    (r"\bSTRICT\b|,\s*WITHOUT ROWID", ""),
    (r"\bBLOB\b", "BYTEA"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\blevel BIGINT\b", "level INTEGER"),
    (r"\bTEXT\b", 'TEXT COLLATE "C"'),
)


class PostgresStore(Store):
    """A connection that several threads may share, one transaction at a time."""

    path: Address

    def __init__(self, address: Address, timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = address
        self._timeout_s = timeout_s
        self._lock = RLock()
        self._link: psycopg.Connection[Row] | None = None
        self._is_within = False  # a transaction or snapshot, which a new connection would not be in
        self._lock_key = int.from_bytes(sha256(address.schema.encode()).digest()[:8], "big") >> 1

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        create: bool = False,
        timeout_s: float = BUSY_TIMEOUT_S,
        schema: str = "",
    ) -> Self:
        """Connect; with `create`, make the tables when they are missing.

        Raises:
            LedgerUnreachable: no server answers there.
            LedgerBusy: somebody else writes there for longer than `timeout_s`.
            ConfigError: the server is too old, refuses us, or has no such ledger.
        """
        store = cls(address, timeout_s)
        try:
            rows = store.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (address.schema,))
            if create:
                store.create(schema)
            elif not rows:
                raise ConfigError(f"there is no ledger at {address}")
        except BaseException:
            store.close()
            raise
        return store

    def execute(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._lock, self._translated():
            cursor = self._connection.execute(_dialect(sql), values or None)
            return cursor.fetchall() if cursor.description else []

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with self._lock, self._translated(), self._connection.cursor() as cursor:
            cursor.executemany(_dialect(sql), rows)

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        if not self._is_within:  # a cursor on the server lives within a transaction
            yield from self.execute(sql, values)
            return
        with self._translated():
            name = f"mh{id(object())}_{next(_numbers)}"
            with self._connection.cursor(name) as cursor:
                cursor.itersize = STREAM_ROWS
                cursor.execute(_dialect(sql), values or None)
                yield from cursor

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        durably = "on" if durable else "off"
        with self._within(
            f"BEGIN; SET LOCAL synchronous_commit = {durably};"
            f" SELECT pg_advisory_xact_lock({self._lock_key})",
            "COMMIT",
        ):
            yield

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        with self._within("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "ROLLBACK"):
            yield

    def tidy(self) -> None:
        """The server does that itself."""

    def quick_check(self) -> None:
        """Whether what it calls durable is."""
        off = self.execute(
            "SELECT name FROM pg_settings WHERE setting = 'off'"
            " AND name IN ('fsync', 'full_page_writes') ORDER BY name"
        )
        for (name,) in off:
            log.warning(
                "the ledger's server does not survive a power cut",
                extra={"setting": f"{name} = off", "ledger": str(self.path)},
            )

    def faults(self) -> list[str]:
        """The server checks its own pages, where `initdb --data-checksums` asked it to."""
        return []

    def has_table(self, name: str) -> bool:
        sql = "SELECT 1 FROM pg_tables WHERE schemaname = ? AND tablename = ?"
        return bool(self.execute(sql, (self.path.schema, name)))

    def create(self, schema: str) -> None:
        """The tables that are missing."""
        with self.transaction():
            self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.path.schema}"')
            for statement in _schema(schema).split(";"):
                if statement.strip():
                    self.execute(statement)

    def overwrite_what_is_deleted(self) -> None:
        """The server does when it vacuums; until then its files have what was deleted."""

    def close(self) -> None:
        with self._lock, suppress(psycopg.Error):
            if self._link is not None:
                self._link.close()

    # --- within ----------------------------------------------------------------------------------

    @property
    # Where a store in a file has an attribute: the type differs, what is asked of it does not.
    def _connection(self) -> "psycopg.Connection[Row]":  # type: ignore[override]
        """The one there is, or a new one where that was lost."""
        if self._link is not None and (not self._link.closed or self._is_within):
            return self._link
        link = psycopg.connect(
            self.path.url, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, prepare_threshold=3
        )
        link.adapters.register_loader("numeric", IntLoader)  # sums
        if link.info.server_version < OLDEST_VERSION:
            version = link.info.server_version // 10_000
            link.close()
            raise ConfigError(
                f"{self.path} is version {version}", hint="PostgreSQL 15 or newer is needed"
            )
        link.execute(f'SET search_path TO "{self.path.schema}"')
        link.execute(f"SET lock_timeout = {max(1, int(self._timeout_s * 1000))}")
        self._link = link
        return link

    @contextmanager
    def _within(self, begin: str, end: str) -> Iterator[None]:
        with self._lock:
            with self._translated():
                link = self._connection
            self._is_within = True
            try:
                with self._translated():
                    link.execute(begin)
                yield
                with self._translated():
                    link.execute(end)
            except BaseException:
                with suppress(psycopg.Error):
                    link.execute("ROLLBACK")
                raise
            finally:
                self._is_within = False

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """PostgreSQL's errors, said as ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self._said(error) from error

    def _said(self, error: psycopg.Error) -> ManyhandsError:
        reason = str(error).strip().split("\n")[0]
        if isinstance(error, (errors.LockNotAvailable, errors.DeadlockDetected)):
            return LedgerBusy(
                f"{self.path} is locked by another process",
                hint="wait for it to finish, or find it: SELECT * FROM pg_stat_activity",
            )
        if isinstance(error, (errors.DiskFull, errors.OutOfMemory)):
            return OutOfMemory(f"no room left on the server for {self.path}: {reason}")
        if isinstance(error, _REFUSED):
            hint = "check the user, password and database in --ledger, and what they may do"
            return ConfigError(f"{self.path} refuses: {reason}", hint=hint)
        if isinstance(error, psycopg.DataError):  # what we were given is wrong, not what is there
            return BadObject(f"{self.path} can keep no such value: {reason}")
        if isinstance(error, _LOST):
            return LedgerUnreachable(
                f"{self.path} cannot be reached: {reason}",
                hint="start the server, or check host, user, password and database with psql;"
                " what was acknowledged is there, the rest may be asked for again",
            )
        return damaged(self.path, reason)


_numbers = iter(range(2**62))
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)
_REFUSED = (
    errors.InsufficientPrivilege,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.ReadOnlySqlTransaction,
)


@lru_cache(maxsize=512)
def _dialect(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


def _schema(sql: str) -> str:
    for pattern, other in _DIALECT:
        sql = re.sub(pattern, other, sql)
    return sql
