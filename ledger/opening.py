"""How a tab is opened: the provider proposes terms under its offer, the client signs them too.

Each side checks what it did not choose itself. The proposal travels with the reservation, the
client's signature with the commit (DESIGN 5a.15); no more round trips than the KV room needs.
"""

from dataclasses import dataclass

from ledger.errors import BadObject
from ledger.meter import Meter, Usage, head_rows
from ledger.objects import Offer, Terms, tab_id
from ledger.policy import OPEN_POLICY
from ledger.receipts import check_bond
from protocol.canonical import decode
from protocol.errors import PeerRefused
from protocol.signing import Envelope, SigningKey, add_signature

MAX_TERM_MS = 1 << 41  # 70 years: more than any session asks for
_NOT_SAID_BY_US = ("max_prepaid", "payer_key", "mandate")  # looked at by other rules than equality


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the client of a tab chose: terms must say exactly this."""

    chain_id: bytes
    payer: bytes
    payee: bytes
    manifest: bytes
    layer_lo: int
    layer_hi: int
    salt_commit: bytes
    client_nonce: bytes
    max_prepaid: int = 0
    constraints: bytes = b""  # on who may serve, as `protocol.constraints` spells them
    allot_oid: bytes | None = None  # what shall pay for it, see `funding.py`
    payer_checkpoint_hash: bytes | None = None
    payer_key: bytes = b""  # which signs for the payer, where it is not the payer's own
    mandate: bytes = b""  # what lets it; a payee knows that from the payer's spend log


def propose_terms(
    offer: Envelope,
    wanted: Wanted,
    key: SigningKey,
    swarm_id: bytes,
    *,
    provider_nonce: bytes,
    expires_ms: int,
    credit_window: int | None = None,
    prepaid: int = 0,
) -> Envelope:
    """Terms for one tab under our own offer, signed by us alone so far."""
    cited = Offer.open(offer, swarm_id, key.public_key)
    offer_oid = offer.object_id(swarm_id)
    terms = Terms(
        session_id=tab_id(
            wanted.client_nonce, provider_nonce, wanted.payer, key.public_key, offer_oid
        ),
        chain_id=wanted.chain_id,
        salt_commit=wanted.salt_commit,
        payer=wanted.payer,
        payer_key=wanted.payer_key or wanted.payer,
        payee=key.public_key,
        payee_key=key.public_key,
        offer_oid=offer_oid,
        manifest=wanted.manifest,
        layer_lo=wanted.layer_lo,
        layer_hi=wanted.layer_hi,
        asset=cited.asset,
        allot_oid=wanted.allot_oid,
        payer_checkpoint_hash=wanted.payer_checkpoint_hash,
        credit_window=cited.credit_window if credit_window is None else credit_window,
        prepaid=prepaid,
        fp_profile=cited.fp_profile,
        client_nonce=wanted.client_nonce,
        provider_nonce=provider_nonce,
        expires_ms=expires_ms,
        constraints=wanted.constraints,
        mandate=wanted.mandate,
    )
    check_bond(cited, offer_oid, terms)
    return terms.seal(swarm_id, key)


def accept_terms(
    offer: Envelope,
    terms: Envelope,
    wanted: Wanted,
    key: SigningKey,
    swarm_id: bytes,
    *,
    now_ms: int,
    profile: str = "",
) -> Envelope:
    """The terms with the client's signature added, if they are what the client wanted.

    `profile` is how the work is to be run; terms cite an offer, and so the receipt says it too.

    Raises:
        IntegrityError: they are not, or the offer is not in force.
    """
    cited = Offer.open(offer, swarm_id, wanted.payee)
    proposed = Terms.open(terms, swarm_id, wanted.payee)
    check_bond(cited, offer.object_id(swarm_id), proposed)
    skew_ms = OPEN_POLICY.max_skew_ms
    if not cited.not_before_ms - skew_ms <= now_ms < cited.expires_ms + skew_ms:
        raise BadObject(
            "the offer is not in force now", hint="compare the clocks of both machines: date -u"
        )
    if profile and _computed_in(cited.exec_profile) != _computed_in(profile):
        raise BadObject(f"the offer is to run {cited.exec_profile}, the chain runs {profile}")
    if proposed.constraints != wanted.constraints:
        raise BadObject(
            "the terms leave out or alter what the session asks of its hops",
            hint="update Manyhands on that node",
        )
    for name in Wanted.__slots__:
        if name not in _NOT_SAID_BY_US and getattr(proposed, name) != getattr(wanted, name):
            raise BadObject(f"the terms name another {name.replace('_', ' ')} than asked for")
    if proposed.payer_key != (wanted.payer_key or wanted.payer):
        raise BadObject("the terms name another payer key than ours")
    if proposed.prepaid > wanted.max_prepaid:
        raise BadObject("the terms ask for more ahead than the client allows")
    if proposed.expires_ms + skew_ms <= now_ms:
        raise BadObject("the terms have expired")
    if proposed.expires_ms > now_ms + MAX_TERM_MS:  # a tab that never runs is dated so
        raise BadObject("the terms expire in another lifetime")
    return add_signature(terms, swarm_id, key)


def _computed_in(execution: str) -> list[str]:
    """Dtype and quantization; how rows travel is agreed on by itself."""
    return execution.partition(" ")[0].split("/")[:2]


def check_accepted(proposed: Envelope, accepted: Envelope, swarm_id: bytes) -> Terms:
    """The provider's look at what came back: its own proposal, now signed by both.

    Raises:
        IntegrityError: another object, or not signed by exactly both.
    """
    if accepted.payload != proposed.payload:
        raise BadObject("these are not the terms we proposed")
    terms = Terms.from_fields(decode(accepted.payload))
    return Terms.open(accepted, swarm_id, terms.payer_key, terms.payee_key)


def lend_prompt(offer: Offer, prompt: Meter, limit_ncr: int) -> int:
    """What the first window lends for the prompt, in ncr, before any voucher can exist.

    Raises:
        PeerRefused: the prompt costs more than this provider lends to anybody.
    """
    cost = offer.price(prompt)
    if cost > limit_ncr:
        raise PeerRefused("", f"the prompt costs {cost} ncr, this node lends at most {limit_ncr}")
    return cost


def most(offer: Offer, opened: Usage, n_prompt: int, capacity: int, row_bytes: int) -> int:
    """What a tab can cost at most, in ncr, if each position up to `capacity` is run once.

    opened: the tally at its beginning. n_prompt: how many positions are prefill; 0: unknown, as
    where the client holds the ends, and each counts as what is dearer.
    """
    heads = head_rows(0, capacity, n_prompt)  # as if it were the last hop: it may become one

    def run(prefill: int) -> int:
        usage = opened.after(0, capacity, prefill, row_bytes, head_rows=heads)
        return offer.price(usage.meter())

    return run(n_prompt) if n_prompt else max(run(0), run(capacity))
