"""What looks at others' work found, kept so that it stays cheap to ask about.

In: looks, as an audit makes them. Out: how far each account's work is to be trusted, who is
suspect, and the latest looks. What all looks come to is kept beside them, one row for an account's
work on one model in one profile, so that who asks reads as many rows as there are of those, and old
looks can go.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ledger.reputation import HALF_LIFE_S, UNSEEN, Standing
from ledger.store import Row, Store
from ledger.verdicts import MATCH, MISMATCH

MAX_LOOKS = 10_000  # kept one by one, besides suspicions that count still

SCHEMA = """
CREATE TABLE IF NOT EXISTS look (
    id INTEGER PRIMARY KEY,
    at_s REAL NOT NULL,
    account BLOB NOT NULL,
    manifest BLOB NOT NULL,
    profile TEXT NOT NULL,
    session_id BLOB NOT NULL,
    window_no INTEGER NOT NULL,
    span TEXT NOT NULL,
    result TEXT NOT NULL,
    confirmed INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    verdict BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS look_unsure ON look (at_s) WHERE confirmed = 0;
CREATE TABLE IF NOT EXISTS standing (
    account BLOB NOT NULL,
    manifest BLOB NOT NULL,
    profile TEXT NOT NULL,
    passed REAL NOT NULL,
    failed REAL NOT NULL,
    at_s REAL NOT NULL,
    PRIMARY KEY (account, manifest, profile)
) STRICT, WITHOUT ROWID;
"""

Key = tuple[bytes, bytes, str]  # account, manifest, execution profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One committed window that was computed again.

    confirmed: false for a mismatch that nobody else bore out: a suspicion, which is no evidence.
    parts: the deviation that was found, in parts of a million.
    """

    account: bytes
    manifest: bytes
    profile: str
    session_id: bytes
    window_no: int
    span: str
    result: str
    parts: int
    verdict: bytes
    confirmed: bool = True
    at_s: float = 0.0
    number: int = 0  # in the order of the book

    @property
    def key(self) -> Key:
        return self.account, self.manifest, self.profile


class Looks:
    """In a store that has these tables."""

    def __init__(self, store: Store) -> None:
        self._store = store
        sql = "SELECT EXISTS (SELECT 1 FROM standing), EXISTS (SELECT 1 FROM look WHERE confirmed)"
        if store.execute(sql) == [(0, 1)]:  # of a version that kept looks alone
            with store.transaction():
                if store.execute(sql) == [(0, 1)]:
                    self._count(self.latest(-1))

    def note(self, looks: Iterable[Look], at_s: float) -> None:
        """As made at this time, all or none."""
        new = list(looks)
        rows = [
            (
                *(at_s, look.account, look.manifest, look.profile, look.session_id),
                *(look.window_no, look.span, look.result, int(look.confirmed)),
                *(look.parts, look.verdict),
            )
            for look in new
        ]
        with self._store.transaction():
            self._store.execute_many(
                "INSERT INTO look VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            self._count(new, at_s)
            self._store.execute(
                "DELETE FROM look WHERE id <= (SELECT max(id) FROM look) - ?"
                " AND (confirmed OR at_s <= ?)",
                (MAX_LOOKS, at_s - HALF_LIFE_S),
            )

    def _count(self, looks: Iterable[Look], at_s: float | None = None) -> None:
        changed: dict[Key, Standing] = {}
        for look in looks:
            if look.confirmed:
                known = changed.get(look.key) or self._standing(look.key)
                when_s = look.at_s if at_s is None else at_s
                changed[look.key] = known.after(look.result == MATCH, when_s)
        self._store.execute_many(
            "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?)",
            [(*key, known.passed, known.failed, known.at_s) for key, known in changed.items()],
        )

    def _standing(self, key: Key) -> Standing:
        rows = self._store.execute(
            "SELECT passed, failed, at_s FROM standing"
            " WHERE account = ? AND manifest = ? AND profile = ?",
            key,
        )
        return Standing(*rows[0]) if rows else UNSEEN

    def standings(self, now_s: float) -> dict[Key, Standing]:
        """What is known of each account, by model and profile."""
        rows = self._store.execute("SELECT * FROM standing")
        return {
            (account, manifest, profile): Standing(passed, failed, at_s).aged(now_s)
            for account, manifest, profile, passed, failed, at_s in rows
        }

    def suspects(self, now_s: float) -> set[bytes]:
        """Accounts with a mismatch, lately, that nobody bore out or ruled out."""
        sql = "SELECT DISTINCT account FROM look WHERE confirmed = 0 AND at_s > ? AND result = ?"
        rows = self._store.execute(sql, (now_s - HALF_LIFE_S, MISMATCH))
        return {account for (account,) in rows}

    def latest(self, n: int = MAX_LOOKS) -> list[Look]:
        """In the order in which they were made; -1: all."""
        rows = self._store.execute("SELECT * FROM look ORDER BY id DESC LIMIT ?", (n,))
        return [_look(row) for row in reversed(rows)]

    def look(self, number: int) -> Look | None:
        """None: there is none of this number, or no longer."""
        rows = self._store.execute("SELECT * FROM look WHERE id = ?", (number,))
        return _look(rows[0]) if rows else None


def _look(row: Row) -> Look:
    number, at_s, account, manifest, profile, session, window, span, result, sure, parts, v = row
    return Look(
        account=account,
        manifest=manifest,
        profile=profile,
        session_id=session,
        window_no=window,
        span=span,
        result=result,
        parts=parts,
        verdict=v,
        confirmed=bool(sure),
        at_s=at_s,
        number=number,
    )
