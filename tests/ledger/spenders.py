"""Accounts of a granted swarm with fixed keys, and the entries they write in their spend logs."""

from hashlib import sha256

from ledger.key_events import DELEGATE, Delegation, KeyEvent, incept
from ledger.key_state import KeyState
from ledger.mandates import mandate_of
from ledger.meter import Meter
from ledger.objects import NO_OBJECT, Terms, Voucher
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spending import Allotment, Collection, CreditNote, Deposit, Grant, Release, Settlement
from protocol.signing import OPEN_SWARM_ID, SigningKey

SWARM = OPEN_SWARM_ID
ISSUER, ANN, BEN, CY, DOT = (SigningKey.from_seed(bytes([n]) * 32) for n in range(41, 46))
WITNESSES = tuple(SigningKey.from_seed(bytes([n]) * 32) for n in range(61, 65))
ASSET = ISSUER.public_key


def grant(account, amount, *, no=0, issuer=ISSUER):
    return Grant(
        issuer=issuer.public_key,
        account=account.public_key,
        asset=issuer.public_key,
        grant_no=no,
        amount=amount,
    ).seal(SWARM, issuer)


def allot(payer, payee, amount, *, no=0, asset=ASSET, expires_epoch=20_000):
    return Allotment(
        payer=payer.public_key,
        asset=asset,
        payee=payee.public_key,
        allot_no=no,
        amount=amount,
        expires_epoch=expires_epoch,
    ).seal(SWARM, payer)


def settle(payer, payee, *claims, asset=ASSET, epoch=7):
    """claims: (allotment's id, what was used of it so far)."""
    total = sum(cumulative for _, cumulative in claims)
    return Settlement(
        epoch=epoch,
        payer=payer.public_key,
        payee=payee.public_key,
        asset=asset,
        claims=tuple(sorted(claims)),
        n_sessions=1,
        receipts_root=sha256(b"receipts").digest(),
        gross=total + 3,
        credit=3,
        net=total,
        meter_sum=Meter(1, 2, 3, 4, 5, 6, 7),
    ).seal(SWARM, payer, payee)


def deposit(payee, settlement, amount):
    settle_oid = settlement.object_id(SWARM) if settlement else NO_OBJECT
    return Deposit(settle_oid=settle_oid, amount=amount).seal(SWARM, payee)


def mandate(account, key, *, max_exposure=100, until=30_000, scopes=("pay",)):
    """What lets a key promise for an account."""
    _, begun = incept(account, DOT.public_key, SWARM)
    state = KeyState.begin(begun, SWARM)
    lets = KeyEvent(
        account=state.account,
        seq=1,
        prev_oid=state.head_oid,
        op=DELEGATE,
        delegate=Delegation(key.public_key, scopes, until, max_exposure),
    ).seal(SWARM, account)
    return mandate_of([begun, lets], key.public_key)


def promise(payer, payee, allot_oid, amount, *, tab=1, asset=ASSET, seq=0, key=None, mandate=b""):
    """A tab's terms and voucher: what a payee needs to collect without its payer. key: who signs,
    if not the payer itself, by this mandate."""
    key = key or payer
    terms = Terms(
        session_id=bytes([tab]) * 16,
        chain_id=bytes(16),
        salt_commit=bytes(32),
        payer=payer.public_key,
        payer_key=key.public_key,
        payee=payee.public_key,
        payee_key=payee.public_key,
        offer_oid=bytes(32),
        manifest=bytes(32),
        layer_lo=0,
        layer_hi=4,
        asset=asset,
        allot_oid=allot_oid,
        payer_checkpoint_hash=bytes(32) if allot_oid else None,
        credit_window=100,
        client_nonce=bytes([tab]) * 16,
        provider_nonce=bytes(16),
        expires_ms=1_790_000_000_000,
        mandate=mandate,
    ).seal(SWARM, key, payee)
    voucher = Voucher(
        session_id=bytes([tab]) * 16,
        terms_oid=terms.object_id(SWARM),
        seq=seq,
        meter=Meter(amount),
        amount=amount,
        statement_oid=sha256(b"statement").digest(),
        issued_ms=1_790_000_000_000,
    ).seal(SWARM, key)
    return terms.encode(), voucher.encode()


def collect(payee, *promises):
    return Collection(promises=tuple(promises)).seal(SWARM, payee)


def release(payee, allotment, claimed_final):
    return Release(allot_oid=allotment.object_id(SWARM), claimed_final=claimed_final).seal(
        SWARM, payee
    )


def credit_note(payee, session_id, amount):
    return CreditNote(session_id=session_id, amount_cum=amount, reason="too slow").seal(
        SWARM, payee
    )


def chained(*envelopes, after=()):
    """Leaves of these entries, following those of `after`."""
    leaves = list(after)
    for envelope in envelopes:
        previous = leaves[-1].hash() if leaves else NO_LEAF
        leaves.append(SpendLeaf(len(leaves), previous, envelope))
    return leaves
