"""What a node knows of all accounts' spend logs, and the balances they come to, in one file.

In: leaves of an account's log, with a checkpoint that a quorum cosigned. Out: who may spend how
much and what became of each allotment, kept up to date: always what `fold.fold` would say of the
same logs. A leaf is verified once, when it comes. Where two branches that both count part, too many
witnesses lied: nothing from there on counts, and all balances are folded anew.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from ledger.beside import begun, claim
from ledger.chain import ChainReader, ChainState
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import BadProof, DamagedLedger
from ledger.fold import TabClaim
from ledger.forks import Proven, Side, Version, check_fork, fork_fault, own_line
from ledger.merkle import appended, leaf_hash, root
from ledger.notes import Note
from ledger.posting import StepRow, post
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spend_tables import (
    SCHEMA,
    Cached,
    Leaves,
    LogRow,
    Nodes,
    cached_tables,
    refold,
    steps_from,
)
from ledger.spend_views import SpendViews
from ledger.spending import Fault
from ledger.store import Store, damaged
from protocol.canonical import encode
from protocol.errors import IntegrityError, PeerRefused

FILE_NAME = "spending.sqlite"
_OF_A_CHAIN = ("place", "asked", "given_back", "noted", "collected")  # as `ChainState` has them


class SpendBooks(SpendViews):
    """Use `open`, and `close` in the end."""

    def __init__(self, store: Store, swarm_id: bytes, witnesses: Witnesses) -> None:
        super().__init__(store)
        self.swarm_id, self.witnesses = swarm_id, witnesses
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

    def learn(self, account: bytes, note: str, leaves: Sequence[bytes], *, start: int = 0) -> int:
        """Take in a log's leaves from `start` on, up to the size that its checkpoint says.

        Returns how many entries of it count for balances now.

        Raises:
            IntegrityError: the checkpoint is not the account's, has no quorum, or does not fit the
                leaves; then it may help to send all of them, from the first on.
        """
        head = self.witnesses.open(note, origin(self.swarm_id, account, "spend"), account)
        if not head.has_quorum:
            raise BadProof(f"{len(head.times_s)} witnesses signed, {self.witnesses.quorum_k} must")
        with self._transaction():
            self._note_time(head.time_s)
            acct = self._names.id(account)
            self._learn(account, self._log(acct), head, note, leaves, start)
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
            fresh = self._grown(log, head, leaves, start)
            parted = None if fresh is None else Leaves(self._store, log.acct).parted(leaves, start)
            if fresh is None or parted is None:
                return None
            fault = self._accuse(account, log, Version(note, head.head.size, fresh), parted)
        self._changed(account)
        return fault

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
            elif head.size == log.size:
                self._remember_fork(account, log, Side(own_line(note, account)), None)
            elif self._nodes(log)(0, proven.index) != proven.leaf_hash:
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

    def notes_of(self, payee: bytes) -> dict[bytes, int]:
        """By tab, what this payee's log takes off it, as far as that counts."""
        rows = self._store.execute(
            "SELECT n.oid, max(n.amount) FROM step n JOIN counted c ON c.acct = n.acct"
            " WHERE n.kind = 5 AND n.acct = ? AND n.idx < c.n GROUP BY n.oid",
            (self._names.find(payee),),
        )
        return dict(rows)

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._store.transaction():
                yield
        except BaseException:
            self._names.forget()  # those that it gave out were taken back
            raise

    def _learn(
        self,
        account: bytes,
        log: LogRow,
        head: Cosigned,
        note: str,
        leaves: Sequence[bytes],
        start: int,
    ) -> None:
        fresh = self._grown(log, head, leaves, start)
        if fresh is None:
            return  # the beginning of what we have
        parted = Leaves(self._store, log.acct).parted(leaves, start)
        if parted is not None:
            if log.cut is None:
                self._accuse(account, log, Version(note, head.head.size, fresh), parted)
            self._cut(log, parted)
            return
        if log.cut is not None:
            return  # nothing from there on counts
        fresh.write()
        self._extend(account, log, leaves[log.size - start :])
        log.note = note
        self._save(log)
        tables, write = cached_tables(self._store)
        post([log.acct], tables, self._steps_from, self._readable)
        write()

    def _grown(
        self, log: LogRow, head: Cosigned, leaves: Sequence[bytes], start: int
    ) -> Nodes | None:
        """The tree with these leaves in place of ours from `start` on; None: ours has it all."""
        size = head.head.size
        if size <= log.size and root(size, self._nodes(log)) == head.head.root:
            return None
        if not 0 <= start <= log.size or len(leaves) != size - start:
            raise BadProof(f"these are not the leaves from {log.size} to {size}: send all of them")
        fresh = self._nodes(log)
        for index, data in enumerate(leaves, start):
            for level, number, hash_ in appended(index, leaf_hash(data), fresh):
                fresh[level, number] = hash_
        if root(size, fresh) != head.head.root:
            self._check_own(log)
            raise BadProof("the leaves do not give the checkpoint's root: send all of them")
        return fresh

    def _check_own(self, log: LogRow) -> None:
        """That it is not our own tree which is another than it was."""
        if log.cut is not None or not log.note:
            return
        kept = Checkpoint.parse(Note.parse(log.note).text)
        if (log.size, root(log.size, self._nodes(log))) != (kept.size, kept.root):
            raise damaged(self._store.path, f"the tree of log {log.acct} is not what was cosigned")

    def _nodes(self, log: LogRow) -> Nodes:
        return Nodes(self._store, log.acct)

    def _contradicts(self, log: LogRow, head: Checkpoint, proven: Proven) -> bool:
        if log.size == 0 or log.cut is not None:
            return False
        nodes = self._nodes(log)
        if proven.index < log.size and nodes(0, proven.index) != proven.leaf_hash:
            return True
        return head.size <= log.size and root(head.size, nodes) != head.root

    def _accuse(self, account: bytes, log: LogRow, theirs: Version, index: int) -> Fault:
        place = None if theirs.size == log.size else index
        return self._remember_fork(account, log, theirs.side(account, place), place)

    def _remember_fork(self, account: bytes, log: LogRow, theirs: Side, index: int | None) -> Fault:
        """index: where they differ; None: they have one size, and need no leaves."""
        ours = Version(log.note, log.size, self._nodes(log))
        try:
            fault = fork_fault(
                account, self.swarm_id, ours.side(account, index), theirs, index or 0
            )
        except IntegrityError as error:  # theirs was seen to hold
            reason = f"what it has of {account.hex()[:16]} is not what its checkpoint says: {error}"
            raise damaged(self._store.path, reason) from error
        self._remember(log.acct, fault)
        return fault

    def _remember(self, acct: int, fault: Fault) -> None:
        self._store.execute(
            "INSERT INTO forked VALUES (?, ?) ON CONFLICT DO NOTHING",
            (acct, encode(fault.to_fields())),
        )

    def _extend(self, account: bytes, log: LogRow, leaves: Sequence[bytes]) -> None:
        """Keep these leaves, and read them up to the first that breaks a rule."""
        self._store.execute_many(
            "INSERT INTO leaf VALUES (?, ?, ?)",
            ((log.acct, index, data) for index, data in enumerate(leaves, log.size)),
        )
        tables: list[Cached[bytes, int]] = [
            Cached(self._store, table, (log.acct,)) for table in _OF_A_CHAIN
        ]
        reader = ChainReader(account, self.swarm_id, ChainState(log.granted, *tables))
        ours = Leaves(self._store, log.acct)
        previous = ours(log.size - 1).hash() if log.is_whole and log.size else NO_LEAF
        steps = []
        is_whole = log.is_whole
        try:
            for index, data in enumerate(leaves, log.size):
                if not is_whole:
                    break
                leaf = SpendLeaf.decode(data)
                if (leaf.index, leaf.previous) != (index, previous):
                    break
                for sub, step in enumerate(reader.read(leaf, ours)):
                    party, asset = self._names.id(step.party), self._names.id(step.asset)
                    steps.append(
                        (log.acct, index, sub, int(step.kind), step.oid, party, asset, step.amount)
                    )
                log.readable, previous = index + 1, leaf_hash(data)
        except DamagedLedger:
            raise  # it is our disk that broke, not the account its rule
        except IntegrityError:
            pass  # nothing from this leaf on counts
        self._store.execute_many("INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)", steps)
        for table in tables:
            table.write()
        log.size, log.granted = log.size + len(leaves), reader.state.granted

    def _cut(self, log: LogRow, parted: int) -> None:
        """Keep what both branches share. Nothing will be read on: what that needs goes, too."""
        for table in ("leaf", "step"):
            sql = f"DELETE FROM {table} WHERE acct = ? AND idx >= ?"
            self._store.execute(sql, (log.acct, parted))
        sql = "DELETE FROM node WHERE acct = ? AND (idx + 1) << level > ?"
        self._store.execute(sql, (log.acct, parted))
        for table in _OF_A_CHAIN:
            self._store.execute(f"DELETE FROM {table} WHERE acct = ?", (log.acct,))
        log.size, log.readable, log.cut = parted, min(log.readable, parted), parted
        self._save(log)
        if self._counted(log.acct) > parted:  # else balances never knew of what goes
            refold(self._store)

    def _save(self, log: LogRow) -> None:
        row = [getattr(log, name) for name in LogRow.__slots__]
        self._store.execute("DELETE FROM log WHERE acct = ?", row[:1])
        self._store.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", row)

    def _steps_from(self, acct: int, place: int) -> Iterable[StepRow]:
        return steps_from(self._store, acct, place)

    def _readable(self, acct: int) -> int:
        rows = self._store.execute("SELECT readable FROM log WHERE acct = ?", (acct,))
        return int(rows[0][0]) if rows else 0
