"""How the books of all accounts' spend logs grow: leaves that come, and logs that are cut.

In: leaves that were shown to be under a cosigned checkpoint, or the beginning of what is. Out:
rows, and balances folded on. A leaf is verified once, when it comes. A long log comes in pieces,
each in a transaction of its own: the last leaf of a piece is shown to be in the checkpoint's tree,
so what is before it is, too. Where two branches that both count part, nothing from there on counts,
and all balances are folded anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from ledger.chain import ChainReader, ChainState
from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import BadProof, DamagedLedger
from ledger.forks import Side
from ledger.merkle import (
    appended,
    earlier_path,
    inclusion_proof,
    leaf_hash,
    root,
    root_before,
    verify_inclusion,
)
from ledger.notes import Note
from ledger.parting import Parting, cosigned, shown_before, size_of
from ledger.posting import StepRow, post
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spend_tables import Cached, Leaves, LogRow, Nodes, cached_tables, refold, steps_from
from ledger.spend_views import SpendViews
from ledger.spending import Fault
from ledger.store import Store, damaged
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError

Path = Sequence[bytes]
_OF_A_CHAIN = ("place", "asked", "given_back", "noted", "collected")  # as `ChainState` has them


class SpendGrowth(SpendViews):
    """The writing half of `SpendBooks`, within its transactions."""

    def __init__(self, store: Store, swarm_id: bytes, witnesses: Witnesses) -> None:
        super().__init__(store)
        self.swarm_id, self.witnesses = swarm_id, witnesses

    def shown(self, account: bytes) -> tuple[int, bytes]:
        """How much we have of this log, and the root over it, once a quorum is seen to have signed
        that, or more.

        Raises:
            IntegrityError: it has not.
        """
        log = self._log(self._names.find(account))
        if log.cut is not None:
            rows = self._store.execute("SELECT data FROM parting WHERE acct = ?", (log.acct,))
            if not rows:  # cut before that was kept
                return log.cut, root(log.cut, self._nodes(log))
            return log.cut, Parting.decode(rows[0][0]).check(self.witnesses, self.swarm_id)
        if log.noted == log.size:
            head = cosigned(account, log.note, self.witnesses, self.swarm_id).head
            return head.size, head.root
        side = self._side(account, log, log.size - 1)
        assert side is not None, "it was not cut"
        before = shown_before(account, log.size - 1, side, self.witnesses, self.swarm_id)
        if before != root(log.size - 1, self._nodes(log)):
            raise damaged(self._store.path, f"log {log.acct} is not what was cosigned")
        return log.size, root(log.size, self._nodes(log))

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
        path: Path | None,
    ) -> None:
        fresh = self._grown(log, head.head, leaves, start, path)
        if fresh is None:  # the beginning of what we have
            if log.cut is None and head.head.size > log.noted:
                self._note(log, note)
            return
        last = start + len(leaves) - 1
        parted = Leaves(self._store, log.acct).parted(leaves, start)
        if parted is not None:
            size = head.head.size
            if path is None:
                path = inclusion_proof(last, size, fresh)
            shown = earlier_path(parted, last, size, fresh(0, last), path, fresh)
            self._part(account, log, Side(note, fresh(0, parted), tuple(shown)), parted)
            return
        if log.cut is not None or last < log.size:
            return  # nothing from the cut on counts; nor do we need what we have
        fresh.write()
        self._extend(account, log, leaves[log.size - start :])
        if path is None:
            self._note(log, note)
        else:
            self._store.execute("DELETE FROM ahead WHERE acct = ?", (log.acct,))
            row = (log.acct, self._trimmed(account, note), encode(tuple(path)))
            self._store.execute("INSERT INTO ahead VALUES (?, ?, ?)", row)
            self._save(log)
        tables, write = cached_tables(self._store)
        post([log.acct], tables, self._steps_from, self._readable)
        write()

    def _note(self, log: LogRow, note: str) -> None:
        """This is the checkpoint of what others are told of the log."""
        log.note = note
        self._save(log)
        if log.noted == log.size:
            self._store.execute("DELETE FROM ahead WHERE acct = ?", (log.acct,))

    def _grown(
        self, log: LogRow, head: Checkpoint, leaves: Sequence[bytes], start: int, path: Path | None
    ) -> Nodes | None:
        """The tree with these leaves in place of ours from `start` on; None: ours has it all."""
        size, stop = head.size, start + len(leaves)
        if size <= log.size and root(size, self._nodes(log)) == head.root:
            return None
        fits = stop == size if path is None else start < stop < size
        if not (fits and 0 <= start <= log.size):
            raise BadProof(f"these are not the leaves from {log.size} to {size}: send all of them")
        fresh = self._nodes(log)
        for index, data in enumerate(leaves, start):
            for level, number, hash_ in appended(index, leaf_hash(data), fresh):
                fresh[level, number] = hash_
        if path is not None:
            verify_inclusion(fresh(0, stop - 1), stop - 1, size, path, head.root)
            is_its_beginning = root(stop - 1, fresh) == root_before(stop - 1, size, path)
        else:
            is_its_beginning = root(size, fresh) == head.root
        if not is_its_beginning:
            self._check_own(log)
            raise BadProof("the leaves do not give the checkpoint's root: send all of them")
        return fresh

    def _check_own(self, log: LogRow) -> None:
        """That it is not our own tree which is another than it was."""
        if log.cut is not None or not log.note:
            return
        kept = Checkpoint.parse(Note.parse(log.note).text)
        if kept.size > log.size or root(kept.size, self._nodes(log)) != kept.root:
            raise damaged(self._store.path, f"the tree of log {log.acct} is not what was cosigned")

    def _nodes(self, log: LogRow) -> Nodes:
        return Nodes(self._store, log.acct)

    def _trimmed(self, account: bytes, note: str) -> str:
        """With lines of the log and of witnesses alone: others' could fill what it is shown in."""
        name = origin(self.swarm_id, account, "spend")
        return self.witnesses.add(note, (), name, account)[0]

    # --- two versions ----------------------------------------------------------------------------

    def _part(self, account: bytes, log: LogRow, theirs: Side, index: int) -> None:
        """A quorum signed another version, seen to differ first at this leaf: cut ours there."""
        if log.cut is not None and index >= log.cut:
            return
        if (ours := self._side(account, log, index)) is not None:
            theirs = Side(self._trimmed(account, theirs.note), theirs.leaf_hash, theirs.path)
            parting = Parting(account, index, ours, theirs)
            try:
                parting.check(self.witnesses, self.swarm_id)
            except IntegrityError as error:  # theirs was seen to hold
                raise self._unlike(account, error) from error
            self._keep(log, parting)
        self._cut(log, index)

    def _keep(self, log: LogRow, parting: Parting) -> None:
        self._remember(log.acct, parting.fault(self.swarm_id))
        self._store.execute("DELETE FROM parting WHERE acct = ?", (log.acct,))
        self._store.execute("INSERT INTO parting VALUES (?, ?)", (log.acct, parting.encode()))

    def _side(self, account: bytes, log: LogRow, index: int) -> Side | None:
        """What ours has at a place, under a checkpoint that a quorum signed.

        None: it was cut by a version of Manyhands that did not keep that.
        """
        nodes = self._nodes(log)
        if log.cut is None and index < log.noted:
            note, path = self._trimmed(account, log.note), inclusion_proof(index, log.noted, nodes)
            return Side(note, nodes(0, index), tuple(path))
        if log.cut is not None:
            rows = self._store.execute("SELECT data FROM parting WHERE acct = ?", (log.acct,))
            if not rows:
                return None
            kept = Parting.decode(rows[0][0])
            note, last, leaf, known = kept.one.note, kept.index, kept.one.leaf_hash, kept.one.path
        else:
            rows = self._store.execute("SELECT note, path FROM ahead WHERE acct = ?", (log.acct,))
            if not rows:
                raise damaged(self._store.path, f"log {log.acct} is longer than was cosigned")
            note, last = str(rows[0][0]), log.size - 1
            leaf, known = nodes(0, last), tuple(decode(rows[0][1]))
        path = earlier_path(index, last, size_of(note), leaf, known, nodes)
        return Side(note, nodes(0, index), tuple(path))

    def _unlike(self, account: bytes, error: IntegrityError) -> DamagedLedger:
        reason = f"what it has of {account.hex()[:16]} is not what its checkpoint says: {error}"
        return damaged(self._store.path, reason)

    def _remember(self, acct: int, fault: Fault) -> None:
        self._store.execute(
            "INSERT INTO forked VALUES (?, ?) ON CONFLICT DO NOTHING",
            (acct, encode(fault.to_fields())),
        )

    def _cut(self, log: LogRow, parted: int) -> None:
        """Keep what both branches share. Nothing will be read on: what that needs goes, too."""
        for table in ("leaf", "step"):
            sql = f"DELETE FROM {table} WHERE acct = ? AND idx >= ?"
            self._store.execute(sql, (log.acct, parted))
        sql = "DELETE FROM node WHERE acct = ? AND (idx + 1) << level > ?"
        self._store.execute(sql, (log.acct, parted))
        for table in (*_OF_A_CHAIN, "ahead"):
            self._store.execute(f"DELETE FROM {table} WHERE acct = ?", (log.acct,))
        log.size, log.readable, log.cut = parted, min(log.readable, parted), parted
        self._save(log)
        if self._counted(log.acct) > parted:  # else balances never knew of what goes
            refold(self._store)

    # --- rows ------------------------------------------------------------------------------------

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

    def _save(self, log: LogRow) -> None:
        row = [getattr(log, name) for name in LogRow.__slots__]
        self._store.execute("DELETE FROM log WHERE acct = ?", row[:1])
        self._store.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", row)

    def _steps_from(self, acct: int, place: int) -> Iterable[StepRow]:
        return steps_from(self._store, acct, place)

    def _readable(self, acct: int) -> int:
        rows = self._store.execute("SELECT readable FROM log WHERE acct = ?", (acct,))
        return int(rows[0][0]) if rows else 0
