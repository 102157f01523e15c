"""The signed offer for one span: what a node asks for its work, and until when.

In: terms that stay while the span is served. Out: an envelope, made anew when half its life is
over. Offers of one node are numbered upward, whatever span they are for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ledger.meter import Rates
from ledger.objects import NO_ASSET, Offer
from protocol.clock import wall_ms
from protocol.identity import Identity
from protocol.messages import Span
from protocol.signing import Envelope

EARLIER_MS = 60_000  # an offer holds for clients whose clocks are behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an offer says besides its number and its time."""

    manifest: bytes
    span: Span
    execution: str
    rates: Rates
    asset: bytes = NO_ASSET  # whose credit the rates are in, where issuers' counts
    credit_window_ncr: int
    prepaid_ncr: int = 0
    max_positions: int
    fp_profile: str = ""  # by which what is run may be judged; empty: by none


class Offers:
    """Call it for the offer in force."""

    def __init__(
        self,
        identity: Identity,
        swarm_id: bytes,
        terms: Terms,
        lifetime_s: float,
        numbers: Iterator[int],
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._identity, self._swarm_id, self._terms = identity, swarm_id, terms
        self._lifetime_ms, self._numbers, self._now_ms = int(lifetime_s * 1000), numbers, now_ms
        self._current: Envelope | None = None
        self._until_ms = 0

    def __call__(self) -> Envelope:
        now_ms, terms = self._now_ms(), self._terms
        if self._current is None or now_ms > self._until_ms - self._lifetime_ms // 2:
            self._until_ms = now_ms + self._lifetime_ms
            self._current = Offer(
                provider=self._identity.public_key,
                offer_no=next(self._numbers),
                manifest=terms.manifest,
                layer_lo=terms.span.start,
                layer_hi=terms.span.stop,
                exec_profile=terms.execution,
                asset=NO_ASSET if terms.rates.is_free else terms.asset,
                rates=terms.rates,
                credit_window=terms.credit_window_ncr,
                max_prepaid=terms.prepaid_ncr,
                max_ctx=terms.max_positions,
                fp_profile=terms.fp_profile,
                not_before_ms=now_ms - EARLIER_MS,
                expires_ms=self._until_ms,
            ).seal(self._swarm_id, self._identity.key)
        return self._current
