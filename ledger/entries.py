"""One leaf of a log, and the proof that it is there.

A leaf names epoch, parties, asset, amount and a salted digest of the receipt, so that the receipt
itself may be erased without touching the tree.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Self

from ledger.balances import Claim
from ledger.checkpoint import Checkpoint, origin
from ledger.merkle import leaf_hash, verify_inclusion
from ledger.policy import OPEN_POLICY
from ledger.receipts import ClosedTab, Receipt, open_receipt, receipt_id
from protocol.canonical import encode
from protocol.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One leaf of the log, with the ids it is found by."""

    index: int
    receipt_id: bytes
    session_id: bytes  # of the tab
    epoch: int
    payer: bytes
    payee: bytes
    asset: bytes
    net: int  # ncr the payer owes for this tab
    digest: bytes  # of salt and receipt

    @classmethod
    def of(cls, index: int, id_: bytes, tab: ClosedTab, digest: bytes) -> Self:
        terms = tab.terms
        epoch = OPEN_POLICY.epoch_of(tab.closed_ms)
        parties = (terms.payer, terms.payee, terms.asset)
        return cls(index, id_, terms.session_id, epoch, *parties, tab.amount, digest)

    def leaf(self) -> bytes:
        """The bytes that the tree commits to."""
        parties = (self.payer, self.payee, self.asset)
        return encode((1, self.epoch, *parties, self.net, self.digest))

    def claim(self, owner: bytes) -> Claim:
        """What it claims, for its log's owner, who may have paid for another account."""
        payer = self.payer if owner == self.payee else owner
        return Claim(self.session_id, payer, self.payee, self.asset, self.net)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That a receipt is in a log: all a stranger needs but the log owner's public key."""

    index: int
    salt: bytes
    receipt: bytes
    path: tuple[bytes, ...]
    checkpoint: str


def verify_proof(proof: Proof, account: bytes, swarm_id: bytes) -> ClosedTab:
    """What a proof proves: the tab, once its receipt, leaf, path and checkpoint all hold.

    Raises:
        IntegrityError: something does not.
    """
    tab = open_receipt(Receipt.decode(proof.receipt), swarm_id)
    digest = sha256(proof.salt + proof.receipt).digest()
    entry = LogEntry.of(proof.index, receipt_id(proof.receipt, swarm_id), tab, digest)
    head = Checkpoint.open(proof.checkpoint, account)
    if head.origin != origin(swarm_id, account):
        raise IntegrityError("the checkpoint is of another log")
    verify_inclusion(leaf_hash(entry.leaf()), entry.index, head.size, proof.path, head.root)
    return tab
