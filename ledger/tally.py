"""What two parties sign about each other beyond single tabs, where nobody grants them credit.

A tally says what a payee did for a payer over all their tabs, and how much of that the payer made
good otherwise: by a bank transfer, a beer, or nothing at all. The payee alone may sign one: it
binds nobody but itself, and forgives what it says was settled. One that both signed also tells
third parties that the work was done. Both numbers only grow, so of several tallies of a pair the
highest counts. Kin are a node's key and a client's key that stand for each other: what the one
earns, the other may spend.
"""

from dataclasses import dataclass
from typing import ClassVar

from ledger.errors import BadObject
from ledger.fields import Account, Asset, SignedObject, Uint
from ledger.objects import NO_ASSET
from protocol.canonical import decode
from protocol.signing import Envelope


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally(SignedObject):
    """In ncr; signed by the payee, and by the payer where it counts for others too."""

    TYPE: ClassVar[str] = "mh/tally/1"

    payer: Account
    payee: Account
    asset: Asset = NO_ASSET
    served: Uint  # what the payee did for the payer, over all their tabs
    settled: Uint  # what the payer made good otherwise
    issued_ms: Uint

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.payer == self.payee:
            raise BadObject("nobody owes themselves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kin(SignedObject):
    """Signed by both keys."""

    TYPE: ClassVar[str] = "mh/kin/1"

    node: Account
    client: Account
    issued_ms: Uint

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.node == self.client:
            raise BadObject("a key is not its own kin")


def open_tally(envelope: Envelope, swarm_id: bytes) -> tuple[Tally, bool]:
    """What it says, and whether both parties say so.

    Raises:
        IntegrityError: it is none, or not signed by its payee, or by others besides its parties.
    """
    said = Tally.from_fields(decode(envelope.payload))
    is_mutual = len(envelope.signers) > 1
    signers = (said.payer, said.payee) if is_mutual else (said.payee,)
    return Tally.open(envelope, swarm_id, *signers), is_mutual


def open_kin(envelope: Envelope, swarm_id: bytes) -> Kin:
    """
    Raises:
        IntegrityError: it is none, or not signed by exactly both.
    """
    said = Kin.from_fields(decode(envelope.payload))
    return Kin.open(envelope, swarm_id, said.node, said.client)
