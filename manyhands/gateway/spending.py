"""What each key has spent, by day, on disk: a gateway that starts again goes on counting.

In: the cost of answers as they end. Out: sums for a day and in all. They are kept in memory and
written by a thread of its own; several gateways of one home share the file, and each hears of the
others' spending whenever it writes. A file that cannot be written is logged, and counting goes on.
"""

import logging
import sqlite3
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

from manyhands.home import Home
from protocol.errors import ConfigError

log = logging.getLogger(__name__)

TABLE = """CREATE TABLE IF NOT EXISTS spent (
    key TEXT NOT NULL, day TEXT NOT NULL, ncr INTEGER NOT NULL, tokens INTEGER NOT NULL,
    answers INTEGER NOT NULL, PRIMARY KEY (key, day)) WITHOUT ROWID"""
HOLDS = """CREATE TABLE IF NOT EXISTS held (
    id TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL, day TEXT NOT NULL, ncr INTEGER NOT NULL
    ) WITHOUT ROWID"""
HELD = "SELECT coalesce(sum(ncr), 0) FROM held WHERE key = ? AND day >= ?"
ADD = """INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT (key, day) DO UPDATE SET
    ncr = ncr + excluded.ncr, tokens = tokens + excluded.tokens,
    answers = answers + excluded.answers"""
SUMS = """SELECT coalesce(sum(ncr), 0), coalesce(sum(tokens), 0), coalesce(sum(answers), 0)
    FROM spent WHERE key = ?"""
BUSY_S, LASTS = 5.0, timedelta(days=1)  # LASTS: a hold, beyond its day: no answer runs so long


@dataclass(frozen=True, slots=True)
class Spent:
    """By one key, in some time."""

    ncr: int = 0
    tokens: int = 0
    answers: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.ncr + other.ncr, self.tokens + other.tokens, self.answers + other.answers)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.ncr - other.ncr, self.tokens - other.tokens, self.answers - other.answers)


@dataclass(frozen=True, slots=True)
class Hold:
    """Set aside for answers until they are settled, which is counted on this day. One whose process
    died stays as long as it might run, till the day after is over: what its answers cost, nobody
    counted. Then it is free again, where a budget is for longer than a day."""

    id: str
    key: str
    day: str
    ncr: int


NOTHING = Spent()


class Spending:
    """Of all keys of a home; without a path, only for as long as it lives. Leave it to write all.

    Raises:
        ConfigError: the file cannot be opened, or is another's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._lock = path, Lock()
        self._written: dict[tuple[str, str], Spent] = defaultdict(Spent)  # as last read
        self._ended: list[str] = []  # holds that are settled
        self._waiting: dict[tuple[str, str], Spent] = defaultdict(Spent)  # not yet in the file
        self._writer = ThreadPoolExecutor(1, "spending") if path else None
        if path is not None:
            self._read(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.submit(self._write)
            self._writer.shutdown(wait=True)

    def on(self, key: str, day: str) -> Spent:
        """On one day, as `today` spells it."""
        with self._lock:
            place = (key, day)
            return self._written.get(place, NOTHING) + self._waiting.get(place, NOTHING)

    def in_all(self, key: str) -> Spent:
        return self.on(key, "")

    def hold(self, hold: Hold, budget: int, *, is_daily: bool) -> "Future[int]":
        """Set it aside on disk, if the budget has it beside what others of the home spent and hold.
        The result is what is lacking: 0 or less, and it is held.

        Raises:
            ConfigError: the file cannot be written, so nobody could tell later.
        """
        if self._writer is not None:
            return self._writer.submit(self._hold, hold, budget, is_daily)
        done: Future[int] = Future()
        done.set_result(0)  # who shares nothing has looked already
        return done

    def held(self, key: str, day: str = "") -> int:
        """By answers that run, here or in other processes of the home, and by those that died."""
        if self._path is None:
            return 0
        with _open(self._path) as database:
            return _held(database, key, day or _oldest(today()))

    def add(self, key: str, spent: Spent, day: str, hold: Hold | None = None) -> None:
        """hold: what was set aside for it, which is free again."""
        with self._lock:
            self._waiting[key, day] += spent
            self._waiting[key, ""] += spent
            if hold is not None:
                self._ended.append(hold.id)
        if self._writer is not None:
            self._writer.submit(self._write)

    def _read(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=True)
            with _open(path) as database:
                for key, day, *sums in database.execute("SELECT * FROM spent"):
                    self._written[key, day] = Spent(*sums)
                    self._written[key, ""] += Spent(*sums)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot read what keys have spent in {path}: {error}",
                hint="move the file away to count from nothing, or restore it",
            ) from error

    def _write(self) -> None:
        """On the writer's thread: what waits, and then what all gateways of the home spent."""
        with self._lock:
            taken, ended = dict(self._waiting), tuple(self._ended)
        if not taken or self._path is None:
            return
        try:
            with _open(self._path) as database:
                for (key, day), spent in taken.items():
                    if day:
                        values = (key, day, spent.ncr, spent.tokens, spent.answers)
                        database.execute(ADD, values)
                database.executemany("DELETE FROM held WHERE id = ?", [(id,) for id in ended])
                seen = {place: _sums(database, *place) for place in taken}
        except (OSError, sqlite3.Error) as error:
            log.error("what keys have spent cannot be written", extra={"error": str(error)})
            return
        with self._lock:
            self._written.update(seen)
            del self._ended[: len(ended)]
            for place, spent in taken.items():
                self._waiting[place] -= spent
                if self._waiting[place] == NOTHING:
                    del self._waiting[place]

    def _hold(self, hold: Hold, budget: int, is_daily: bool) -> int:
        """On the writer's thread: looked at and set aside in one transaction."""
        assert self._path is not None
        day = hold.day if is_daily else ""
        try:
            with _open(self._path) as database:
                database.execute("BEGIN IMMEDIATE")
                held = _held(database, hold.key, day or _oldest(hold.day))
                used = _sums(database, hold.key, day).ncr + held
                lack = used + hold.ncr - budget
                if lack <= 0:
                    values = (hold.id, hold.key, hold.day, hold.ncr)
                    database.execute("INSERT INTO held VALUES (?, ?, ?, ?)", values)
                    database.execute("DELETE FROM held WHERE day < ?", (_oldest(hold.day),))
                return lack
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cannot set aside what an answer may cost: {error}",
                hint=f"look at the disk and the owner of {self._path}",
            ) from error


class _open:
    """A connection for one transaction."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, timeout=BUSY_S)
        self._database.execute(TABLE)
        self._database.execute(HOLDS)

    def __enter__(self) -> sqlite3.Connection:
        return self._database

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if kind is None:
                self._database.commit()
        finally:
            self._database.close()


def _sums(database: sqlite3.Connection, key: str, day: str) -> Spent:
    where, values = (" AND day = ?", (key, day)) if day else ("", (key,))
    return Spent(*database.execute(SUMS + where, values).fetchone())


def _held(database: sqlite3.Connection, key: str, since: str) -> int:
    return int(database.execute(HELD, (key, since)).fetchone()[0])


def _oldest(day: str) -> str:
    """The first day whose holds may on this one still be of answers that run."""
    return (datetime.fromisoformat(day) - LASTS).date().isoformat()


def today(now: datetime | None = None) -> str:
    """Of UTC, as `2026-11-22`."""
    return (now or datetime.now(UTC)).date().isoformat()


def until_tomorrow_s(now: datetime | None = None) -> float:
    now = now or datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return (midnight - now).total_seconds()


def spending_path(home: Home) -> Path:
    return home.root / "gateway" / "spent.db"
