"""The objects two parties sign about a tab, in the order in which their fields are signed.

Offer by the provider; terms by both; statement by the payee; voucher and route by the payer.
Whether objects bear each other out is left to `receipts.py`, arithmetic to `meter.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Self

from ledger.errors import BadObject
from ledger.fields import (
    Account,
    Asset,
    Counters,
    Flag,
    Id16,
    Id32,
    MaybeId32,
    PriceList,
    Reserved,
    SignedObject,
    Text,
    Uint,
    check_bytes,
    check_kind,
    check_uint,
)
from ledger.mandates import open_mandate
from ledger.meter import Meter, Rates, price
from protocol.canonical import Field
from protocol.constraints import Constraints
from protocol.errors import PeerError
from protocol.signing import Envelope

NO_OBJECT = bytes(32)  # where an object's id is expected and there is none
NO_ASSET = b""  # a swarm without issuers: claims between two parties, nobody else's promise
MAX_HOPS = 512
FREE = Rates()


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(SignedObject):
    """A provider's prices for spans inside `[layer_lo, layer_hi)` of one model."""

    TYPE: ClassVar[str] = "mh/offer/1"

    provider: Account
    offer_no: Uint
    manifest: Id32
    layer_lo: Uint
    layer_hi: Uint
    exec_profile: Text  # a `protocol.profile.Execution`: what runs, and which software runs it
    asset: Asset = NO_ASSET
    rates: PriceList = FREE
    min_charge: Uint = 0  # reserved
    credit_window: Uint = 0  # ncr of unpaid work the provider bears on a tab
    max_prepaid: Uint = 0
    max_ctx: Uint  # positions
    fp_profile: Text = ""
    not_before_ms: Uint
    expires_ms: Uint

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if not self.layer_lo < self.layer_hi:
            raise BadObject(f"a span runs forward, got {self.layer_lo}:{self.layer_hi}")
        if not self.not_before_ms < self.expires_ms:
            raise BadObject("an offer expires after it begins")
        if self.min_charge:
            raise BadObject("a minimum charge is reserved, must be 0")

    def price(self, meter: Meter) -> int:
        return price(self.rates, meter)


def check_asked(value: Any) -> None:
    if type(value) is not bytes:
        raise BadObject("expected bytes")
    try:
        is_plain = Constraints.decode(value).encode() == value
    except PeerError as error:
        raise BadObject(f"these are no constraints: {error}") from error
    if not is_plain:
        raise BadObject("constraints are spelled in one way")


Asked = Annotated[bytes, check_asked]
Mandate = Annotated[bytes, check_kind(bytes)]  # see `mandates.py`


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(SignedObject):
    """What payer and payee agree on when a tab is opened; both sign."""

    TYPE: ClassVar[str] = "mh/terms/1"

    session_id: Id16  # of the tab: see `tab_id`
    chain_id: Id16  # the client's session, one for all its hops
    salt_commit: Id32
    payer: Account
    payer_key: Id32
    payee: Account
    payee_key: Id32
    offer_oid: Id32
    manifest: Id32
    layer_lo: Uint
    layer_hi: Uint
    asset: Asset = NO_ASSET
    allot_oid: MaybeId32 = None  # what pays for it, where the asset is an issuer's promise
    payer_checkpoint_hash: MaybeId32 = None  # of the spend log that the payer proved it by
    credit_window: Uint
    prepaid: Uint = 0
    fp_profile: Text = ""
    sample_commit: Reserved = None
    client_nonce: Id16
    provider_nonce: Id16
    prev_hop_key: Reserved = None  # terms name no neighbours: a route does (DESIGN 5a.18)
    next_hop_key: Reserved = None
    expires_ms: Uint
    constraints: Asked = b""  # of the client, on who may serve: left out where there are none
    mandate: Mandate = b""  # what lets payer_key pay, where it is not the payer's own; left out too

    def __post_init__(self) -> None:
        SignedObject.__post_init__(self)
        if not self.layer_lo < self.layer_hi:
            raise BadObject(f"a span runs forward, got {self.layer_lo}:{self.layer_hi}")
        if self.payee != self.payee_key:
            raise BadObject("a payee signs with its own key")
        if (self.payer != self.payer_key) != bool(self.mandate):
            raise BadObject("a mandate is shown by whoever pays for another account, and no other")
        if self.mandate and self.allot_oid is None:
            raise BadObject("a key pays for an account from what that allotted, and nothing else")
        if self.payer == self.payee:
            raise BadObject("payer and payee are one account: nobody owes themselves")
        if (self.allot_oid is None) != (self.payer_checkpoint_hash is None):
            raise BadObject("an allotment is cited with the checkpoint that it was proved by")
        if self.allot_oid is not None and self.asset == NO_ASSET:
            raise BadObject("an allotment is in an asset, and these terms name none")

    def to_fields(self) -> list[Field]:
        told = super(Terms, self).to_fields()
        return told[: len(told) - self._n_left_out()]

    @property
    def parties(self) -> tuple[bytes, bytes, bytes]:
        """Whose receipt it is: the payer's, that of who pays for it, and the payee's."""
        return self.payer, self.payer_key, self.payee

    @classmethod
    def from_fields(cls, values: Sequence[Any]) -> Self:
        n_left_out = _N_TERMS + 1 - len(values)  # the version counts
        whole = [*values, *[b""] * n_left_out] if n_left_out in (1, 2) else values
        terms = super(Terms, cls).from_fields(whole)
        if terms._n_left_out() != n_left_out:
            raise BadObject("terms leave out constraints and mandate where there are none")
        return terms

    def _n_left_out(self) -> int:
        return 0 if self.mandate else 1 if self.constraints else 2

    @classmethod
    def open(cls, envelope: Envelope, swarm_id: bytes, *signers: bytes) -> Self:
        terms = super(Terms, cls).open(envelope, swarm_id, *signers)
        if terms.mandate:
            open_mandate(terms.mandate, terms.payer, terms.payer_key, swarm_id)
        return terms


_N_TERMS = len(fields(Terms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement(SignedObject):
    """What the payee says it did so far on a tab. Roots begin anew in each epoch (5a.18)."""

    TYPE: ClassVar[str] = "mh/statement/1"

    session_id: Id16
    terms_oid: Id32
    seq: Uint
    epoch: Uint
    last_step: Uint
    meter: Counters
    in_root: Id32
    out_root: Id32
    fp_root: MaybeId32 = None  # what `fingerprints` says; null where terms name no profile
    handoff_oid: Reserved = None
    voucher_oid_held: MaybeId32 = None
    issued_ms: Uint


@dataclass(frozen=True, slots=True, kw_only=True)
class Voucher(SignedObject):
    """The payer's cumulative promise on a tab: the highest counts, the others are history."""

    TYPE: ClassVar[str] = "mh/voucher/1"

    session_id: Id16
    terms_oid: Id32
    seq: Uint
    meter: Counters
    amount: Uint
    statement_oid: Id32 = NO_OBJECT  # zeros: paid ahead of any work
    issued_ms: Uint
    final: Flag = False


def check_hops(value: Any) -> None:
    if type(value) is not tuple or not 0 < len(value) <= MAX_HOPS:
        raise BadObject(f"a route has 1 to {MAX_HOPS} hops")
    reached = value[0][1]  # hidden rows may enter anywhere, ids at block 0
    for key, start, stop in value:
        check_bytes(32)(key)
        check_uint(start)
        check_uint(stop)
        if start != reached or stop <= start:
            raise BadObject(f"{start}:{stop} does not continue a route that reached {reached}")
        reached = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(SignedObject):
    """Who runs which blocks in one epoch of a session; signed by the client for every hop."""

    TYPE: ClassVar[str] = "mh/route/1"

    session: Id16
    epoch: Uint
    hops: Annotated[tuple[tuple[bytes, int, int], ...], check_hops]  # (public key, start, stop)

    @classmethod
    def _read(cls, name: str, value: Any) -> Any:
        if name != "hops":
            return value
        if type(value) is not list or any(type(hop) is not list or len(hop) != 3 for hop in value):
            raise BadObject("a hop is a key and a span")
        return tuple((key, start, stop) for key, start, stop in value)


def tab_id(
    client_nonce: bytes, provider_nonce: bytes, payer: bytes, payee: bytes, offer_oid: bytes
) -> bytes:
    """The name of a tab. Each side gives a nonce, so that neither can force a repeat."""
    return sha256(client_nonce + provider_nonce + payer + payee + offer_oid).digest()[:16]
