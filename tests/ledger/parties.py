"""A client and a provider with fixed keys, an offer, and a tab between them."""

from dataclasses import replace
from hashlib import sha256

from ledger import Offer, PayerTab, ProviderTab, Rates, Usage, Wanted, accept_terms, propose_terms
from ledger.tab import no_limit
from protocol.signing import OPEN_SWARM_ID, SigningKey

SWARM = OPEN_SWARM_ID
CLIENT, PROVIDER, STRANGER = (SigningKey.from_seed(bytes([n]) * 32) for n in (11, 22, 33))
MANIFEST = sha256(b"a model").digest()
SALT = bytes(range(32))
NOW_MS = 1_790_000_000_000
RATES = Rates(1_000_000, 2_000_000, 500_000, 30_000, 7_000_000, 40_000, 9_000_000)  # 1 ncr a row...
ROOT = sha256(b"root").digest()


def make_offer(
    *,
    provider=PROVIDER,
    rates=RATES,
    credit_window=400,
    max_prepaid=1000,
    lo=0,
    hi=4,
    exec_profile="float32",
    asset=b"",
    fp_profile="",
):
    return Offer(
        provider=provider.public_key,
        offer_no=1,
        manifest=MANIFEST,
        layer_lo=lo,
        layer_hi=hi,
        exec_profile=exec_profile,
        asset=asset,
        rates=rates,
        credit_window=credit_window,
        max_prepaid=max_prepaid,
        max_ctx=2048,
        fp_profile=fp_profile,
        not_before_ms=NOW_MS - 1000,
        expires_ms=NOW_MS + 3_600_000,
    ).seal(SWARM, provider)


def make_wanted(
    *,
    provider=PROVIDER,
    client=CLIENT,
    nonce=b"c" * 16,
    lo=0,
    hi=4,
    allot_oid=None,
    checkpoint_hash=None,
):
    return Wanted(
        chain_id=b"chain-of-tokens.",
        payer=client.public_key,
        payee=provider.public_key,
        manifest=MANIFEST,
        layer_lo=lo,
        layer_hi=hi,
        salt_commit=sha256(SALT).digest(),
        client_nonce=nonce,
        max_prepaid=1000,
        allot_oid=allot_oid,
        payer_checkpoint_hash=checkpoint_hash,
    )


def make_bond(
    *,
    provider=PROVIDER,
    client=CLIENT,
    nonce=b"c" * 16,
    prepaid=0,
    allot_oid=None,
    checkpoint_hash=None,
    key=None,
    mandate=b"",
    **offered,
):
    """An offer and terms signed by both. key: who signs for the client, by this mandate."""
    funds = {"allot_oid": allot_oid, "checkpoint_hash": checkpoint_hash}
    offer = make_offer(provider=provider, **offered)
    wanted = make_wanted(provider=provider, client=client, nonce=nonce, **funds)
    if key is not None:
        wanted = replace(wanted, payer_key=key.public_key, mandate=mandate)
    proposed = propose_terms(
        offer,
        wanted,
        provider,
        SWARM,
        provider_nonce=b"p" * 16,
        expires_ms=NOW_MS + 600_000,
        prepaid=prepaid,
    )
    return offer, accept_terms(offer, proposed, wanted, key or client, SWARM, now_ms=NOW_MS)


def open_tab(*, lent_ncr=0, provider=PROVIDER, client=CLIENT, limit=no_limit, **bond):
    """Both sides of one tab."""
    offer, terms = make_bond(provider=provider, client=client, **bond)
    return (
        PayerTab(offer, terms, bond.get("key") or client, SWARM, limit=limit),
        ProviderTab(offer, terms, provider, SWARM, lent_ncr=lent_ncr, limit=limit),
    )


def ran(positions, *, prompt=8, n_blocks=4):
    """The tally after `positions` one-row steps."""
    usage = Usage.opened(n_blocks, max_positions=2048, lease_s=60)
    return usage.after(0, positions, prompt, row_bytes=256)


def state(provider, meter, *, epoch=0, now_ms=NOW_MS):
    return provider.make_statement(
        meter, epoch=epoch, last_step=0, in_root=ROOT, out_root=ROOT, now_ms=now_ms
    )


def settle(payer, provider, meter, *, now_ms=NOW_MS, final=True):
    """One exchange of statement and voucher."""
    payer.check_statement(state(provider, meter, now_ms=now_ms), now_ms=now_ms)
    voucher = payer.make_voucher(meter, now_ms=now_ms, final=final)
    provider.accept_voucher(voucher, now_ms=now_ms)
    return voucher


def closed_receipt(positions=20, *, now_ms=NOW_MS, **tab):
    """A receipt as both sides hold it after a tab that ended well."""
    payer, provider = open_tab(**tab)
    settle(payer, provider, ran(positions).meter(), now_ms=now_ms)
    return payer.receipt()
