"""An account's own spend log: what it granted, allotted, deposited and gave back, in order.

In: signed objects. Out: leaves, checkpoints that witnesses cosign, and the tiles others fetch. A
leaf and the checkpoint over it are on disk before either leaves this process, and a checkpoint of
one size is signed once: two of them would be a fork, and there is no taking it back. So a log that
knows less than was signed before, here or as a witness remembers, signs nothing.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from ledger.beside import begun
from ledger.checkpoint import Checkpoint
from ledger.cosigning import Cosigned, Witnesses
from ledger.funding import SpendProof
from ledger.merkle import EMPTY_ROOT, appended, consistency_proof, inclusion_proof, leaf_hash
from ledger.notes import NoteSignature
from ledger.own_chain import OwnChain
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.store import Store, damaged
from ledger.tiles import WIDTH, Tile, bundle, tile_bytes
from ledger.tree_log import OwnLog
from ledger.witness import AddCheckpoint
from protocol.canonical import MAX_UINT
from protocol.errors import IntegrityError, UsageError
from protocol.signing import Envelope, SigningKey

FILE_NAME, HEAD_NAME = "spend.sqlite", "spend.checkpoint"
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leaf (
    idx INTEGER PRIMARY KEY, oid BLOB NOT NULL UNIQUE, data BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS node (
    level INTEGER NOT NULL, idx INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checkpoint (
    size INTEGER PRIMARY KEY, note TEXT NOT NULL
) STRICT
"""


class SpendLog(OwnLog):
    """The spend log of the account whose key we hold. Use `open`, and `close` in the end."""

    kind, table, head_name = "spend", "leaf", HEAD_NAME

    def __init__(self, directory: Path, store: Store, key: SigningKey, swarm_id: bytes) -> None:
        super().__init__(directory, store, key, swarm_id)
        self._chain = OwnChain(self.account, swarm_id)
        self._blank = ""  # the checkpoint of no entries, as far as it is cosigned; see `request`

    @classmethod
    def open(cls, directory: Path, key: SigningKey, swarm_id: bytes) -> Self:
        """Open or begin the account's spend log.

        Raises:
            DamagedLedger: the database is truncated or corrupt, or older than the last checkpoint.
            ForeignLedger: it belongs to another identity or swarm.
            ConfigError: the directory cannot be written.
        """
        with begun(directory, FILE_NAME, HEAD_NAME, SCHEMA) as store:
            log = cls(directory, store, key, swarm_id)
            log._make_sure()
        return log

    # --- writing ---------------------------------------------------------------------------------

    def append(self, *envelopes: Envelope) -> str:
        """Log these objects and sign the new tree head, which is returned; all or none.

        What readers would end the log at is refused: it would take all later entries with it.

        Raises:
            IntegrityError: one is malformed, not signed by us (and whom else it needs), or breaks
                a rule of the log; or one that is there already does.
            UsageError: one is in the log already.
            DamagedLedger: the tree does not match its last checkpoint, so we sign no more.
            ConfigError, OutOfMemory: what is beside the database cannot be written. The entries
                may be logged then; nothing signed leaves before it can.
        """
        if not envelopes:
            return self.checkpoint() or ""
        with self._store.transaction():
            size = self._sound_size()
            previous = leaf_hash(self._leaf(size - 1)) if size else NO_LEAF
            fresh = []
            for index, envelope in enumerate(envelopes, size):
                fresh.append(SpendLeaf(index, previous, envelope))
                previous = self._insert(fresh[-1])
            accepted = self._chain.read(fresh, lambda index: SpendLeaf.decode(self._leaf(index)))
            grown = size + len(envelopes)
            note = self._sign(grown, self._node_at)
        accepted()
        self._beside.keep(grown)
        return note

    def add_cosignatures(self, lines: Iterable[NoteSignature], witnesses: Witnesses) -> Cosigned:
        """Keep what witnesses signed of our latest checkpoint.

        Lines of others, and such as do not hold, are passed over: they stop nobody else's.
        """
        with self._store.transaction():
            size = self._sound_size()
            note, cosigned = witnesses.add(self._note(size), lines, self.origin, self.account)
            if size:
                self._store.execute("UPDATE checkpoint SET note = ? WHERE size = ?", (note, size))
            else:
                self._blank = note
        return cosigned

    # --- reading ---------------------------------------------------------------------------------

    def checkpoint(self) -> str | None:
        """The latest, with the cosignatures it has so far."""
        if (latest := self._latest()) is None:
            return None
        self._beside.keep(latest[0])
        return latest[1]

    def checkpoint_of(self, size: int) -> str:
        """The one of our first `size` entries, which was signed as the log was so long."""
        with self._store.snapshot():
            return self._note(size)

    def holds(self, oid: bytes) -> bool:
        """Whether this object is an entry."""
        return bool(self._store.execute("SELECT 1 FROM leaf WHERE oid = ?", (oid,)))

    def asked(self, allot_oid: bytes) -> int:
        """What deposits and collections in this log asked of an allotment so far."""
        with self._store.snapshot():
            size = self._sound_size()
            return self._chain.asked(
                allot_oid, size, lambda index: SpendLeaf.decode(self._leaf(index))
            )

    def leaves(self, start: int = 0, stop: int = MAX_UINT) -> list[bytes]:
        rows = self._store.execute(
            "SELECT data FROM leaf WHERE idx >= ? AND idx < ? ORDER BY idx", (start, stop)
        )
        return [data for (data,) in rows]

    def request(self, old: int) -> AddCheckpoint:
        """What to ask a witness that signed `old` entries last. A log without entries can be
        cosigned, too: it proves nothing but what time it is."""
        with self._store.snapshot():
            size = self._sound_size()
            if not 0 <= old <= size:
                raise damaged(self._store.path, f"a witness signed {old} entries, it has {size}")
            path = consistency_proof(old, size, self._node_at) if old else []
            note = self._note(size)
        if size:
            self._beside.keep(size)
        return AddCheckpoint(old, tuple(path), note)

    def greeting(self) -> AddCheckpoint:
        """A request for what a witness signed already, if it knows our log as we do: asked before
        the first append after a start, its answer tells of a copy that was put back."""
        return self.request(len(self))

    def check_size(self, signed: int, *, is_other: bool) -> None:
        """A witness signed so many entries. is_other: and not ours of that size.

        Raises:
            DamagedLedger: we know fewer, or others: to sign again would be a fork.
        """
        if signed > len(self) or is_other:
            others = " other" if is_other else ""
            reason = f"a witness signed {signed}{others} entries of it, it has {len(self)}"
            raise damaged(self._store.path, reason)

    def prove(self, oid: bytes) -> SpendProof:
        """That this object is in the log, under the latest checkpoint.

        Raises:
            UsageError: it is not.
        """
        with self._store.snapshot():
            rows = self._store.execute("SELECT idx, data FROM leaf WHERE oid = ?", (oid,))
            if not rows:
                raise UsageError(f"the spend log has no entry {oid.hex()}")
            size = self._sound_size()
            path = inclusion_proof(rows[0][0], size, self._node_at)
            note = self._note(size)
        self._beside.keep(size)
        return SpendProof(rows[0][1], tuple(path), note)

    def path_to(self, index: int, size: int) -> list[bytes]:
        """That this entry is in the tree of our first `size` ones."""
        with self._store.snapshot():
            return inclusion_proof(index, size, self._node_at)

    def fetch(self, path: str) -> bytes:
        """The bytes at a path of C2SP tlog-tiles: `checkpoint`, `tile/…`.

        Raises:
            UsageError: there is nothing there.
        """
        if path == "checkpoint" and (note := self.checkpoint()) is not None:
            return note.encode()
        with self._store.snapshot():
            size = len(self)
            try:
                tile = Tile.parse(path)
            except IntegrityError as error:
                raise UsageError(f"a log has no {path[:80]}") from error
            if tile.width > tile.width_at(size):
                raise UsageError(f"the log is not as long as {path}")
            if tile.level is not None:
                return tile_bytes(tile, self._node_at)
            start = tile.index * WIDTH
            return bundle(self.leaves(start, start + tile.width))

    # --- within ----------------------------------------------------------------------------------

    def _insert(self, leaf: SpendLeaf) -> bytes:
        data, oid = leaf.encode(), leaf.envelope.object_id(self.swarm_id)
        if self._store.execute("SELECT 1 FROM leaf WHERE oid = ?", (oid,)):
            raise UsageError(f"the spend log has {oid.hex()} already; an object counts once")
        self._store.execute("INSERT INTO leaf VALUES (?, ?, ?)", (leaf.index, oid, data))
        hash_ = leaf_hash(data)
        for node in appended(leaf.index, hash_, self._node_at):
            self._store.execute("INSERT INTO node VALUES (?, ?, ?)", node)
        return hash_

    def _leaf(self, index: int) -> bytes:
        rows = self._store.execute("SELECT data FROM leaf WHERE idx = ?", (index,))
        if not rows:
            raise damaged(self._store.path, f"entry {index} is missing")
        if leaf_hash(rows[0][0]) != self._node_at(0, index):
            raise damaged(self._store.path, f"entry {index} is not what was signed")
        return bytes(rows[0][0])

    def _note(self, size: int) -> str:
        if not size:  # there is one such tree: to sign it again is no fork
            head = Checkpoint(self.origin, 0, EMPTY_ROOT)
            self._blank = self._blank or head.sign(self._key)
            return self._blank
        rows = self._store.execute("SELECT note FROM checkpoint WHERE size = ?", (size,))
        if not rows:
            raise damaged(self._store.path, f"the checkpoint of {size} entries is missing")
        return str(rows[0][0])
