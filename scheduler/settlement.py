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

from ledger.objects import Route as SignedRoute
from ledger.writer import LedgerWriter
from protocol.announcements import Announcement
from protocol.chain_actions import Seat
from protocol.clock import wall_ms
from protocol.constraints import NONE, Constraints
from protocol.errors import (
    BudgetExceeded,
    ManyhandsError,
    PeerRefused,
)
from protocol.handover import Note
from protocol.identity import Identity, public_key_from_peer_id
from protocol.messages import Reserve, SessionId
from protocol.spare import SpareNote
from scheduler.client_tab import ClientTab
from scheduler.commitments import Commitment
from scheduler.funds import NOTHING_TO_PAY, Funds

log = logging.getLogger(__name__)


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
        hidden_size: int = 0,
    ) -> None:
        """funds: what pays, where issuers' credit does.

        hidden_size: of a row between hops; 0: not known here.

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
        self.funds, self._hidden_size = funds, hidden_size
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
        tab = ClientTab(
            reserve, peer, self._identity, self._swarm_id, self._asked, stake, self._hidden_size
        )
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
