"""A middle hop's meter and its client's tab, agreed and open: no node, no socket, no engine."""

import secrets
from hashlib import sha256

from ledger.escrow import Escrow, Hold
from ledger.meter import Rates
from ledger.objects import Offer
from node.metering import SessionMeter, Till
from protocol.clock import wall_ms
from protocol.identity import Identity
from protocol.messages import Commit, Reserve, Reserved, SessionId, Span
from protocol.signing import OPEN_SWARM_ID, Envelope, SigningKey
from scheduler.client_tab import ClientTab

PROVIDER, PAYER = (Identity(SigningKey.from_seed(bytes([n]) * 32)) for n in (5, 6))
SPAN, PROFILE, SALT = Span(3, 6), "float32/none/float32", bytes(32)


def commit_of(n_prompt: int) -> Commit:
    """Of a session's first epoch."""
    return Commit(
        epoch=0,
        length=0,
        next_length=0,
        n=n_prompt,
        n_prompt=n_prompt,
        previous="before",
        next="behind",
        next_addresses=(),
        route=b"",
        salt=SALT,
    )


def opened(
    rates: Rates,
    window: int,
    *,
    n_prompt: int,
    capacity: int,
    row_bytes: int,
    lent: int,
    prepaid: int = 0,
    hold: Hold | None = None,
    escrow: Escrow | None = None,
) -> tuple[SessionMeter, ClientTab]:
    """window, prepaid, lent: ncr of credit, ahead, and for the prompt, of which nothing ran yet."""
    offer = Offer(
        provider=PROVIDER.public_key,
        offer_no=1,
        manifest=bytes(32),
        layer_lo=0,
        layer_hi=12,
        exec_profile=PROFILE,
        rates=rates,
        credit_window=window,
        max_prepaid=prepaid,
        max_ctx=4096,
        not_before_ms=wall_ms() - 1000,
        expires_ms=wall_ms() + 10**7,
    ).seal(OPEN_SWARM_ID, PROVIDER.key)
    reserve = Reserve(
        session=SessionId(secrets.token_bytes(16)),
        epoch=0,
        manifest=bytes(32),
        span=SPAN,
        n_blocks=12,
        capacity=capacity,
        max_tokens=capacity - n_prompt,
        budget_ms=600_000,
        client_nonce=secrets.token_bytes(16),
        salt_commit=sha256(SALT).digest(),
    )
    till = Till(PROVIDER.key, OPEN_SWARM_ID, lambda: offer, lent, escrow)
    nonce = secrets.token_bytes(16)
    meter = SessionMeter(till, reserve, PAYER.public_key, row_bytes, nonce)
    tab = ClientTab(reserve, PROVIDER.peer_id, PAYER, OPEN_SWARM_ID)
    terms = meter.proposed.encode()
    tab.proposed(
        Reserved(epoch=0, terms=terms, offer=offer.encode(), row_bytes=row_bytes, profile=PROFILE)
    )
    meter.accept(Envelope.decode(tab.accept()), n_prompt)
    meter.hold = hold
    meter.begin_epoch(commit_of(n_prompt))
    return meter, tab
