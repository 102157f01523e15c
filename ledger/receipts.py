"""A receipt: what was offered, agreed, stated and promised on one tab, provable by itself.

In: four envelopes. Out: one canonical byte string, its id, and, once `open_receipt` has re-derived
everything, what it is worth. A receipt is not signed again: its parts are. It carries the offer, so
that whoever holds a receipt needs nothing else to check the amount. A statement or voucher is
missing when a hop was lost before its first window.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Self, TypeVar

from ledger.errors import BadObject, BadReceipt
from ledger.mandates import check_promise, open_mandate
from ledger.meter import Meter
from ledger.objects import NO_OBJECT, Offer, Statement, Terms, Voucher, tab_id
from protocol.canonical import decode, encode
from protocol.errors import IntegrityError
from protocol.signing import Envelope, object_id

T = TypeVar("T")

NOTHING = Meter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The closing envelopes of one tab, as they are stored and shown."""

    TYPE: ClassVar[str] = "mh/receipt/1"

    offer: Envelope
    terms: Envelope
    statement: Envelope | None = None
    voucher: Envelope | None = None
    _read: bytes = field(default=b"", init=False, repr=False, compare=False)  # what it was read of

    def encode(self) -> bytes:
        if self._read:  # there is one encoding, and this was found to be it
            return self._read
        parts = (self.offer, self.terms, self.statement, self.voucher)
        return encode([1, *(part.encode() if part else None for part in parts)])

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a receipt's parts. Nothing is believed yet: see `open_receipt`."""
        values = decode(data)
        if len(values) != 5 or type(values[0]) is not int or values[0] != 1:
            raise BadReceipt("receipt", "these are not the fields of a receipt")
        offer, terms = (_envelope(name, values[i]) for i, name in ((1, "offer"), (2, "terms")))
        statement, voucher = (
            None if values[i] is None else _envelope(name, values[i])
            for i, name in ((3, "statement"), (4, "voucher"))
        )
        receipt = cls(offer=offer, terms=terms, statement=statement, voucher=voucher)
        object.__setattr__(receipt, "_read", bytes(data))
        return receipt

    @property
    def session_id(self) -> bytes:
        """The name of the tab, as its terms give it; unverified."""
        return _name_of(self.terms.payload)

    def receipt_id(self, swarm_id: bytes) -> bytes:
        return receipt_id(self.encode(), swarm_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedTab:
    """A receipt whose every signature, bond and amount has been found to hold."""

    offer: Offer
    terms: Terms
    statement: Statement | None
    voucher: Voucher | None

    @property
    def amount(self) -> int:
        """What the payer owes for this tab, in ncr."""
        return self.voucher.amount if self.voucher else 0

    @property
    def meter(self) -> Meter:
        """The work both sides agree on."""
        return self.voucher.meter if self.voucher else NOTHING

    @property
    def closed_ms(self) -> int:
        """When it ended, by its signers' clocks; for a tab that never ran, when it would have."""
        last = self.voucher or self.statement
        return last.issued_ms if last else self.terms.expires_ms


@lru_cache(maxsize=256)
def _name_of(terms: bytes) -> bytes:
    """Remembered as terms are: an open tab is saved again with every voucher."""
    return Terms.from_fields(decode(terms)).session_id


def receipt_id(data: bytes, swarm_id: bytes) -> bytes:
    return object_id(Receipt.TYPE, swarm_id, data)


def open_receipt(receipt: Receipt, swarm_id: bytes) -> ClosedTab:
    """Re-derive a receipt from its parts: signatures, bonds between them, and the amount.

    Raises:
        BadReceipt: the first part that does not hold, and why.
    """
    offer, terms = open_bond(receipt.offer, receipt.terms, swarm_id)
    terms_oid = receipt.terms.object_id(swarm_id)
    statement = voucher = None
    if receipt.statement:
        envelope = receipt.statement
        statement = _part("statement", lambda: open_statement(envelope, terms, terms_oid, swarm_id))
    if receipt.voucher:
        signed = receipt.voucher
        voucher = _part("voucher", lambda: open_voucher(signed, offer, terms, terms_oid, swarm_id))
        stated = statement.meter if statement else NOTHING
        if not voucher.meter <= stated:
            raise BadReceipt("voucher", "promises pay for more than the payee states it did")
    return ClosedTab(offer=offer, terms=terms, statement=statement, voucher=voucher)


def read_receipt(receipt: Receipt) -> ClosedTab:
    """The same of a receipt that was opened before, as who kept its digest knows: only read.

    Raises:
        IntegrityError: it cannot be.
    """
    statement, voucher = receipt.statement, receipt.voucher
    return ClosedTab(
        offer=Offer.from_fields(decode(receipt.offer.payload)),
        terms=Terms.from_fields(decode(receipt.terms.payload)),
        statement=Statement.from_fields(decode(statement.payload)) if statement else None,
        voucher=Voucher.from_fields(decode(voucher.payload)) if voucher else None,
    )


def open_bond(offer: Envelope, terms: Envelope, swarm_id: bytes) -> tuple[Offer, Terms]:
    """Read an offer and terms both parties signed under it.

    Raises:
        BadReceipt: `part` is offer or terms.
    """
    offered, offer_oid = _part("offer", lambda: _open_offer(offer, swarm_id))
    agreed = _part("terms", lambda: _open_terms(terms, swarm_id))
    _part("terms", lambda: check_bond(offered, offer_oid, agreed))
    return offered, agreed


@lru_cache(maxsize=64)
def _open_offer(envelope: Envelope, swarm_id: bytes) -> tuple[Offer, bytes]:
    """It and its id. Remembered by its very bytes: many tabs cite one offer."""
    offer = Offer.open(envelope, swarm_id, *envelope.signers[:1])
    if envelope.signers != (offer.provider,):
        raise BadObject("the offer is not signed by exactly its provider")
    return offer, envelope.object_id(swarm_id)


@lru_cache(maxsize=256)
def _open_terms(envelope: Envelope, swarm_id: bytes) -> Terms:
    """Remembered by their very bytes: from a tab's opening until it is filed, a moment later."""
    if len(envelope.signers) != 2:  # before any signature is looked at
        raise BadObject("the terms are not signed by exactly both parties")
    terms = Terms.open(envelope, swarm_id, *envelope.signers)
    if set(envelope.signers) != {terms.payer_key, terms.payee_key}:
        raise BadObject("the terms are not signed by exactly both parties")
    return terms


@lru_cache(maxsize=256)
def _signed_statement(envelope: Envelope, swarm_id: bytes, key: bytes) -> Statement:
    """Remembered by its very bytes: a tab's last one is filed a moment after it was checked."""
    return Statement.open(envelope, swarm_id, key)


@lru_cache(maxsize=256)
def _signed_voucher(envelope: Envelope, swarm_id: bytes, key: bytes) -> Voucher:
    return Voucher.open(envelope, swarm_id, key)


def check_bond(offer: Offer, offer_oid: bytes, terms: Terms) -> None:
    """Whether terms keep to the offer they cite, and bear the name their parts give them."""
    name = tab_id(
        terms.client_nonce, terms.provider_nonce, terms.payer, terms.payee, terms.offer_oid
    )
    for holds, complaint in (
        (terms.offer_oid == offer_oid, "cite another offer"),
        (terms.payee == offer.provider, "pay somebody else than who offers"),
        (terms.manifest == offer.manifest, "are about another model than the offer"),
        (terms.layer_lo >= offer.layer_lo, "begin below the offered span"),
        (terms.layer_hi <= offer.layer_hi, "end above the offered span"),
        (terms.asset == offer.asset, "are in another asset than the offer"),
        (terms.credit_window <= offer.credit_window, "lend more than the offer does"),
        (terms.prepaid <= offer.max_prepaid, "ask for more ahead than the offer does"),
        (
            terms.allot_oid is not None or not offer.asset or offer.rates.is_free,
            "cite no allotment, and the offer asks for credit that somebody issued",
        ),
        (terms.fp_profile == offer.fp_profile, "name other fingerprints than the offer"),
        (terms.session_id == name, "have a name that their nonces and parties do not give"),
    ):
        if not holds:
            raise BadObject(f"the terms {complaint}")


def open_statement(
    envelope: Envelope, terms: Terms, terms_oid: bytes, swarm_id: bytes
) -> Statement:
    statement = _signed_statement(envelope, swarm_id, terms.payee_key)
    if (statement.session_id, statement.terms_oid) != (terms.session_id, terms_oid):
        raise BadObject("the statement is about another tab")
    return statement


def open_voucher(
    envelope: Envelope, offer: Offer, terms: Terms, terms_oid: bytes, swarm_id: bytes
) -> Voucher:
    """Read a voucher of a tab; it promises its meter's price, and the prepayment at most on top."""
    voucher = _signed_voucher(envelope, swarm_id, terms.payer_key)
    if (voucher.session_id, voucher.terms_oid) != (terms.session_id, terms_oid):
        raise BadObject("the voucher is about another tab")
    if voucher.statement_oid == NO_OBJECT and voucher.meter != NOTHING:
        raise BadObject("the voucher pays for work but cites no statement")
    earned = offer.price(voucher.meter)
    if not earned <= voucher.amount <= earned + terms.prepaid:
        raise BadObject(f"the voucher says {voucher.amount} ncr, its meter is worth {earned}")
    if terms.mandate:
        held = open_mandate(terms.mandate, terms.payer, terms.payer_key, swarm_id)
        check_promise(held, voucher.amount, voucher.issued_ms)
    return voucher


def _envelope(part: str, data: object) -> Envelope:
    if type(data) is not bytes:
        raise BadReceipt(part, "not an envelope")
    return _part(part, lambda: Envelope.decode(data))


def _part(part: str, read: Callable[[], T]) -> T:
    """Do `read`, and say of which part of a receipt it was when it fails."""
    try:
        return read()
    except BadReceipt:
        raise
    except IntegrityError as error:
        raise BadReceipt(part, str(error)) from error
