"""What a peer asks for its work, from its announced offer: in two numbers, to weigh and to cap.

In: the bytes of an offer. Out: ncr per million positions through one block, the unit in which
`serve` is told a price, and per million positions whatever the number of blocks: an offer counts
rows, heads and KV room too. Signatures are looked at when terms are accepted, not here.
"""

import math
from functools import lru_cache
from typing import NamedTuple

from ledger import Meter, Offer, Rates
from ledger.meter import CACHE_UNIT, CONTEXT_UNIT, lease_quanta
from protocol.canonical import MAX_UINT, decode
from protocol.errors import IntegrityError, PeerError
from protocol.messages import Span
from protocol.signing import Envelope

TYPICAL_ROW_KIB = 8  # of a row between hops: 4,096 numbers of two bytes
LEASE_S = 600.0  # for which a session has KV room, unless it says otherwise


class Price(NamedTuple):
    """Ncr for a million positions: a prompt's and an answer's through each block, any besides, and
    an answer's at the head."""

    prefill: float
    decode: float
    besides: float
    head: float = 0.0

    def over(self, n_blocks: int) -> float:
        """Per block, when `n_blocks` are run: what a client's cap is compared with."""
        return max(self.prefill, self.decode) + (self.besides + self.head) / n_blocks

    def of(self, n_blocks: int, n_prompt: int, n_answer: int) -> float:
        """What a session is expected to cost at this peer, in ncr."""
        blocks = n_blocks * (self.prefill * n_prompt + self.decode * n_answer)
        return (blocks + self.besides * (n_prompt + n_answer) + self.head * n_answer) / 1e6


FREE = Price(0.0, 0.0, 0.0)
UNREADABLE = Price(math.inf, math.inf, math.inf)  # nobody can agree to what nobody can read


def asked(
    offer: bytes, span: Span, n_blocks: int, n_positions: int, lease_s: float = LEASE_S
) -> Price:
    """What the peer that announces `span` and `offer` asks in a session of `n_positions`, for which
    room is leased for `lease_s`.
    """
    if not offer:
        return FREE
    if (read := read_offer(offer)) is None:
        return UNREADABLE
    return price_of(read.rates, span, n_blocks, n_positions, lease_s)


def proposed(offer: bytes, n_blocks: int, n_positions: int, lease_s: float) -> float:
    """What an offer asks for a million positions through a block, by the span it is about."""
    read = read_offer(offer)
    if read is None:
        return math.inf
    span = Span(read.layer_lo, read.layer_hi)
    return price_of(read.rates, span, n_blocks, n_positions, lease_s).over(len(span))


def cost(offer: bytes, meter: Meter) -> int:
    """What so much work costs by an offer, in ncr; more than anybody has where none can read it."""
    read = read_offer(offer)
    return MAX_UINT if read is None else read.price(meter)


def price_of(
    rates: Rates, span: Span, n_blocks: int, n_positions: int, lease_s: float = LEASE_S
) -> Price:
    """For a position in the middle of a session; its room is paid by the minute, for all of it."""
    context = rates.ctx_ktl * (n_positions // 2 // CONTEXT_UNIT)
    n = n_positions or CACHE_UNIT
    room = rates.kv_q * lease_quanta(n, lease_s) / n
    besides = rates.act_kib * TYPICAL_ROW_KIB + room
    head = rates.head_tok if span.stop == n_blocks else 0
    return Price(rates.prefill_tl + context, rates.decode_tl + context, besides, head)


def ahead_of(offer: bytes) -> int:
    """Ncr that its peer asks for before it runs anything."""
    read = read_offer(offer)
    return read.max_prepaid if read else 0


@lru_cache(maxsize=16_384)
def read_offer(offer: bytes) -> Offer | None:
    """None: these bytes are no offer."""
    try:
        return Offer.from_fields(decode(Envelope.decode(offer).payload))
    except (IntegrityError, PeerError):
        return None
