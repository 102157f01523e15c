"""What a peer asks for its work, from its announced offer: in two numbers, to weigh and to cap.

In: the bytes of an offer. Out: ncr per million positions through one block, the unit in which
`serve` is told a price, and per million positions whatever the number of blocks: an offer counts
rows, heads and KV room too. Signatures are looked at when terms are accepted, not here.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from ledger import Offer, Rates
from protocol.canonical import decode
from protocol.errors import IntegrityError, PeerError
from protocol.messages import Span
from protocol.signing import Envelope

TYPICAL_ROW_KIB = 8  # of a row between hops: 4,096 numbers of two bytes
CACHE_UNIT, CONTEXT_UNIT = 256, 1024  # positions in a quantum of KV room, in a unit of context


class Price(NamedTuple):
    """Ncr for a million positions: through each block, and besides."""

    per_block: float
    besides: float

    def over(self, n_blocks: int) -> float:
        """Per block, when `n_blocks` are run: what a client's cap is compared with."""
        return self.per_block + self.besides / n_blocks


FREE = Price(0.0, 0.0)
UNREADABLE = Price(math.inf, math.inf)  # nobody can agree to what nobody can read


def asked(offer: bytes, span: Span, n_blocks: int, n_positions: int) -> Price:
    """What the peer that announces `span` and `offer` asks in a session of `n_positions`."""
    if not offer:
        return FREE
    read = read_offer(offer)
    return UNREADABLE if read is None else price_of(read.rates, span, n_blocks, n_positions)


def proposed(offer: bytes, n_blocks: int, n_positions: int) -> float:
    """What an offer asks for a million positions through a block, by the span it is about."""
    read = read_offer(offer)
    if read is None:
        return math.inf
    span = Span(read.layer_lo, read.layer_hi)
    return price_of(read.rates, span, n_blocks, n_positions).over(len(span))


def price_of(rates: Rates, span: Span, n_blocks: int, n_positions: int) -> Price:
    """For a position in the middle of a session."""
    context = rates.ctx_ktl * (n_positions // 2 // CONTEXT_UNIT)
    besides = rates.act_kib * TYPICAL_ROW_KIB + rates.kv_q / CACHE_UNIT
    if span.stop == n_blocks:
        besides += rates.head_tok
    return Price(max(rates.prefill_tl, rates.decode_tl) + context, besides)


@lru_cache(maxsize=16_384)
def read_offer(offer: bytes) -> Offer | None:
    """None: these bytes are no offer."""
    try:
        return Offer.from_fields(decode(Envelope.decode(offer).payload))
    except (IntegrityError, PeerError):
        return None
