"""Whether there is credit behind a session: what a payer shows, and how a payee judges it.

In: an allotment with its path to a checkpoint of the payer's spend log. Out: how much may be
claimed of it. The request path needs no third party: the witnesses were asked when the allotment
was made. A payee that does not know the log so far has to fetch it first; it is small.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from ledger.checkpoint import Checkpoint, origin
from ledger.cosigning import Cosigned, Witnesses
from ledger.errors import BadProof, KeyNotValid
from ledger.forks import Proven
from ledger.mandates import NOTHING_TOLD, PAY, Told, events_in, mandate_of
from ledger.merkle import leaf_hash, verify_inclusion
from ledger.notes import Note
from ledger.policy import OPEN_POLICY, Policy
from ledger.spend_books import SpendBooks
from ledger.spend_leaf import SpendLeaf
from ledger.spending import Allotment, Spending, open_spending
from protocol.canonical import decode, encode
from protocol.errors import CreditUnknown, LogNeeded, NotFunded, PeerRefused


@dataclass(frozen=True, slots=True)
class SpendProof:
    """That an entry is in a spend log: its leaf, its path, and the checkpoint they lead to."""

    leaf: bytes
    path: tuple[bytes, ...]
    checkpoint: str

    def encode(self) -> bytes:
        return encode((1, self.leaf, self.path, self.checkpoint.encode()))

    @property
    def payer(self) -> bytes:
        """Whose allotment its leaf says it is; unverified.

        Raises:
            BadProof: it is none.
        """
        envelope = SpendLeaf.decode(self.leaf).envelope
        if envelope.type != Allotment.TYPE:
            raise BadProof("this is no allotment")
        return Allotment.from_fields(decode(envelope.payload)).payer

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read one. Nothing is believed yet: see `Purse.judge`.

        Raises:
            IntegrityError: the bytes are none.
        """
        match decode(data):
            case [int() as version, bytes() as leaf, [*path], bytes() as note] if (
                version is not True
                and version == 1
                and all(type(each) is bytes and len(each) == 32 for each in path)
            ):
                return cls(leaf, tuple(path), note.decode(errors="replace"))
            case _:
                raise BadProof("a proof is a leaf, a path and a checkpoint")


@dataclass(frozen=True, slots=True)
class Funded:
    """What an allotment is good for.

    limit_ncr: how much sessions that begin now may claim of it, all together.
    is_cosigned: nobody can be shown a version of the log without it.
    """

    oid: bytes
    allotment: Allotment
    limit_ncr: int
    is_cosigned: bool


@dataclass(frozen=True, slots=True)
class Lent:
    """What lets another key than the payer's promise on an allotment, and how much of it."""

    key: bytes
    mandate: bytes  # as terms carry it
    max_exposure: int
    exposed: int  # promised to us, and not settled


@dataclass(frozen=True, slots=True)
class Purse:
    """A payee's eye on others' credit.

    risk_limit_ncr: how much it lends on an allotment that no quorum has signed yet, which its payer
    may have promised others too. 0 for strangers. It is told per allotment: who lends counts what
    one payer owes it on all of them.
    """

    payee: bytes
    policy: Policy
    books: SpendBooks
    risk_limit_ncr: int = 0
    _known_keys: dict[bytes, tuple[int, Told]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def judge(self, proof: SpendProof, payer: bytes, epoch: int) -> Funded:
        """How far a payer's allotment covers sessions in this epoch.

        Raises:
            IntegrityError: the proof does not hold, or proves no allotment to us.
            CreditUnknown: its log asks for more than the credit that our books know of.
            LogNeeded: it may be good; fetch the payer's log, `books.learn` it, and ask again.
            NotFunded: it is not good, and waiting does not make it so.
        """
        shown = _opened(self.policy.quorum(), proof, payer, self.books.swarm_id)
        head, leaf, allotment = shown.head, shown.leaf, shown.entry
        if not isinstance(allotment, Allotment) or allotment.payee != self.payee:
            raise BadProof("this is no allotment to us")
        self._check_terms(allotment, payer, epoch)
        self.books.meet(payer, proof.checkpoint, head.head, shown.proven)
        oid = leaf.envelope.object_id(self.books.swarm_id)
        # What our books know, a quorum signed, whichever lines the payer shows with it.
        if (made := self.books.allotted(oid)) is not None:
            return Funded(oid, allotment, made.free, is_cosigned=True)
        if (known := self.books.size(payer)) > leaf.index:
            raise CreditUnknown("", "there is not enough credit behind the allotment")
        if head.has_quorum:
            raise LogNeeded(
                "", f"the spend log of {payer.hex()[:16]} is known up to {known} only", size=known
            )
        return self._lend(oid, allotment)

    def lent(self, proof: SpendProof, payer: bytes, key: bytes, until_ms: int) -> Lent:
        """What the payer's spend log, as far as we know it, lets this key promise us.

        until_ms: when what it promises ends at the latest.

        Raises:
            LogNeeded: we may know too little of that log; fetch it, and ask again.
            PeerRefused: it lets it not.
        """
        state, placed = self._keys(payer)
        try:
            if state is None:
                raise KeyNotValid(f"account {payer.hex()[:16]}… lets no other key pay for it")
            held = state.check(key, PAY, epoch=OPEN_POLICY.epoch_of(until_ms))
            mandate = mandate_of([event for _, event in placed], key)
        except KeyNotValid as error:
            shown = Checkpoint.parse(Note.parse(proof.checkpoint).text).size
            if (known := self.books.size(payer)) < shown:
                raise LogNeeded("", f"its log is known up to {known} only", size=known) from error
            raise PeerRefused(
                "", str(error), hint="its owner lets it: manyhands ledger keys delegate PEER"
            ) from error
        return Lent(key, mandate, held.max_exposure, self.books.exposed(payer, key))

    def _keys(self, account: bytes) -> Told:
        """Only what its log says since we last looked is read: others wait for this meanwhile."""
        size = self.books.size(account)
        known = self._known_keys.get(account)
        if known is None or known[0] > size:  # its log was cut
            known = 0, NOTHING_TOLD
        if known[0] < size:
            leaves = self.books.leaves(account, known[0])
            known = size, events_in(account, self.books.swarm_id, leaves, known[1])
            self._known_keys[account] = known
        return known[1]

    def _check_terms(self, allotment: Allotment, payer: bytes, epoch: int) -> None:
        if allotment.asset not in self.policy.assets:
            raise NotFunded("", "the allotment is in an asset that this swarm does not accept")
        if allotment.expires_epoch < epoch:
            raise NotFunded("", f"the allotment was good up to epoch {allotment.expires_epoch}")
        if self.books.is_forked(payer):
            raise NotFunded("", "the payer has shown two versions of its spend log")

    def _lend(self, oid: bytes, allotment: Allotment) -> Funded:
        """On what no quorum signed: up to the limit, and up to what it is, less what tabs claim."""
        limit = min(allotment.amount, self.risk_limit_ncr)
        if limit == 0:
            raise NotFunded("", "no quorum of witnesses has signed the allotment yet")
        if (left := limit - self.books.claimed(oid)) <= 0:
            raise NotFunded("", "no more is lent on an allotment that no quorum has signed yet")
        return Funded(oid, allotment, left, is_cosigned=False)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a proof holds, once all signatures in it were seen to hold."""

    head: Cosigned
    leaf: SpendLeaf
    proven: Proven
    entry: Spending | None


@lru_cache(maxsize=256)
def _opened(witnesses: Witnesses, proof: SpendProof, payer: bytes, swarm_id: bytes) -> _Shown:
    """Remembered by its very bytes: one proof is shown for hours, at every session."""
    head = witnesses.open(proof.checkpoint, origin(swarm_id, payer, "spend"), payer)
    leaf = SpendLeaf.decode(proof.leaf)
    hash_ = leaf_hash(proof.leaf)
    verify_inclusion(hash_, leaf.index, head.head.size, proof.path, head.head.root)
    entry = open_spending(leaf.envelope, payer, swarm_id)
    return _Shown(head, leaf, Proven(leaf.index, hash_, proof.path), entry)
