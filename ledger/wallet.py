"""What a payer set aside for whom, and what its tabs took of it: allotments, ready to be shown.

In: the account's own spend log, the books of its credit, what sessions can cost. Out: stakes, each
a part of an allotment that one tab may promise, with the proof that convinces its payee. Several
processes share a wallet; each step is one short transaction. The allotments are the log's, and read
from it: what stands here besides is how much of each was promised already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import Protocol, Self

from ledger.checkpoint import origin
from ledger.escrow import checkpoint_hash
from ledger.funding import SpendProof
from ledger.owners import Owner, if_gone
from ledger.policy import Policy
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import SpendLeaf
from ledger.spend_log import SpendLog
from ledger.spending import Allotment, open_spending
from ledger.store import Store, translated
from protocol.canonical import MAX_UINT
from protocol.errors import IntegrityError, NotFunded, UsageError
from protocol.identity import peer_id_from_public_key
from protocol.signing import Envelope, SigningKey

FILE_NAME = "wallet.sqlite"
FEW = 4  # sessions that one allotment is made to last for, if there is credit
BELIEVED = 2  # allotments that a payee says are used up, against what we know
AHEAD_EPOCHS = 1  # an allotment is good for this epoch and so many more
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY, value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS allot (
    oid BLOB PRIMARY KEY, payee BLOB NOT NULL, asset BLOB NOT NULL, amount INTEGER NOT NULL,
    expires INTEGER NOT NULL, proof BLOB, promised INTEGER NOT NULL DEFAULT 0,
    is_written_off INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stake (
    name BLOB PRIMARY KEY, oid BLOB NOT NULL, amount INTEGER NOT NULL, owner TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Stake:
    """A tab's part of an allotment: what its payer may promise, and what it shows for that."""

    name: bytes
    oid: bytes
    asset: bytes
    amount: int
    proof: bytes  # an encoded `SpendProof`
    payer: bytes  # whose allotment it is: another account's, where our key pays for that

    @property
    def checkpoint_hash(self) -> bytes:
        return checkpoint_hash(SpendProof.decode(self.proof).checkpoint)

    def covers(self, cost: int) -> bool:
        return cost <= self.amount


class WalletLog(Protocol):
    """The spend log that a wallet's allotments stand in: see `SpendLog`."""

    @property
    def account(self) -> bytes: ...
    @property
    def swarm_id(self) -> bytes: ...
    def __len__(self) -> int: ...
    def append(self, *envelopes: Envelope) -> str: ...
    def checkpoint(self) -> str | None: ...
    def leaves(self, start: int = 0, stop: int = MAX_UINT) -> list[bytes]: ...
    def prove(self, oid: bytes) -> SpendProof: ...
    def close(self) -> None: ...


class Wallet:
    """Of one account in one swarm. Use `open`, and `close` in the end. It waits for disks."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        log: WalletLog,
        books: SpendBooks,
        key: SigningKey | None = None,
    ) -> None:
        """key: the account's own, with which allotments are signed."""
        self.log, self.books = log, books
        self._key = key
        self._store, self._owner, self._directory = store, Owner(directory), directory

    @classmethod
    def open(cls, directory: Path, key: SigningKey, swarm_id: bytes, policy: Policy) -> Self:
        """With the log and the books that lie in the same directory.

        Raises:
            DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: one of them cannot be used.
        """
        log = SpendLog.open(directory, key, swarm_id)
        try:
            books = SpendBooks.open(directory, swarm_id, policy.quorum())
            try:
                path = directory / FILE_NAME
                with translated(path):
                    store = Store.open(path, create=True, schema=SCHEMA)
                wallet = cls(directory, store, log, books, key)
            except BaseException:
                books.close()
                raise
        except BaseException:
            log.close()
            raise
        wallet.close_abandoned()
        return wallet

    def close(self) -> None:
        self._owner.release()
        for each in (self._store, self.books, self.log):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- credit ----------------------------------------------------------------------------------

    def available(self, asset: bytes) -> int:
        """What may still be set aside: the books' word, less what they have not been told of."""
        account = self.log.account
        known = self.books.size(account)
        if self.books.counted(account) < known:
            return 0  # an entry is beyond our credit, and holds up all that follows
        made = sum(each.amount for _, each in self.made(known) if each.asset == asset)
        return self.books.available(account, asset) - made

    def make(self, wants: Mapping[bytes, int], asset: bytes, epoch: int, least: int = 0) -> None:
        """Set aside for each payee what it needs, and for later sessions what credit allows.

        Nobody may claim it before a quorum of witnesses signed that: see `ready`.

        Raises:
            NotFunded: there is not so much credit; nothing is set aside.
        """
        assert self._key is not None, "only the account's own key sets its credit aside"
        with self._store.transaction():  # one process at a time looks what there is, and takes it
            need, there_is = sum(wants.values()), self.available(asset)
            if need > there_is:
                raise NotFunded(
                    "",
                    f"the session may cost {need} ncr, and there are {max(0, there_is)} of credit",
                    hint="ask your issuer for a grant: manyhands ledger grant "
                    f"{peer_id_from_public_key(self.log.account)} AMOUNT, where its key is",
                )
            wished = {payee: max(FEW * amount, least) for payee, amount in wants.items()}
            # Half of the rest stays: whoever takes the place of a hop that dies is paid, too.
            spare, wish = (there_is - need) // 2, sum(wished.values()) - need
            fresh = []
            for number, (payee, amount) in enumerate(sorted(wants.items()), len(self.log)):
                more = wished[payee] - amount
                more = more if wish <= spare else more * spare // wish
                allotment = Allotment(
                    payer=self.log.account,
                    asset=asset,
                    payee=payee,
                    allot_no=number,
                    amount=amount + more,
                    expires_epoch=epoch + AHEAD_EPOCHS,
                )
                fresh.append(allotment.seal(self.log.swarm_id, self._key))
            self.log.append(*fresh)
            self._read_log()

    def ready(self) -> bool:
        """Prove the allotments that a quorum signed; whether those are all there are."""
        self.learn()
        with self._store.transaction():
            self._read_log()
            rows = self._store.execute("SELECT oid FROM allot WHERE proof IS NULL")
            for (oid,) in rows:
                proof = self.log.prove(oid)
                if not self._is_signed(proof.checkpoint):
                    return False
                sql = "UPDATE allot SET proof = ? WHERE oid = ?"
                self._store.execute(sql, (proof.encode(), oid))
        return True

    def learn(self) -> None:
        """Tell our own books of our own log, as far as a quorum signed it."""
        note, account = self.log.checkpoint(), self.log.account
        if note is not None and self._is_signed(note):
            start = self.books.size(account)
            self.books.learn(account, note, self.log.leaves(start), start=start)

    # --- stakes ----------------------------------------------------------------------------------

    def take(self, payee: bytes, asset: bytes, amount: int, epoch: int) -> Stake | None:
        """A part of an allotment to this payee; None: there is none with so much left."""
        with self._store.transaction(durable=False):
            self._owner.hold()  # one thread at a time: two would wait for each other's lock
            self._store.execute("DELETE FROM allot WHERE expires < ?", (epoch,))
            rows = self._store.execute(
                "SELECT oid, proof FROM allot WHERE payee = ? AND asset = ? AND proof IS NOT NULL"
                " AND amount - promised >= ? +"
                " (SELECT coalesce(sum(amount), 0) FROM stake WHERE stake.oid = allot.oid)"
                " ORDER BY expires, amount - promised LIMIT 1",
                (payee, asset, amount),
            )
            if not rows:
                return None
            oid, proof = rows[0]
            stake = Stake(token_bytes(16), oid, asset, amount, proof, self.log.account)
            self._store.execute(
                "INSERT INTO stake VALUES (?, ?, ?, ?)",
                (stake.name, stake.oid, amount, self._owner.name),
            )
            return stake

    def largest(self, payee: bytes, asset: bytes, epoch: int) -> int:
        """How much one stake can be at most."""
        rows = self._store.execute(
            "SELECT amount - promised -"
            " (SELECT coalesce(sum(amount), 0) FROM stake WHERE stake.oid = allot.oid)"
            " FROM allot WHERE payee = ? AND asset = ? AND expires >= ? AND proof IS NOT NULL",
            (payee, asset, epoch),
        )
        return max((int(left) for (left,) in rows), default=0)

    def settle(self, stake: Stake, promised: int) -> None:
        """The tab closed with this voucher; what is left of its part is free again."""
        with self._store.transaction(durable=False):
            if self._store.execute("SELECT 1 FROM stake WHERE name = ?", (stake.name,)):
                self._promise(stake.oid, promised)
                self._store.execute("DELETE FROM stake WHERE name = ?", (stake.name,))

    def used_up(self, stake: Stake) -> bool:
        """Its payee says that so much is not left of it: it knows tabs that we forgot.

        A payee that lies strands what was set aside for it, so it is believed `BELIEVED` times
        while its allotments last; then this is False, and nothing is written off.
        """
        with self._store.transaction():
            counting = (
                "SELECT count(*) FROM allot WHERE is_written_off AND payee ="
                " (SELECT payee FROM allot WHERE oid = ?)"
            )
            if self._store.execute(counting, (stake.oid,))[0][0] >= BELIEVED:
                return False
            sql = "UPDATE allot SET promised = amount, is_written_off = 1 WHERE oid = ?"
            self._store.execute(sql, (stake.oid,))
            return True

    def leaves_for(self, stake: Stake, start: int) -> list[bytes]:
        """Of our log, up to the checkpoint that the stake is proved by.

        Raises:
            UsageError: nobody who asks from there on knows our log.
        """
        size = int(SpendProof.decode(stake.proof).checkpoint.split("\n")[1])
        if not 0 <= start < size:
            raise UsageError(f"a log of {size} entries has none from {start} on")
        return self.log.leaves(start, size)

    # --- within ----------------------------------------------------------------------------------

    def made(self, start: int = 0) -> list[tuple[bytes, Allotment]]:
        """The allotments that stand in our log from there on, with their ids."""
        return self._among(self.log.leaves(start))

    def _among(self, leaves: Sequence[bytes]) -> list[tuple[bytes, Allotment]]:
        found = []
        for data in leaves:
            envelope = SpendLeaf.decode(data).envelope
            if envelope.type == Allotment.TYPE:
                entry = open_spending(envelope, self.log.account, self.log.swarm_id)
                assert isinstance(entry, Allotment)
                found.append((envelope.object_id(self.log.swarm_id), entry))
        return found

    def _read_log(self) -> None:
        """Take in allotments that stand in the log since we looked, whoever made them."""
        rows = self._store.execute("SELECT value FROM meta WHERE name = 'read'")
        start = int(rows[0][0]) if rows else 0
        leaves = self.log.leaves(start)  # others may append meanwhile: what we see counts
        self._store.execute_many(
            "INSERT OR IGNORE INTO allot (oid, payee, asset, amount, expires)"
            " VALUES (?, ?, ?, ?, ?)",
            (
                (oid, each.payee, each.asset, each.amount, each.expires_epoch)
                for oid, each in self._among(leaves)
            ),
        )
        read = start + len(leaves)
        self._store.execute("INSERT OR REPLACE INTO meta VALUES ('read', ?)", (read,))

    def _is_signed(self, note: str) -> bool:
        account = self.log.account
        name = origin(self.log.swarm_id, account, "spend")
        try:
            return self.books.witnesses.open(note, name, account).has_quorum
        except IntegrityError:
            return False

    def _promise(self, oid: bytes, amount: int) -> None:
        sql = "UPDATE allot SET promised = min(amount, promised + ?) WHERE oid = ?"
        self._store.execute(sql, (amount, oid))

    def close_abandoned(self) -> None:
        """Stakes of processes that died count as promised: what their tabs came to, payees know."""
        for (owner,) in self._store.execute("SELECT DISTINCT owner FROM stake"):
            if_gone(self._directory, owner, partial(self._give_up, owner))

    def _give_up(self, owner: str) -> None:
        with self._store.transaction():
            rows = self._store.execute("SELECT oid, amount FROM stake WHERE owner = ?", (owner,))
            for oid, amount in rows:
                self._promise(oid, amount)
            self._store.execute("DELETE FROM stake WHERE owner = ?", (owner,))
