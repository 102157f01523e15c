"""What the books of all accounts' spend logs say: the questions that can be asked of them.

In: their database, which `spend_books.py` writes. Out: credit, allotments, times, faults; always
what `fold.fold` would say of the same logs.
"""

from collections import defaultdict

from ledger.fold import Allotted, Books
from ledger.merkle import inclusion_proof
from ledger.spend_leaf import SpendLeaf
from ledger.spend_shelf import Shelf
from ledger.spend_tables import LogRow, Names, Nodes, allotted
from ledger.spending import Allotment, Fault
from ledger.store import Store
from protocol.canonical import decode

_NOTED = (
    "coalesce((SELECT max(n.amount) FROM step s JOIN step n ON n.acct = s.party"
    " JOIN counted c ON c.acct = n.acct WHERE s.kind = 2 AND s.oid = tab.allot AND n.kind = 5"
    " AND n.oid = tab.session AND n.idx < c.n), 0)"
)  # what its payee's credit notes take off a tab


class SpendViews:
    """The reading half of `SpendBooks`."""

    def __init__(self, store: Store) -> None:
        self._store, self._names = store, Names(store)

    def size(self, account: bytes) -> int:
        """How many leaves of this log we have: ask for those from here on."""
        return self._log(self._names.find(account)).size

    def noted(self, account: bytes) -> int:
        """Of how many of them it can be proven to others that they stand there.

        Fewer than `size` while a longer log has come in part: no checkpoint here ends there.
        """
        log = self._log(self._names.find(account))
        return min(log.size, log.noted)

    def cut(self, account: bytes) -> int | None:
        """Where two versions of it part that both count: nothing from there on does."""
        return self._log(self._names.find(account)).cut

    def counted(self, account: bytes) -> int:
        """How many of them count; fewer, where one is beyond the account's credit."""
        return self._counted(self._names.find(account) or 0)

    def tree(self, account: bytes) -> tuple[int, Nodes]:
        """How many leaves of this log we have, and the tree over them."""
        log = self._log(self._names.find(account))
        return log.size, Nodes(self._store, log.acct)

    @property
    def shelf(self) -> Shelf:
        """The logs themselves, as others fetch them."""
        return Shelf(self._store)

    def time_s(self) -> int:
        """The latest that a quorum of witnesses dated a log we know, by its median; 0: none."""
        rows = self._store.execute("SELECT value FROM meta WHERE name = 'time'")
        return int.from_bytes(rows[0][0], "big") if rows else 0

    def available(self, account: bytes, asset: bytes) -> int:
        rows = self._store.execute(
            "SELECT amount FROM balance WHERE acct = (SELECT id FROM account WHERE name = ?)"
            " AND asset = (SELECT id FROM account WHERE name = ?)",
            (account, asset),
        )
        return int(rows[0][0]) if rows else 0

    def allotted(self, oid: bytes) -> Allotted | None:
        """What became of this allotment; None: there is no credit behind it."""
        return allotted(self._store, oid).get(oid)

    def made_to(self, payee: bytes) -> list[tuple[bytes, Allotment]]:
        """Allotments with credit behind them, of which this payee gave nothing back yet."""
        rows = self._store.execute(
            "SELECT s.oid, leaf.data FROM step s JOIN counted ON counted.acct = s.acct"
            " JOIN leaf ON leaf.acct = s.acct AND leaf.idx = s.idx"
            " WHERE s.kind = 2 AND s.idx < counted.n"
            " AND s.party = (SELECT id FROM account WHERE name = ?) AND NOT EXISTS"
            " (SELECT 1 FROM step f WHERE f.oid = s.oid AND f.kind = 4 AND f.acct = s.party)",
            (payee,),
        )
        return [
            (oid, Allotment.from_fields(decode(SpendLeaf.decode(data).envelope.payload)))
            for oid, data in rows
        ]

    def given_back(self, payee: bytes) -> frozenset[bytes]:
        """Allotments that this payee released, whether or not there is credit behind them."""
        rows = self._store.execute(
            "SELECT oid FROM step JOIN account ON id = acct WHERE kind = 4 AND name = ?", (payee,)
        )
        return frozenset(oid for (oid,) in rows)

    def released(self) -> frozenset[bytes]:
        """Allotments of anybody that those whom they pay gave back, for good."""
        rows = self._store.execute(
            "SELECT s.oid FROM step s JOIN step f ON f.oid = s.oid AND f.acct = s.party"
            " JOIN counted ON counted.acct = f.acct WHERE s.kind = 2 AND f.kind = 4 AND f.idx < n"
        )
        return frozenset(oid for (oid,) in rows)

    def claimed(self, oid: bytes) -> int:
        """What our tabs claim of an allotment, whether or not there is credit behind it."""
        rows = self._store.execute("SELECT amount FROM tab WHERE allot = ?", (oid,))
        return sum(amount for (amount,) in rows)  # here: it may be beyond 2^63

    def owed(self, oid: bytes) -> int:
        """The same, less what credit notes take off these tabs."""
        rows = self._store.execute(f"SELECT tab.amount, {_NOTED} FROM tab WHERE allot = ?", (oid,))
        return sum(max(0, amount - noted) for amount, noted in rows)

    def exposed(self, payer: bytes, key: bytes) -> int:
        """What this key promised our tabs for an account, and nobody has settled or collected, less
        what our credit notes take off it."""
        rows = self._store.execute(
            f"SELECT allot, tab.amount, {_NOTED} FROM signer JOIN tab USING (allot, session)"
            " WHERE payer = ? AND key = ?",
            (payer, key),
        )
        signed: defaultdict[bytes, int] = defaultdict(int)
        for oid, amount, noted in rows:
            signed[oid] += max(0, amount - noted)
        return sum(min(amount, self._unsettled(oid)) for oid, amount in signed.items())

    def _unsettled(self, oid: bytes) -> int:
        made = self.allotted(oid)
        return max(0, self.owed(oid) - (made.deposited if made else 0))

    def leaves(self, account: bytes, start: int = 0) -> list[SpendLeaf]:
        """All that we have of this account's log from there on."""
        sql = "SELECT data FROM leaf WHERE acct = ? AND idx >= ? ORDER BY idx"
        rows = self._store.execute(sql, (self._names.find(account), start))
        return [SpendLeaf.decode(data) for (data,) in rows]

    def proven(self, account: bytes, oid: bytes) -> tuple[bytes, list[bytes], str] | None:
        """An object in this account's log: its leaf, its path, and the checkpoint they lead to.

        None: it is not there, as far as we have a checkpoint of the log.
        """
        with self._store.snapshot():
            log = self._log(self._names.find(account))
            sql = (
                "SELECT idx, data FROM place JOIN leaf USING (acct, idx) WHERE acct = ? AND oid = ?"
            )
            rows = self._store.execute(sql, (log.acct, oid))
            if not rows or log.cut is not None or rows[0][0] >= log.noted:
                return None
            path = inclusion_proof(rows[0][0], log.noted, Nodes(self._store, log.acct))
            return bytes(rows[0][1]), path, log.note

    def claimed_upto(self) -> int:
        """Entries of our receipts log below that were claimed, whatever became of later ones."""
        rows = self._store.execute("SELECT value FROM meta WHERE name = 'claimed'")
        return int.from_bytes(rows[0][0], "big") if rows else 0

    def all_notes(self) -> dict[tuple[bytes, bytes], int]:
        """By payee and tab, what payees' logs take off their tabs, as far as that counts."""
        rows = self._store.execute(
            "SELECT name, oid, max(amount) FROM step JOIN counted USING (acct)"
            " JOIN account ON id = acct WHERE kind = 5 AND idx < n GROUP BY name, oid"
        )
        return {(bytes(payee), bytes(tab)): int(amount) for payee, tab, amount in rows}

    def is_forked(self, account: bytes) -> bool:
        rows = self._store.execute(
            "SELECT 1 FROM forked JOIN account ON id = acct WHERE name = ?", (account,)
        )
        return bool(rows)

    def books(self) -> Books:
        """All of it, as `fold.fold` says it."""
        with self._store.snapshot():
            names = self._names.all()
            balances = self._store.execute("SELECT * FROM balance WHERE amount > 0")
            logs = self._store.execute(
                "SELECT acct, coalesce(n, 0) FROM log LEFT JOIN counted USING (acct)"
            )
            granted = self._store.execute(
                "SELECT asset, sum(amount) FROM step JOIN counted USING (acct)"
                " WHERE kind = 1 AND idx < n GROUP BY asset"
            )
            forked = self._store.execute("SELECT acct FROM forked")
            return Books(
                available={(names[a], names[s]): amount for a, s, amount in balances},
                allotted=allotted(self._store),
                counted={names[acct]: n for acct, n in logs},
                granted={names[asset]: amount for asset, amount in granted},
                forked=frozenset(names[acct] for (acct,) in forked),
            )

    def faults(self) -> list[Fault]:
        """The forks we have proof of."""
        rows = self._store.execute("SELECT fault FROM forked ORDER BY acct")
        return [Fault.from_fields(decode(data)) for (data,) in rows]

    # --- within ----------------------------------------------------------------------------------

    def _log(self, acct: int | None) -> LogRow:
        rows = self._store.execute("SELECT * FROM log WHERE acct = ?", (acct,))
        return LogRow(*rows[0]) if rows else LogRow(acct or 0)

    def _counted(self, acct: int) -> int:
        rows = self._store.execute("SELECT n FROM counted WHERE acct = ?", (acct,))
        return int(rows[0][0]) if rows else 0
