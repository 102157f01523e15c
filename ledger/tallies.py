"""Tallies and kin that a home has, in one SQLite file beside its log.

In: signed envelopes, ours and others'. Out: of each pair the best that is known: the one that says
most was settled, and the one that both signed which says most was done. Losing the file loses what
others signed for us, and nothing that the log has.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Self

from ledger.errors import BadObject
from ledger.store import Store
from ledger.tally import Kin, Tally, open_kin, open_tally
from ledger.trust import Edges, edges_of, reaching
from protocol.canonical import decode
from protocol.signing import Envelope, SigningKey, add_signature

FILE_NAME = "tallies.sqlite"
MAX_OTHERS = 20_000  # tallies between others that are kept: strangers make as many as they like

SCHEMA = """
CREATE TABLE IF NOT EXISTS tally (
    payer BLOB NOT NULL, payee BLOB NOT NULL, asset BLOB NOT NULL, is_mutual INTEGER NOT NULL,
    served INTEGER NOT NULL, settled INTEGER NOT NULL, envelope BLOB NOT NULL,
    PRIMARY KEY (payer, payee, asset, is_mutual)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS kin (
    client BLOB PRIMARY KEY, envelope BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


class Tallies:
    """Of one home. Use `open`, and `close` in the end."""

    def __init__(self, store: Store, swarm_id: bytes, ours: Collection[bytes]) -> None:
        self._store, self._swarm_id, self._ours = store, swarm_id, frozenset(ours)

    @classmethod
    def open(cls, directory: Path, swarm_id: bytes, ours: Collection[bytes] = ()) -> Self:
        """
        ours: keys of the home; tallies with them are always kept, and take nobody's room.

        Raises:
            DamagedLedger, LedgerBusy, ConfigError: as `Store.open`.
        """
        return cls(Store.open(directory / FILE_NAME, create=True, schema=SCHEMA), swarm_id, ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def keep(self, envelope: Envelope) -> bool:
        """Keep a tally, if it is news and there is room; it is on disk then.

        Raises:
            IntegrityError: it is none, or not signed as it should be.
        """
        said, is_mutual = open_tally(envelope, self._swarm_id)
        pair = (said.payer, said.payee, said.asset)
        with self._store.transaction():
            held = self._store.execute(
                "SELECT served, settled FROM tally WHERE (payer, payee, asset) = (?, ?, ?)"
                " AND is_mutual = ?",
                (*pair, is_mutual),
            )
            order = (said.served, said.settled) if is_mutual else (said.settled, said.served)
            if held and order <= (held[0] if is_mutual else (held[0][1], held[0][0])):
                return False
            is_of_others = self._ours.isdisjoint((said.payer, said.payee))
            if not held and is_mutual and is_of_others and self.is_full:
                return False  # not the fault of whoever tells it
            self._store.execute(
                "INSERT INTO tally VALUES (?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (payer, payee, asset, is_mutual) DO UPDATE SET"
                " served = excluded.served, settled = excluded.settled,"
                " envelope = excluded.envelope",
                (*pair, int(is_mutual), said.served, said.settled, envelope.encode()),
            )
        return True

    @property
    def is_full(self) -> bool:
        """Whether a tally between two others that is new is kept no more."""
        return self._n_between_others() >= MAX_OTHERS

    def make_room(self, own: Edges, node_of: Mapping[bytes, bytes]) -> int:
        """Drop tallies between others by which nothing flows on to us: anybody makes up as many as
        they like. How many these were; told again, they are heard.

        own, node_of: as `trust.reaching` has them.
        """
        between = edges_of((tally for tally, is_mutual in self.all() if is_mutual), self._ours)
        kept = reaching(between, own, self._ours, node_of, most=MAX_OTHERS * 3 // 4)
        gone = [(payer, payee) for payee, payer in between.keys() - kept.keys()]
        sql = "DELETE FROM tally WHERE is_mutual = 1 AND (payer, payee) = (?, ?)"
        with self._store.transaction():
            self._store.execute_many(sql, gone)
        return len(gone)

    def introduce(self, envelope: Envelope) -> Kin:
        """Keep that two keys are kin. What holds of the client now: its paper that was signed last.

        Raises:
            IntegrityError: they did not both sign it.
        """
        kin = open_kin(envelope, self._swarm_id)
        with self._store.transaction():
            held = self._store.execute("SELECT envelope FROM kin WHERE client = ?", (kin.client,))
            if held:
                known = Kin.from_fields(decode(Envelope.decode(held[0][0]).payload))
                if known.issued_ms >= kin.issued_ms:
                    return known
            else:
                ((n_kin,),) = self._store.execute("SELECT count(*) FROM kin")
                if n_kin >= MAX_OTHERS:
                    return kin  # not kept, which is not the fault of who shows it
            self._store.execute(
                "INSERT INTO kin VALUES (?, ?)"
                " ON CONFLICT (client) DO UPDATE SET envelope = excluded.envelope",
                (kin.client, envelope.encode()),
            )
        return kin

    def version(self) -> tuple[int, int]:
        """Another one whenever something was kept, by us or by another process."""
        (theirs,), (ours,) = (
            self._store.execute(sql)[0] for sql in ("PRAGMA data_version", "SELECT total_changes()")
        )
        return theirs, ours

    def all(self) -> Iterator[tuple[Tally, bool]]:
        """Each, and whether both parties signed it: signatures were looked at when it came."""
        for (data,) in self._store.execute("SELECT envelope FROM tally ORDER BY payer, payee"):
            envelope = Envelope.decode(data)
            yield Tally.from_fields(decode(envelope.payload)), len(envelope.signers) > 1

    def kin(self) -> Iterator[Kin]:
        for (data,) in self._store.execute("SELECT envelope FROM kin ORDER BY client"):
            yield Kin.from_fields(decode(Envelope.decode(data).payload))

    def mutual(self, most: int) -> list[bytes]:
        """Envelopes that both parties signed, those that say most first."""
        sql = "SELECT envelope FROM tally WHERE is_mutual = 1 ORDER BY served DESC LIMIT ?"
        return [data for (data,) in self._store.execute(sql, (most,))]

    def merits(self, payee: bytes, most: int) -> list[bytes]:
        """What payers signed that this one did for them, those who say most first."""
        sql = (
            "SELECT envelope FROM tally WHERE is_mutual = 1 AND payee = ?"
            " ORDER BY served DESC LIMIT ?"
        )
        return [data for (data,) in self._store.execute(sql, (payee, most))]

    def mutual_of(self, payer: bytes, payee: bytes) -> list[bytes]:
        sql = "SELECT envelope FROM tally WHERE is_mutual = 1 AND (payer, payee) = (?, ?)"
        return [data for (data,) in self._store.execute(sql, (payer, payee))]

    def settled(self, payer: bytes, payee: bytes, asset: bytes) -> Envelope | None:
        """The payee's own word of what was made good, that says most."""
        rows = self._store.execute(
            "SELECT envelope FROM tally WHERE (payer, payee, asset) = (?, ?, ?)"
            " ORDER BY settled DESC LIMIT 1",
            (payer, payee, asset),
        )
        return Envelope.decode(rows[0][0]) if rows else None

    def _n_between_others(self) -> int:
        marks = ", ".join("?" * len(self._ours))
        rows = self._store.execute(
            "SELECT count(*) FROM tally WHERE is_mutual = 1"
            f" AND payer NOT IN ({marks}) AND payee NOT IN ({marks})",
            (*self._ours, *self._ours),
        )
        return int(rows[0][0])


def signed_too(
    word: bytes, key: SigningKey, payee: bytes, most: int, swarm_id: bytes
) -> list[Envelope]:
    """A payee's word about us as it came, and with our signature if it says no more than `most`
    was done for us.

    Raises:
        IntegrityError: it is not that payee's word about us.
    """
    envelope = Envelope.decode(word)
    said, _ = open_tally(envelope, swarm_id)
    if (said.payer, said.payee) != (key.public_key, payee):
        raise BadObject("that is no tally of the two of us")
    mutual = [add_signature(envelope, swarm_id, key)] if 0 < said.served <= most else []
    return [envelope, *mutual]
