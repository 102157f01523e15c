"""What one session pays its hops with, where issuers' credit pays.

In: the places in its chain, and what those who sit there ask. Out: a stake for each, which its
request shows, and what of it came to be promised, given back to the purse in the end.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from ledger.meter import Usage
from ledger.objects import Offer
from ledger.opening import most
from ledger.wallet import Stake
from protocol.announcements import Announcement
from protocol.asking import Funding
from protocol.chain_actions import Seat
from protocol.errors import CreditUnknown, LogNeeded, ManyhandsError, NotFunded, PeerRefused
from protocol.identity import public_key_from_peer_id
from scheduler.client_tab import MOST_ROW_BYTES
from scheduler.prices import read_offer
from scheduler.purse import ClientPurse
from scheduler.request import GenerationRequest

log = logging.getLogger(__name__)

MAX_AGAIN = 3  # a log that is lacking, credit not heard of yet, an allotment that is used up
HEARS_S = 2.0  # after so long a peer that knew of too little credit is asked again
SLACK = 4  # a quarter is set aside besides: after a loss, rows are run again


class Funds:
    """Of one session; without a purse nothing is shown and nothing is kept."""

    def __init__(self, purse: ClientPurse | None = None) -> None:
        self._purse = purse
        self._waiting: dict[str, Stake] = {}  # for peers that are asked next
        self._n_again: Counter[str] = Counter()
        self._waited_for: set[str] = set()  # to hear of our credit

    async def prepare(
        self,
        seats: Sequence[Seat],
        announced: Callable[[str], Announcement | None],
        request: GenerationRequest,
        until: float,
    ) -> None:
        """Have a stake for each seat whose offer asks for credit of this swarm.

        until: when the session ends, on the monotonic clock.

        Raises:
            ManyhandsError: see `ClientPurse.stakes`.
        """
        if self._purse is None:
            return
        left_s = until - time.monotonic()
        wants: defaultdict[bytes, dict[str, int]] = defaultdict(dict)
        for seat in seats:
            said = announced(seat.peer)
            offer = read_offer(said.offer) if said and said.offer else None
            if offer is None or offer.rates.is_free or offer.asset not in self._purse.policy.assets:
                continue  # nothing to pay, or nothing that we could agree to
            if seat.peer not in self._waiting:
                wants[offer.asset][seat.peer] = cost_of(offer, seat, request, left_s)
        for asset, costs in wants.items():
            payees = {public_key_from_peer_id(peer): peer for peer in costs}
            amounts = {payee: costs[peer] for payee, peer in payees.items()}
            for payee, stake in (await self._purse.stakes(amounts, asset)).items():
                self._waiting[payees[payee]] = stake

    def given(self, peer: str) -> Stake | None:
        """What a new tab with this peer is paid from."""
        return self._waiting.pop(peer, None)

    async def afforded(
        self,
        seats: Sequence[Seat],
        announced: Callable[[str], Announcement | None],
        request: GenerationRequest,
        until: float,
    ) -> list[Seat]:
        """These, once each has a stake; nobody, where there is nothing to show them."""
        try:
            await self.prepare(seats, announced, request, until)
        except ManyhandsError as error:
            log.info("these hops cannot be paid", extra={"error": str(error)})
            return []
        return list(seats)

    def may_go_on(self, peer: str, error: ManyhandsError) -> bool:
        """Whether there is more to show a peer that found no credit."""
        return isinstance(error, NotFunded) and self._n_again[peer] < MAX_AGAIN

    async def again(self, peer: str, stake: Stake, error: ManyhandsError) -> tuple[Stake, Funding]:
        """What to show a hop that found nothing behind `stake`: our log, the same once it may have
        heard of a grant, or another allotment.

        Raises:
            ManyhandsError: there is nothing more to show.
        """
        assert self._purse is not None, "there was a stake"
        self._n_again[peer] += 1
        wallet = self._purse.wallet
        if isinstance(error, LogNeeded):
            leaves = await asyncio.to_thread(wallet.leaves_for, stake, error.size)
            return stake, Funding(proof=stake.proof, start=error.size, leaves=tuple(leaves))
        if isinstance(error, CreditUnknown) and peer not in self._waited_for:
            self._waited_for.add(peer)
            await asyncio.sleep(HEARS_S)
            return stake, Funding(proof=stake.proof)
        payee = public_key_from_peer_id(peer)
        if not await self._purse.used_up(stake):
            raise error
        fresh = (await self._purse.stakes({payee: stake.amount}, stake.asset))[payee]
        await self._purse.settle({stake: 0})
        return fresh, Funding(proof=fresh.proof)

    def check_asset(self, peer: str, asset: bytes) -> None:
        """Raises PeerRefused: what it asks for is no credit of this swarm."""
        if self._purse is not None and asset not in self._purse.policy.assets:
            raise PeerRefused(peer, "it asks for credit that is not of this swarm")

    async def settle(self, promised: Mapping[Stake, int]) -> None:
        """The session is over: its tabs came to this, and what was never shown is free again."""
        unused, self._waiting = self._waiting, {}
        if self._purse is None:
            return
        await self._purse.settle({**dict.fromkeys(unused.values(), 0), **promised})


NOTHING_TO_PAY = Funds()


def cost_of(offer: Offer, seat: Seat, request: GenerationRequest, left_s: float) -> int:
    """What to set aside for a tab: what it can cost at most, and some more."""
    usage = Usage.opened(len(seat.span), request.capacity, max(left_s, 1.0))
    row_bytes = 4 * request.hidden_size or MOST_ROW_BYTES
    n_prompt = len(request.prompt_ids) if len(request.prompt_ids) > 1 else 0
    cost = most(offer, usage, n_prompt, request.capacity, row_bytes)
    return cost + cost // SLACK
