"""The objects that move credit between accounts, as their fields are signed.

Each is an entry of its signer's spend log (`spend_leaf.py`): a grant makes credit, an allotment
sets some aside for one payee, a settlement says what was used of it, a deposit takes that in, a
release gives the rest back. What they come to together is left to the fold. A fault is evidence
about somebody else, in a form that convinces whoever reads it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ledger.errors import BadObject
from ledger.fields import (
    Account,
    Counters,
    Id16,
    Id32,
    MaybeId32,
    SignedObject,
    Text,
    Uint,
    check_bytes,
    check_uint,
)
from ledger.meter import Meter
from protocol.errors import IntegrityError
from protocol.signing import Envelope

MAX_CLAIMS = 256  # of one settlement; more allotments than that want several settlements
MAX_EVIDENCE = 8
MAX_COLLECTED = 64  # tabs of one collection: three signatures each


def check_amount(value: Any) -> None:
    check_uint(value)
    if value == 0:
        raise BadObject("an amount of nothing moves nothing")


def check_claims(value: Any) -> None:
    if type(value) is not tuple or not 0 < len(value) <= MAX_CLAIMS:
        raise BadObject(f"expected 1 to {MAX_CLAIMS} claims")
    for allot_oid, cumulative in value:
        check_bytes(32)(allot_oid)
        check_amount(cumulative)
    ids = [allot_oid for allot_oid, _ in value]
    if ids != sorted(set(ids)):
        raise BadObject("claims stand in the order of their allotments, each once")


def check_evidence(value: Any) -> None:
    if type(value) is not tuple or not 0 < len(value) <= MAX_EVIDENCE:
        raise BadObject(f"expected 1 to {MAX_EVIDENCE} pieces of evidence")
    if any(type(piece) is not bytes for piece in value):
        raise BadObject("evidence is made of bytes")


def check_promises(value: Any) -> None:
    if type(value) is not tuple or not 0 < len(value) <= MAX_COLLECTED:
        raise BadObject(f"expected the promises of 1 to {MAX_COLLECTED} tabs")
    if any(type(part) is not bytes for pair in value for part in pair):
        raise BadObject("a promise is terms and a voucher, in bytes")


Amount = Annotated[int, check_amount]
Claims = Annotated[tuple[tuple[bytes, int], ...], check_claims]
Evidence = Annotated[tuple[bytes, ...], check_evidence]
Promises = Annotated[tuple[tuple[bytes, bytes], ...], check_promises]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant(SignedObject):
    """Credit made by its issuer, and given to an account. An asset is its issuer's promise."""

    TYPE: ClassVar[str] = "mh/grant/1"

    issuer: Account
    account: Account
    asset: Id32  # the issuer's account
    grant_no: Uint  # two grants of one amount are two objects
    amount: Amount
    from_epoch: Uint = 0  # which period it was meant for; nothing is derived from it
    expires_epoch: Uint = 0  # reserved
    memo_hash: MaybeId32 = None

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.asset != self.issuer:
            raise BadObject("an issuer grants its own asset and no other")
        if self.expires_epoch:
            raise BadObject("grants that expire are reserved, must be 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment(SignedObject):
    """Credit that a payer sets aside for one payee, who alone may claim it."""

    TYPE: ClassVar[str] = "mh/allot/1"

    payer: Account
    asset: Id32
    payee: Account
    allot_no: Uint  # so that the same amount can be set aside twice in one epoch
    amount: Amount
    expires_epoch: Uint  # the last epoch in which the payee serves on it

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.payer == self.payee:
            raise BadObject("payer and payee are one account: nobody owes themselves")


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(SignedObject):
    """A payee gives back what it will not claim of an allotment."""

    TYPE: ClassVar[str] = "mh/giveback/1"

    allot_oid: Id32
    claimed_final: Uint  # what it claims in all, and no more than that from here on


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement(SignedObject):
    """What payer and payee agree was used of some allotments; both sign."""

    TYPE: ClassVar[str] = "mh/settle/1"

    epoch: Uint
    payer: Account
    payee: Account
    asset: Id32
    claims: Claims  # (allotment, what was used of it since it was made, credit notes taken off)
    n_sessions: Uint
    receipts_root: Id32
    gross: Uint
    credit: Uint
    net: Uint
    meter_sum: Counters

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if self.payer == self.payee:
            raise BadObject("payer and payee are one account: nobody owes themselves")
        if self.net != self.gross - self.credit:
            raise BadObject("a settlement's net is its gross less its credit")

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name == "meter_sum":
            return Meter.from_fields(value)
        if name == "claims":
            if type(value) is not list or any(type(c) is not list or len(c) != 2 for c in value):
                raise BadObject("a claim is an allotment and an amount")
            return tuple((allot_oid, cumulative) for allot_oid, cumulative in value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposit(SignedObject):
    """A payee takes in what a settlement earlier in its own log says it may claim."""

    TYPE: ClassVar[str] = "mh/deposit/1"

    settle_oid: Id32
    amount: Amount  # exactly what the settlement's claims add to those deposited before


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection(SignedObject):
    """A payee takes in what vouchers promise, without the payer's further word: it has signed them.

    For a payer that settles nothing. Of an allotment, all that was ever promised on it is shown,
    also what was settled: see `chain.py`.
    """

    TYPE: ClassVar[str] = "mh/collect/1"

    promises: Promises  # of each tab: its terms, and the highest voucher

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if type(value) is not list or any(
            type(pair) is not list or len(pair) != 2 for pair in value
        ):
            raise BadObject("a promise is terms and a voucher")
        return tuple((terms, voucher) for terms, voucher in value)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditNote(SignedObject):
    """A payee claims less on a tab than its vouchers promise: cumulative, the highest counts."""

    TYPE: ClassVar[str] = "mh/creditnote/1"

    session_id: Id16  # of the tab
    amount_cum: Amount
    reason: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault(SignedObject):
    """Evidence that an account broke a rule. Who reports it signs; the evidence must convince."""

    TYPE: ClassVar[str] = "mh/fault/1"

    kind: Text
    accused: Account
    evidence: Evidence

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        return tuple(value) if name == "evidence" and type(value) is list else value


Spending = Grant | Allotment | Release | Settlement | Deposit | Collection | CreditNote


def open_spending(envelope: Envelope, account: bytes, swarm_id: bytes) -> Spending | None:
    """What an entry of this account's spend log says; None: an object that moves no credit.

    Raises:
        IntegrityError: it does, and it is malformed or not signed by whom it must be.
    """
    if (kind := _KINDS.get(envelope.type)) is None:
        return None
    spending: Spending
    if kind is Settlement:
        others = [key for key in envelope.signers if key != account]
        spending = Settlement.open(envelope, swarm_id, account, *others)
        _check_named({spending.payer, spending.payee}, {account, *others})
    else:
        spending = kind.open(envelope, swarm_id, account)
        if isinstance(spending, Grant | Allotment):
            _check_named(
                {spending.issuer if isinstance(spending, Grant) else spending.payer}, {account}
            )
    return spending


def _check_named(named: Iterable[bytes], signed: Iterable[bytes]) -> None:
    if set(named) != set(signed):
        raise IntegrityError("an entry speaks for another account than the one whose log it is in")


_KINDS: dict[str, type[Any]] = {
    kind.TYPE: kind
    for kind in (Grant, Allotment, Release, Settlement, Deposit, Collection, CreditNote)
}
