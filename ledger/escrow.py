"""What a payee's open tabs may still claim of allotments, so that all together never pass one.

In: what payers show when they ask for a session, and what it can cost at most. Out: holds, each a
tab's part of an allotment: taken when the session is admitted, and let go, but for what was
promised, when its tab closes. What closed tabs claim is kept in the books, what open ones hold in
memory: a process that ends has no open tabs.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock

from ledger.fold import TabClaim
from ledger.funding import Lent, Purse, SpendProof
from ledger.notes import Note
from ledger.owed import owed_entries
from ledger.reader import LedgerReader
from protocol.errors import NotFunded, PeerRefused


@dataclass(eq=False, slots=True)
class Hold:
    """One tab's part of an allotment. amount: what it may claim so far."""

    oid: bytes
    checkpoint_hash: bytes  # of the payer's spend log, as terms cite it
    amount: int
    payer: bytes
    lent: Lent | None = None  # where another key than the payer's promises


@dataclass(slots=True)
class _Account:
    """Of one allotment. limit: what tabs that are open now may claim of it, all together."""

    limit: int = 0
    held: int = 0  # the sum of these
    holds: set[Hold] = field(default_factory=set)

    @property
    def free(self) -> int:
        return self.limit - self.held


class Escrow:
    """Of one payee. What waits for a disk says so: call it on a thread."""

    def __init__(self, purse: Purse) -> None:
        self.purse = purse
        self._accounts: defaultdict[bytes, _Account] = defaultdict(_Account)
        self._exposed: defaultdict[tuple[bytes, bytes], int] = defaultdict(int)  # by closed tabs
        self._turn = Lock()  # of who asks the books: nothing is claimed between question and answer
        self._lock = Lock()

    def hold(
        self,
        proof: SpendProof,
        payer: bytes,
        epoch: int,
        amount: int,
        *,
        key: bytes = b"",
        until_ms: int = 0,
    ) -> Hold:
        """Set `amount` ncr of what a payer shows aside for a new tab. Waits for the disk.

        key: who promises on it, where that is not the payer itself; until_ms: until when.

        Raises:
            IntegrityError, LogNeeded, NotFunded: as `Purse.judge`.
            NotFunded: it is good, and less than that is left of it.
            PeerRefused: this key may not promise so much for the payer.
        """
        with self._turn:
            funded = self.purse.judge(proof, payer, epoch)
            lent = self.purse.lent(proof, payer, key, until_ms) if key not in (b"", payer) else None
            with self._lock:
                if lent is not None:
                    self._exposed[payer, lent.key] = lent.exposed
                    self._check_exposure(payer, lent, amount)
                account = self._accounts[funded.oid]
                account.limit = funded.limit_ncr
                if amount > account.free:
                    left = max(0, account.free)
                    self._forget(funded.oid)
                    raise NotFunded(
                        "",
                        f"the session may cost {amount} ncr, {left} are left of the allotment",
                        hint="set more aside with --allot, or ask for fewer tokens",
                    )
                cited = checkpoint_hash(proof.checkpoint)
                hold = Hold(funded.oid, cited, amount, payer, lent)
                account.holds.add(hold)
                account.held += amount
                return hold

    def learn(self, payer: bytes, proof: SpendProof, leaves: Sequence[bytes], start: int) -> None:
        """Take in the payer's spend log from `start` on, up to the proof. Waits for the disk.

        Raises:
            IntegrityError: the leaves do not lead there, or no quorum signed that.
        """
        self.purse.books.learn(payer, proof.checkpoint, leaves, start=start)

    def raise_to(self, hold: Hold, amount: int) -> bool:
        """Let a tab claim up to `amount`, if so much is left. At once."""
        with self._lock:
            account = self._accounts.get(hold.oid)
            if account is None or hold not in account.holds:
                return False  # its tab is closed
            more = max(0, amount - hold.amount)
            if more > account.free:
                return False
            if hold.lent and more > self._room(hold.payer, hold.lent):
                return False
            hold.amount += more
            account.held += more
            return True

    def recover(self, ledger: LedgerReader) -> None:
        """Claim what our receipts say that tabs came to, also those that a dead process left open.

        Before the first hold. Waits for the disk.
        """
        books, payee, size = self.purse.books, self.purse.payee, len(ledger)
        found = owed_entries(ledger, self.purse.policy, books.claimed_upto())
        claims = [
            TabClaim(tab.session_id, tab.allot_oid, tab.amount, pair.payer, tab.key)
            for _, pair, tab in found
            if pair.payee == payee
        ]
        books.claim(claims, upto=size)

    def close(self, hold: Hold, session_id: bytes, promised: int) -> None:
        """The tab closed with this voucher; the rest is free again. Waits for the disk."""
        with self._turn:
            if promised:
                key = hold.lent.key if hold.lent else b""
                claim = TabClaim(session_id, hold.oid, promised, hold.payer, key)
                self.purse.books.claim([claim])
            with self._lock:
                self._accounts[hold.oid].limit -= promised
                if hold.lent:
                    self._exposed[hold.payer, hold.lent.key] += promised
            self.drop(hold)

    def drop(self, hold: Hold) -> None:
        """Nothing was promised on it, or what was is claimed. At once."""
        with self._lock:
            account = self._accounts[hold.oid]
            if hold in account.holds:
                account.holds.discard(hold)
                account.held -= hold.amount
            self._forget(hold.oid)

    def held(self, oid: bytes) -> int:
        """What open tabs may still claim of an allotment."""
        with self._lock:
            return self._accounts[oid].held if oid in self._accounts else 0

    def _check_exposure(self, payer: bytes, lent: Lent, amount: int) -> None:
        if amount > (room := self._room(payer, lent)):
            raise PeerRefused(
                "",
                f"the session may cost {amount} ncr, and its key may promise {max(0, room)} more"
                f" for the account before that settles (its exposure is {lent.max_exposure})",
                hint="its owner settles (manyhands ledger settle), or lets it promise more",
            )

    def _room(self, payer: bytes, lent: Lent) -> int:
        """What its key may promise us besides."""
        held = sum(
            each.amount
            for account in self._accounts.values()
            for each in account.holds
            if each.lent and (each.payer, each.lent.key) == (payer, lent.key)
        )
        return lent.max_exposure - self._exposed[payer, lent.key] - held

    def _forget(self, oid: bytes) -> None:
        if not self._accounts[oid].holds:
            del self._accounts[oid]


def checkpoint_hash(note: str) -> bytes:
    """What terms cite of a checkpoint: its text without signatures, which may become more."""
    return sha256(Note.parse(note).text.encode()).digest()
