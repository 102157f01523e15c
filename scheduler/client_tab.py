"""One hop's account in a session, as the client keeps it: terms, statements, vouchers, receipt.

In: terms that the hop proposes, statements that it signs, the stretches of work that the session's
rules derive. Out: the client's signatures, never for more than it can derive itself. What all tabs
of a session share is in `settlement.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

from ledger.judging import faults_of
from ledger.meter import Meter, Usage
from ledger.objects import NO_ASSET
from ledger.opening import Wanted, accept_terms
from ledger.receipts import Receipt
from ledger.spending import Fault
from ledger.tab import PayerTab, no_limit
from ledger.wallet import Stake
from protocol.asking import Funding
from protocol.chain_actions import Stretch
from protocol.clock import wall_ms
from protocol.errors import OfferBroken, PeerMisbehaved, UsageError
from protocol.identity import Identity, public_key_from_peer_id
from protocol.messages import TOKEN_BYTES, Reserve, Reserved
from protocol.profile import Profile
from protocol.signing import Envelope
from protocol.wire import wire_format
from scheduler import prices
from scheduler.commitments import Commitment

MOST_ROW_BYTES = 64 << 10  # of a row between hops, where its size is not known


class ClientTab:
    """One hop's account, as the client keeps it."""

    def __init__(
        self,
        reserve: Reserve,
        peer: str,
        identity: Identity,
        swarm_id: bytes,
        constraints: bytes = b"",
        stake: Stake | None = None,
        hidden_size: int = 0,
    ) -> None:
        """stake: what it is paid from, where issuers' credit pays.

        hidden_size: of a row between hops; 0: not known here.
        """
        self._hidden_size = hidden_size
        self.reserve = replace(reserve, funding=Funding(proof=stake.proof)) if stake else reserve
        self._peer, self.stake = peer, stake
        self._identity, self._swarm_id = identity, swarm_id
        self._constraints = constraints
        self._reserved: Reserved | None = None
        self._tab: PayerTab | None = None
        self._derived: tuple[tuple[list[Stretch], int], Meter] = (([], -1), Meter())
        self.is_spent = False  # it would take a voucher that the client does not sign

    def proposed(self, message: Reserved) -> None:
        """What the hop says it reserved, and would do it for.

        Raises:
            PeerMisbehaved: it said otherwise before, or counts rows wider than they travel.
        """
        if self._reserved not in (None, message):
            raise PeerMisbehaved(self._peer, "it takes back what it reserved")
        if not self._is_as_wide(message):
            raise PeerMisbehaved(self._peer, f"rows of {message.row_bytes} bytes, which none has")
        self._reserved = message

    def _is_as_wide(self, message: Reserved) -> bool:
        """Bytes of rows are billed: how many they are is no hop's choice."""
        if not self._hidden_size:
            return 0 < message.row_bytes <= MOST_ROW_BYTES
        try:
            wire = wire_format(Profile.parse(self.reserve.profile or message.profile).wire)
        except UsageError:
            return False
        return message.row_bytes == wire.row_bytes(self._hidden_size)

    def accept(self) -> bytes:
        """Sign the hop's terms if they are what was asked for (encoded envelope).

        Raises:
            IntegrityError: they are not.
        """
        assert self._reserved is not None
        reserve, span = self.reserve, self.reserve.span
        offer = Envelope.decode(self._reserved.offer)
        stake = None if self.is_free else self.stake
        wanted = Wanted(
            chain_id=reserve.session,
            payer=stake.payer if stake else self._identity.public_key,
            payer_key=self._identity.public_key,
            payee=public_key_from_peer_id(self._peer),
            manifest=reserve.manifest,
            layer_lo=span.start,
            layer_hi=span.stop,
            salt_commit=reserve.salt_commit,
            client_nonce=reserve.client_nonce,
            constraints=self._constraints,
            allot_oid=stake.oid if stake else None,
            payer_checkpoint_hash=stake.checkpoint_hash if stake else None,
            max_prepaid=self.ahead_ncr,
        )
        terms = accept_terms(
            offer,
            Envelope.decode(self._reserved.terms),
            wanted,
            self._identity.key,
            self._swarm_id,
            now_ms=wall_ms(),
            profile=reserve.profile or self._reserved.profile,
        )
        limit = stake.covers if stake else no_limit
        self._tab = PayerTab(offer, terms, self._identity.key, self._swarm_id, limit=limit)
        return terms.encode()

    def derived(self, stretches: Sequence[Stretch], cached: int) -> Meter:
        """What the hop has done, from our prompt and the token events alone (5a.11).

        cached: rows it had before the session began.
        """
        work = [*stretches], cached
        if self._derived[0] != work:  # it is asked for twice with each statement
            self._derived = work, self._derive(stretches, cached)
        return self._derived[1]

    def _derive(self, stretches: Sequence[Stretch], cached: int) -> Meter:
        assert self._reserved is not None
        reserve = self.reserve
        row_bytes = TOKEN_BYTES if reserve.is_first else self._reserved.row_bytes
        usage = Usage.opened(len(reserve.span), reserve.capacity, reserve.budget_ms / 1000)
        usage = usage.after_cached(cached)
        for stretch in stretches:
            usage = usage.after(
                stretch.start,
                stretch.stop,
                stretch.prefill_until,
                row_bytes,
                head_rows=stretch.heads if reserve.is_last else 0,
            )
        return usage.meter()

    def most_ncr(self, n_ids: int) -> int:
        """What the hop can earn by terms for all its room, of which `n_ids` are known already."""
        assert self._reserved is not None
        reserve = self.reserve
        first = max(1, min(n_ids, reserve.capacity))
        whole = [Stretch(0, first, first), Stretch(first, reserve.capacity, first)]
        return prices.cost(self._reserved.offer, self.derived(whole, 0)) + self.ahead_ncr

    @property
    def ahead_ncr(self) -> int:
        """What the hop's offer asks for before it runs anything; it keeps that, come what may."""
        assert self._reserved is not None
        offer = prices.read_offer(self._reserved.offer)
        return offer.max_prepaid if offer else 0

    @property
    def is_accepted(self) -> bool:
        return self._tab is not None

    @property
    def is_free(self) -> bool:
        return self.price_per_million() == 0

    @property
    def asset(self) -> bytes:
        """Whose credit the hop asks for, by its offer."""
        assert self._reserved is not None
        offer = prices.read_offer(self._reserved.offer)
        return offer.asset if offer else NO_ASSET

    def price_per_million(self) -> float:
        """Ncr for positions through one block, by the offer that the hop reserved under."""
        assert self._reserved is not None
        asks = self._reserved.offer, self.reserve.n_blocks, self.reserve.capacity
        return prices.proposed(*asks, self.reserve.budget_ms / 1000)

    def check_kept(self, announced: bytes, now_ms: int) -> None:
        """Whether it asks no more than by the offer that it announced, while that is in force.

        Raises:
            OfferBroken: it does: who is chosen for a price has to keep it (bait and switch).
        """
        assert self._reserved is not None
        said, asks = prices.read_offer(announced), prices.read_offer(self._reserved.offer)
        if said is None or asks is None or said.provider != asks.provider:
            return
        if said.manifest != self.reserve.manifest or said.expires_ms <= now_ms:
            return
        span, n_blocks, room = self.reserve.span, self.reserve.n_blocks, self.reserve.capacity
        lease_s = self.reserve.budget_ms / 1000
        before, now = (
            prices.price_of(each.rates, span, n_blocks, room, lease_s).over(len(span))
            for each in (said, asks)
        )
        if now > before:
            why = f"it offers {before:g} ncr per million and asks {now:g}, its offer being in force"
            raise OfferBroken(self._peer, why)

    def hear(self, statement: bytes) -> None:
        """Take a statement in.

        Raises:
            IntegrityError: it is not this hop's, or takes an earlier one back.
        """
        if self._tab is not None:
            self._tab.check_statement(Envelope.decode(statement), now_ms=wall_ms())

    def check_claim(self, stretches: Sequence[Stretch], cached: int) -> None:
        """Whether the hop may still say that it ran what its last statement says. It runs nothing
        beyond a window that it is not paid for, and all that we have seen the fruit of we pay.

        Raises:
            PeerMisbehaved: it claims more than a window beyond what we saw. It stays unpaid.
        """
        tab, derived = self._tab, self.derived(stretches, cached)
        if tab is None or tab.statement is None or not derived.prefill_tl:
            return  # the prompt itself may be run on credit
        claimed, seen = tab.offer.price(tab.statement.meter), tab.offer.price(derived)
        if claimed > seen + tab.terms.credit_window:
            reason = f"it claims {claimed} ncr for work that we saw {seen} ncr of"
            raise PeerMisbehaved(self._peer, reason)

    def voucher(
        self,
        stretches: Sequence[Stretch],
        *,
        cached: int = 0,
        final: bool = False,
        now: bool = False,
        most_ncr: int | None = None,
    ) -> bytes | None:
        """A voucher if one is due (or asked for `now`, or `final`), and none for more than
        `most_ncr`.
        """
        if self._tab is None:
            return None
        derived = self.derived(stretches, cached)
        if not (final or now or self._tab.voucher_due(derived)):
            return None
        ahead = 0 if final else self._tab.terms.prepaid
        if most_ncr is not None and self._tab.offer.price(derived) + ahead > most_ncr:
            self.is_spent = True
            return None
        return self._tab.make_voucher(derived, now_ms=wall_ms(), final=final).encode()

    @property
    def is_even(self) -> bool:
        """Whether the last voucher covers all that the hop has stated."""
        tab = self._tab
        if tab is None or tab.voucher is None or tab.statement is None:
            return False
        return tab.voucher.meter == tab.statement.meter

    @property
    def promised_ncr(self) -> int:
        """What the hop's work has cost."""
        return self._tab.promised if self._tab is not None else 0

    def faults(self) -> list[Fault]:
        """What the hop signed that nobody honest signs."""
        return faults_of(self._tab, self._swarm_id) if self._tab is not None else []

    def receipt(self) -> Receipt | None:
        return self._tab.receipt() if self._tab is not None else None

    def commitment(self, salt: bytes) -> Commitment | None:
        """What the hop has stated last; None: nothing yet."""
        return Commitment.of(self._tab, self._peer, salt) if self._tab is not None else None
