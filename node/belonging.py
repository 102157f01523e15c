"""A node's part in its swarm: it keeps its state like the others', and lets go whom that sends off.

In: a membership, who serves now. Out: an exchange of states with one peer every few seconds, with
several at once when there is news, so that a revocation reaches everybody within seconds; the call
by which others do the same; and a fresh look at who may stay, since memberships also expire.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from node.registrar import Registrar
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError, PeerBusy
from protocol.guard import Allowance, Budget
from protocol.identity import PeerId
from protocol.membership.exchange import METHOD, answer, exchange
from protocol.membership.gate import Membership
from protocol.membership.invites import METHOD as REDEEM
from protocol.path_book import Met
from protocol.rate_limits import Limit
from protocol.transport import CallHandler, Transport
from protocol.transport.paths import paths_of

log = logging.getLogger(__name__)

EVERY_S, NEWS_PARTNERS = 3.0, 4
FOUND_AGAIN_ROUNDS = 20  # a minute: how often it is written down where members were reached
TIMEOUT_S = 3.0
# Of one member.
BUDGET = Budget(calls=Limit(per_s=5, burst=50), bytes=Limit(per_s=256 * 1024, burst=4 * 2**20))

Keep = Callable[[Membership, Met], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node's place in a swarm that has members."""

    membership: Membership  # the gate of `transport`
    transport: Transport
    registrar: Registrar
    keep: Keep  # called with what is new, and whom we reached, for this home's next start


class Belonging:
    """`run` it for as long as the node is up."""

    def __init__(
        self,
        place: Place,
        others: Callable[[], Sequence[Announcement]],
        join: Sequence[Address] = (),
        *,
        rng: random.Random | None = None,
    ) -> None:
        """`others`: who serves now, but this node."""
        membership = place.membership
        self.calls: Mapping[str, CallHandler] = {METHOD: self.handle}
        self.open_calls: Mapping[str, CallHandler] = {REDEEM: place.registrar.handle}
        self._membership, self._transport, self._others = membership, place.transport, others
        self._join = [address for address in join if address.peer_id != self._transport.peer_id]
        self._keep, self._rng = place.keep, rng or random.Random()
        self._allowance = Allowance(BUDGET)
        self._wake = asyncio.Event()
        self._told = membership.state.digest
        self._kept = Met()
        self._must_keep = False  # what was ruled, and could not be kept
        membership.watch(self._changed)

    @property
    def credential(self) -> bytes:
        """By what right this node serves."""
        return self._membership.credential

    def _changed(self) -> None:
        if self._membership.state.digest != self._told:
            self._wake.set()

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        """Answer another member's call of the method "swarm".

        Raises:
            PeerBusy: it calls too often. PeerMisbehaved: it sent what no admin made.
        """
        if not self._allowance.admit(peer_id, len(request)):
            raise PeerBusy(self._transport.peer_id, "too many questions about the swarm")
        told = answer(self._membership, request, sender=peer_id)
        self._allowance.owe(peer_id, n_bytes=len(told))
        return told

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        for n_rounds in itertools.count():
            is_news = self._membership.state.digest != self._told
            self._told = self._membership.state.digest
            self._wake.clear()
            await self._keep_what_is_new(is_news or n_rounds % FOUND_AGAIN_ROUNDS == 1, is_news)
            async with asyncio.TaskGroup() as tasks:
                for addresses in self._partners(NEWS_PARTNERS if is_news else 1):
                    tasks.create_task(self._exchange(addresses))
            try:
                async with asyncio.timeout(EVERY_S * self._rng.uniform(0.8, 1.2)):
                    await self._wake.wait()
            except TimeoutError:
                self._membership.look_again()

    async def _keep_what_is_new(self, looks: bool, is_news: bool) -> None:
        met = paths_of(self._transport).book.met()
        self._must_keep |= is_news
        if not looks or not (self._must_keep or _differ(met, self._kept)):
            return
        try:
            await self._keep(self._membership, met)
        except Exception as error:  # a full disk must end no session: it is tried again
            why = {"why": str(error) or type(error).__name__}
            log.warning("what was heard of the swarm is not kept", extra=why)
        else:
            self._kept, self._must_keep = met, False

    def _partners(self, n_partners: int) -> list[tuple[Address, ...]]:
        """Whom we were told of at their addresses as well: those may be the ones that work."""
        known = {peer.peer_id: peer.to_dial for peer in self._others() if peer.addresses}
        state, serving = self._membership.state, frozenset(known)
        for address in self._join:
            if (peer := address.peer_id) in serving or not state.is_sent_off(peer):
                known[peer] = tuple(dict.fromkeys((*known.get(peer, ()), address)))
        return self._rng.sample(list(known.values()), min(n_partners, len(known)))

    async def _exchange(self, addresses: Sequence[Address]) -> None:
        peer_id = addresses[0].peer_id
        try:
            paths = paths_of(self._transport)
            connection = await paths.dial(peer_id, addresses, timeout_s=TIMEOUT_S)
            try:
                await exchange(connection, self._membership, timeout_s=TIMEOUT_S)
            finally:
                await connection.aclose()
        except ManyhandsError as error:
            why = {"peer": peer_id, "why": str(error)}
            log.debug("a state was not exchanged", extra=why)


def _differ(met: Met, kept: Met) -> bool:
    """Whether others answer than when it was written down, in whatever order."""
    return bool(met.reached) and (set(met.reached), met.silent) != (set(kept.reached), kept.silent)
