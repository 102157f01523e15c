"""The client's tabs in one session: statements in, vouchers out, receipts kept.

In: terms that hops propose, statements they sign, and the stretches of work the session's rules
derive. Out: the client's signatures, never for more than it can derive itself, and a receipt per
tab: also of hops that were lost.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ledger.judging import faults_of
from ledger.meter import Meter, Usage
from ledger.objects import NO_ASSET
from ledger.objects import Route as SignedRoute
from ledger.opening import Wanted, accept_terms
from ledger.receipts import Receipt
from ledger.spending import Fault
from ledger.tab import PayerTab, no_limit
from ledger.wallet import Stake
from ledger.writer import LedgerWriter
from protocol.announcements import Announcement
from protocol.asking import Funding
from protocol.chain_actions import Seat, Stretch
from protocol.clock import wall_ms
from protocol.constraints import NONE, Constraints
from protocol.errors import (
    BudgetExceeded,
    ManyhandsError,
    OfferBroken,
    PeerMisbehaved,
    PeerRefused,
)
from protocol.handover import Note
from protocol.identity import Identity, public_key_from_peer_id
from protocol.messages import TOKEN_BYTES, Reserve, Reserved, SessionId
from protocol.signing import Envelope
from protocol.spare import SpareNote
from scheduler import prices
from scheduler.commitments import Commitment
from scheduler.funds import NOTHING_TO_PAY, Funds

log = logging.getLogger(__name__)


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
    ) -> None:
        """stake: what it is paid from, where issuers' credit pays."""
        self.reserve = replace(reserve, funding=Funding(proof=stake.proof)) if stake else reserve
        self._peer, self.stake = peer, stake
        self._identity, self._swarm_id = identity, swarm_id
        self._constraints = constraints
        self._reserved: Reserved | None = None
        self._tab: PayerTab | None = None
        self.is_spent = False  # it would take a voucher that the client does not sign

    def proposed(self, message: Reserved) -> None:
        self._reserved = message

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
            payer=self._identity.public_key,
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
        return prices.proposed(self._reserved.offer, self.reserve.n_blocks, self.reserve.capacity)

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
        before, now = (
            prices.price_of(each.rates, span, n_blocks, room).over(len(span))
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


@dataclass(frozen=True, slots=True)
class Settled:
    """A session's end on paper. receipts: ids of what was filed, in hex; one for each tab."""

    receipts: tuple[str, ...]
    cost_ncr: int
    commitments: Mapping[str, Commitment] = field(default_factory=dict)  # of hops, by their peer


class Settlement:
    """All tabs of one session, and the things every tab of it shares."""

    def __init__(
        self,
        session: SessionId,
        identity: Identity,
        swarm_id: bytes,
        books: LedgerWriter,
        *,
        max_price: int | None = None,
        max_cost: int | None = None,
        max_prepaid: int = 0,
        constraints: Constraints = NONE,
        funds: Funds = NOTHING_TO_PAY,
    ) -> None:
        """funds: what pays, where issuers' credit does.

        max_price: ncr for a million positions through one block; None: any.

        max_cost: ncr for the whole session, over all its chains; no more is ever promised.

        max_prepaid: ncr that each hop may ask for ahead.

        constraints: on who may serve; all hops get the same bytes, and terms repeat them.
        """
        self.constraints = constraints.seal(session, swarm_id, identity.key)
        self._asked = constraints.encode()
        self._max_price, self._max_cost = max_price, max_cost
        self.announced: Callable[[str], Announcement | None] = lambda peer: None
        self._max_prepaid = max_prepaid
        self.funds = funds
        self.session, self.salt = session, secrets.token_bytes(32)
        self.salt_commit = hashlib.sha256(self.salt).digest()
        self.tabs: dict[str, ClientTab] = {}
        self._earlier: list[ClientTab] = []
        self._identity, self._swarm_id, self._books = identity, swarm_id, books
        self.owes: Callable[[str, Sequence[str]], None] = lambda peer, addresses: None

    def open(self, peer: str, reserve: Reserve) -> ClientTab:
        if (earlier := self.tabs.get(peer)) is not None:
            self._earlier.append(earlier)  # a hop that was lost and came back has two tabs
        stake = self.funds.given(peer)
        tab = ClientTab(reserve, peer, self._identity, self._swarm_id, self._asked, stake)
        self.tabs[peer] = tab
        return tab

    def may_show_more(self, peer: str, error: ManyhandsError) -> bool:
        """Whether a hop that found no credit behind the session can be shown more of it."""
        return self.tabs[peer].stake is not None and self.funds.may_go_on(peer, error)

    async def shown_more(self, peer: str, error: ManyhandsError) -> Reserve:
        """What to ask it once more, with what it needs.

        Raises:
            ManyhandsError: there is nothing more to show.
        """
        tab = self.tabs[peer]
        assert tab.stake is not None
        tab.stake, shown = await self.funds.again(peer, tab.stake, error)
        tab.reserve = replace(tab.reserve, funding=shown)
        return tab.reserve

    def accept(self, peer: str, chain: Collection[str] = (), n_ids: int = 0) -> bytes:
        """Sign a hop's terms, and remember the tab from now on.

        Args:
            chain: the hops that the session goes on with. n_ids: prompt, and answer so far.

        Raises:
            IntegrityError: they are not what was asked for.
            PeerRefused: they ask for more than the client pays, whatever was announced.
            OfferBroken: they ask for more than the peer announced.
        """
        if (said := self.announced(peer)) is not None:
            self.tabs[peer].check_kept(said.offer, wall_ms())
        left_ncr = self.left_ncr({*chain} - {peer}, n_ids)
        if left_ncr is not None and (most := self.tabs[peer].most_ncr(n_ids)) > left_ncr:
            raise PeerRefused(peer, f"it could cost {most} ncr, and {max(0, left_ncr)} are left")
        asked, cap = self.tabs[peer].price_per_million(), self._max_price
        if cap is not None and asked > cap:
            raise PeerRefused(peer, f"it asks {asked:g} ncr per million, more than {cap}")
        if (ahead := self.tabs[peer].ahead_ncr) > self._max_prepaid:
            reason = f"it asks {ahead} ncr ahead, more than {self._max_prepaid}"
            raise PeerRefused(peer, reason, hint=f"--max-prepaid {ahead}, or ask another node")
        if asked:
            self.funds.check_asset(peer, self.tabs[peer].asset)
        terms = self.tabs[peer].accept()
        self.keep(self.tabs[peer])
        return terms

    def left_ncr(self, chain: Collection[str], n_ids: int) -> int | None:
        """What new hops may cost: the limit, less all that those who stay can still earn, and what
        those who are gone have. None: there is no limit."""
        if self._max_cost is None:
            return None
        staying = [t for peer, t in self.tabs.items() if peer in chain and t.is_accepted]
        open_ncr = sum(max(tab.most_ncr(n_ids), tab.promised_ncr) for tab in staying)
        gone_ncr = self.promised_ncr - sum(tab.promised_ncr for tab in staying)
        return self._max_cost - open_ncr - gone_ncr

    @property
    def spent(self) -> BudgetExceeded | None:
        """Why the session cannot go on: all that it may cost is promised."""
        if not any(tab.is_spent for tab in self.tabs.values()):
            return None
        why = f"the answer has cost {self.promised_ncr:,} ncr of the {self._max_cost:,} that it may"
        return BudgetExceeded(why, hint="allow more: --max-cost")

    def most_for(self, tab: ClientTab) -> int | None:
        """What this tab may come to, beside what all others have."""
        if self._max_cost is None:
            return None
        return self._max_cost - (self.promised_ncr - tab.promised_ncr)

    def route(self, epoch: int, seats: Sequence[Seat]) -> bytes:
        """The signed route of an epoch (5a.18), as every hop of it gets it."""
        for seat in seats:
            if seat.peer in self.tabs and self.tabs[seat.peer].price_per_million() > 0:
                self.owes(seat.peer, seat.addresses)
        hops = tuple(
            (public_key_from_peer_id(seat.peer), seat.span.start, seat.span.stop) for seat in seats
        )
        route = SignedRoute(session=self.session, epoch=epoch, hops=hops)
        return route.seal(self._swarm_id, self._identity.key).encode()

    def sealed(self, note: Note | SpareNote) -> bytes:
        """A peer's leave to have what a hop has run (5a.19, 5a.20)."""
        return note.seal(self._swarm_id, self._identity.key)

    def digest(self, ids: bytes) -> bytes:
        """What a middle hop learns of the ids: a salted digest."""
        return hashlib.sha256(self.salt + ids).digest()

    def keep(self, tab: ClientTab) -> None:
        """Remember an open tab, so that a crash loses nothing of it."""
        if (receipt := tab.receipt()) is not None:
            self._books.keep(receipt)

    async def file(self) -> Settled:
        """Log the receipt of every tab, lost hops' ones too."""
        tabs = (*self._earlier, *self.tabs.values())
        receipts = [tab.receipt() for tab in tabs]
        await self.funds.settle({tab.stake: tab.promised_ncr for tab in tabs if tab.stake})
        for tab in tabs:
            for fault in tab.faults():
                self._books.report(fault)
        filing = [asyncio.wrap_future(self._books.file(receipt)) for receipt in receipts if receipt]
        filed = []
        for entry in await asyncio.gather(*filing, return_exceptions=True):
            if isinstance(entry, ManyhandsError):
                log.error("a receipt could not be filed", extra={"error": str(entry)})
            elif isinstance(entry, BaseException):
                raise entry
            else:
                filed.append(entry.receipt_id.hex())
        return Settled(tuple(filed), self.promised_ncr, self.commitments())

    def commitments(self) -> Mapping[str, Commitment]:
        """What each hop that stated anything is held to now."""
        held = (tab.commitment(self.salt) for tab in self.tabs.values())
        return {each.peer: each for each in held if each}

    @property
    def promised_ncr(self) -> int:
        """Over all tabs, those of hops that are gone too."""
        return sum(tab.promised_ncr for tab in (*self._earlier, *self.tabs.values()))
