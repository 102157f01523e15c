"""What a node knows of all accounts' spend logs, and the balances they come to, in one file.

In: leaves of an account's log, with a checkpoint that a quorum cosigned. Out: who may spend how
much and what became of each allotment, kept up to date: always what `fold.fold` would say of the
same logs; and proof of who showed two versions. Where two branches that both count part, too many
witnesses lied: nothing from there on counts. How rows grow is `spend_growth.py`'s.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ledger.beside import begun, claim
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import BadProof, DamagedLedger
from ledger.fold import TabClaim
from ledger.forks import Proven, Side, Version, check_fork, fork_fault, own_line
from ledger.merkle import root
from ledger.parting import Parting, cosigned, shown_before
from ledger.spend_growth import SpendGrowth
from ledger.spend_tables import SCHEMA, Leaves, LogRow, refold
from ledger.spending import Fault
from ledger.store import Store
from protocol.errors import IntegrityError, PeerRefused

FILE_NAME = "spending.sqlite"


class SpendBooks(SpendGrowth):
    """Use `open`, and `close` in the end."""

    def __init__(self, store: Store, swarm_id: bytes, witnesses: Witnesses) -> None:
        super().__init__(store, swarm_id, witnesses)
        self._watching: list[Callable[[bytes], None]] = []

    @classmethod
    def open(cls, directory: Path, swarm_id: bytes, witnesses: Witnesses) -> Self:
        """Open or begin a swarm's books.

        Raises:
            DamagedLedger: the database is truncated or corrupt.
            ForeignLedger: it is of another swarm.
            ConfigError: the directory cannot be written.
        """
        with begun(directory, FILE_NAME, schema=SCHEMA) as store:
            claim(store, {"swarm": swarm_id})
        return cls(store, swarm_id, witnesses)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- taking in -------------------------------------------------------------------------------

    def watch(self, changed: Callable[[bytes], None]) -> None:
        """Have it told, on whichever thread that was, of each account whose log grew or forked."""
        self._watching.append(changed)

    def learn(
        self,
        account: bytes,
        note: str,
        leaves: Sequence[bytes],
        *,
        start: int = 0,
        path: Sequence[bytes] | None = None,
    ) -> int:
        """Take in a log's leaves from `start` on, up to the size that its checkpoint says.

        path: they end before it: the inclusion path of the last of them in the checkpoint's tree.
        Returns how many entries of it count for balances now.

        Raises:
            IntegrityError: the checkpoint is not the account's, has no quorum, or does not fit the
                leaves; then it may help to send all of them, from the first on.
        """
        head = cosigned(account, note, self.witnesses, self.swarm_id)
        with self._transaction():
            self._note_time(head.time_s)
            acct = self._names.id(account)
            self._learn(account, self._log(acct), head, note, leaves, start, path)
            counted = self._counted(acct)
        self._changed(account)
        return counted

    def claim(self, tabs: Sequence[TabClaim], *, upto: int | None = None) -> None:
        """What vouchers on our own tabs promise of allotments; the highest of each tab counts.

        upto: with these, all entries of our receipts log below that were claimed.
        """
        with self._transaction():
            if upto is not None:
                self._store.execute("DELETE FROM meta WHERE name = 'claimed'")
                self._store.execute(
                    "INSERT INTO meta VALUES ('claimed', ?)", (upto.to_bytes(8, "big"),)
                )
            self._store.execute_many(
                "INSERT INTO tab VALUES (?, ?, ?) ON CONFLICT (allot, session) DO UPDATE"
                " SET amount = excluded.amount WHERE tab.amount < excluded.amount",
                ((tab.allot_oid, tab.session_id, tab.amount) for tab in tabs),
            )
            self._store.execute_many(
                "INSERT INTO signer VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                ((tab.allot_oid, tab.session_id, tab.payer, tab.key) for tab in tabs if tab.key),
            )

    def compare(
        self, account: bytes, note: str, leaves: Sequence[bytes], *, start: int = 0
    ) -> Fault | None:
        """Whether another version of a log, that nobody need have cosigned, parts from ours.

        What comes back convinces everybody, once it is sealed; we remember it too.

        Raises:
            IntegrityError: the account did not sign that, or the leaves do not fit.
        """
        head = self.witnesses.open(note, origin(self.swarm_id, account, "spend"), account)
        with self._transaction():
            log = self._log(self._names.find(account))
            if log.size == 0 or log.cut is not None:
                return None
            fresh = self._grown(log, head.head, leaves, start, None)
            parted = None if fresh is None else Leaves(self._store, log.acct).parted(leaves, start)
            if fresh is None or parted is None:
                return None
            fault = self._accuse(account, log, Version(note, head.head.size, fresh), parted)
        self._changed(account)
        return fault

    def part(self, parting: Parting) -> bool:
        """Let a log count up to where a quorum signed two versions of it, once we have it so far.

        Returns whether that, or less, is what counts now; else ours is shorter, or yet another.

        Raises:
            IntegrityError: they are no two versions that a quorum signed.
        """
        shared, account = parting.check(self.witnesses, self.swarm_id), parting.account
        with self._transaction():
            log = self._log(self._names.id(account))
            if log.cut is not None and log.cut <= parting.index:
                return True
            if log.size < parting.index or root(parting.index, self._nodes(log)) != shared:
                return False
            for side in (parting.one, parting.other):
                found = cosigned(account, side.note, self.witnesses, self.swarm_id)
                self._note_time(found.time_s)
            self._keep(log, parting)
            self._cut(log, parting.index)
        self._changed(account)
        return True

    def differ(self, account: bytes, theirs: Side, index: int) -> None:
        """A quorum signed another version: this is the first leaf that it has otherwise than ours.

        Raises:
            IntegrityError: it is not, or no quorum did.
        """
        before = shown_before(account, index, theirs, self.witnesses, self.swarm_id)
        with self._transaction():
            log = self._log(self._names.find(account))
            nodes = self._nodes(log)
            if index >= log.size or root(index, nodes) != before:
                raise BadProof("the two versions do not part where they are said to")
            if nodes(0, index) != theirs.leaf_hash:
                found = cosigned(account, theirs.note, self.witnesses, self.swarm_id)
                self._note_time(found.time_s)
                self._part(account, log, theirs, index)
        self._changed(account)

    def meet(self, account: bytes, note: str, head: Checkpoint, proven: Proven) -> None:
        """Look whether a leaf that was proven to be under this checkpoint is in the log we know.

        head: the checkpoint in the note, once its signature was seen to hold.

        Raises:
            PeerRefused: it is of another version. We remember the fork, if this much proves it.
        """
        acct = self._names.find(account)
        with self._store.snapshot():
            if not self._contradicts(self._log(acct), head, proven):
                return
        with self._transaction():
            log = self._log(acct)
            if log.cut is not None:
                pass  # another thread heard of a fork meanwhile
            elif head.size == log.noted:
                self._remember_fork(account, log, Side(own_line(note, account)), None)
            elif proven.index < log.size and self._nodes(log)(0, proven.index) != proven.leaf_hash:
                side = Side(own_line(note, account), proven.leaf_hash, tuple(proven.path))
                self._remember_fork(account, log, side, proven.index)
        self._changed(account)
        raise PeerRefused("", "the payer has shown two versions of its spend log")

    def believe(self, fault: Fault) -> None:
        """Take in somebody else's proof of a fork: no new business with whom it accuses.

        Raises:
            IntegrityError: it proves nothing.
        """
        check_fork(fault, self.swarm_id)
        with self._transaction():
            self._remember(self._names.id(fault.accused), fault)
        self._changed(fault.accused)

    def hear_time(self, cosigned: Cosigned) -> None:
        """A quorum signed a log just now, whether or not it said anything new."""
        if cosigned.has_quorum:
            with self._transaction():
                self._note_time(cosigned.time_s)

    def _note_time(self, time_s: int) -> None:
        if time_s > self.time_s():
            self._store.execute("DELETE FROM meta WHERE name = 'time'")
            self._store.execute("INSERT INTO meta VALUES ('time', ?)", (time_s.to_bytes(8, "big"),))

    def refold(self) -> None:
        """Fold all balances anew from the steps; nothing changes, unless something was wrong."""
        with self._transaction():
            refold(self._store)

    # --- within ----------------------------------------------------------------------------------

    def _changed(self, account: bytes) -> None:
        for changed in self._watching:
            changed(account)

    def _contradicts(self, log: LogRow, head: Checkpoint, proven: Proven) -> bool:
        if log.size == 0 or log.cut is not None:
            return False
        nodes = self._nodes(log)
        if proven.index < log.size and nodes(0, proven.index) != proven.leaf_hash:
            return True
        return head.size <= log.size and root(head.size, nodes) != head.root

    def _accuse(self, account: bytes, log: LogRow, theirs: Version, index: int) -> Fault:
        place = None if theirs.size == log.noted else index
        return self._remember_fork(account, log, theirs.side(account, place), place)

    def _remember_fork(self, account: bytes, log: LogRow, theirs: Side, index: int | None) -> Fault:
        """index: where they differ; None: they have one size, and need no leaves."""
        try:
            ours = Side(log.note) if index is None else self._side(account, log, index)
            assert ours is not None, "this log was not cut"
            ours = Side(own_line(ours.note, account), ours.leaf_hash, ours.path)
            fault = fork_fault(account, self.swarm_id, ours, theirs, index or 0)
        except DamagedLedger:
            raise
        except IntegrityError as error:  # theirs was seen to hold
            raise self._unlike(account, error) from error
        self._remember(log.acct, fault)
        return fault
