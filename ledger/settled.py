"""Settlements that both sides signed, kept by whoever was a party to them or was told of them.

In: envelopes. Out: the same, once both signatures hold, and their ids, by which two parties find
what each lacks (`reconciliation.py`). A settlement moves no credit: its payee deposits it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ledger.beside import begun, claim
from ledger.reconciliation import IdSet
from ledger.settling import Pair
from ledger.spending import Settlement
from ledger.store import Store
from protocol.canonical import decode
from protocol.signing import Envelope

FILE_NAME = "settlements.sqlite"
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settlement (
    oid BLOB PRIMARY KEY, epoch INTEGER NOT NULL,
    payer BLOB NOT NULL, payee BLOB NOT NULL, asset BLOB NOT NULL, envelope BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS settlement_of ON settlement (payer, payee, asset, epoch);
CREATE TABLE IF NOT EXISTS note (
    session BLOB NOT NULL, payee BLOB NOT NULL, amount INTEGER NOT NULL,
    PRIMARY KEY (session, payee)
) STRICT, WITHOUT ROWID
"""


class SettledBook:
    """Use `open`, and `close` in the end."""

    def __init__(self, store: Store, swarm_id: bytes) -> None:
        self.swarm_id = swarm_id
        self._store = store

    @classmethod
    def open(cls, directory: Path, swarm_id: bytes) -> Self:
        """
        Raises:
            DamagedLedger: the database is truncated or corrupt.
            ForeignLedger: it is of another swarm.
            ConfigError: the directory cannot be written.
        """
        with begun(directory, FILE_NAME, schema=SCHEMA) as store:
            claim(store, {"swarm": swarm_id})
        return cls(store, swarm_id)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, envelope: Envelope) -> Settlement:
        """Keep a settlement, durably. One that is there already changes nothing.

        Raises:
            IntegrityError: it is none, or not signed by exactly both.
        """
        settlement = open_settlement(envelope, self.swarm_id)
        with self._store.transaction():
            self._store.execute(
                "INSERT INTO settlement VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    envelope.object_id(self.swarm_id),
                    settlement.epoch,
                    settlement.payer,
                    settlement.payee,
                    settlement.asset,
                    envelope.encode(),
                ),
            )
        return settlement

    def note(self, payee: bytes, notes: Iterable[tuple[bytes, int]]) -> None:
        """What a payee's credit notes take off tabs: the highest counts."""
        with self._store.transaction():
            for session_id, amount in notes:
                self._store.execute(
                    "INSERT INTO note VALUES (?, ?, ?) ON CONFLICT (session, payee)"
                    " DO UPDATE SET amount = excluded.amount WHERE note.amount < excluded.amount",
                    (session_id, payee, amount),
                )

    def notes(self, payee: bytes) -> dict[bytes, int]:
        rows = self._store.execute("SELECT session, amount FROM note WHERE payee = ?", (payee,))
        return dict(rows)

    def get(self, oid: bytes) -> Envelope | None:
        rows = self._store.execute("SELECT envelope FROM settlement WHERE oid = ?", (oid,))
        return Envelope.decode(rows[0][0]) if rows else None

    def __len__(self) -> int:
        return int(self._store.execute("SELECT count(*) FROM settlement")[0][0])

    def oids(self, payer: bytes, payee: bytes, epoch: int) -> list[bytes]:
        """What these two have of an epoch, in order."""
        sql = "SELECT oid FROM settlement WHERE payer = ? AND payee = ? AND epoch = ? ORDER BY oid"
        return [bytes(oid) for (oid,) in self._store.execute(sql, (payer, payee, epoch))]

    def drop(self, oid: bytes) -> None:
        with self._store.transaction():
            self._store.execute("DELETE FROM settlement WHERE oid = ?", (oid,))

    def between(self, pair: Pair) -> list[Envelope]:
        """In the order of their epochs."""
        rows = self._store.execute(
            "SELECT envelope FROM settlement WHERE payer = ? AND payee = ? AND asset = ?"
            " ORDER BY epoch, oid",
            (pair.payer, pair.payee, pair.asset),
        )
        return [Envelope.decode(data) for (data,) in rows]

    def of(self, account: bytes) -> list[Envelope]:
        """To which this account is a party."""
        rows = self._store.execute(
            "SELECT envelope FROM settlement WHERE payer = ? OR payee = ? ORDER BY epoch, oid",
            (account, account),
        )
        return [Envelope.decode(data) for (data,) in rows]

    def ids(self, first_epoch: int = 0) -> IdSet:
        """Of all there are from this epoch on, as `reconciliation.py` compares them."""
        sql = "SELECT epoch, oid FROM settlement WHERE epoch >= ?"
        return IdSet(self._store.execute(sql, (first_epoch,)))


def open_settlement(envelope: Envelope, swarm_id: bytes) -> Settlement:
    """
    Raises:
        IntegrityError: it is none, or not signed by exactly both.
    """
    said = read_settlement(envelope)
    return Settlement.open(envelope, swarm_id, said.payer, said.payee)


def read_settlement(envelope: Envelope) -> Settlement:
    """What it says; who signed it is not looked at."""
    return Settlement.from_fields(decode(envelope.payload))
