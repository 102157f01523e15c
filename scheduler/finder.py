"""Seats for missing blocks: the directory and the route search, asked until they have an answer.

In: which blocks, who stays, whom to avoid. Out: seats, or the error that says what is missing. It
looks in what is already known first, since a failover must not wait for a round of gossip, and
asks the swarm again only when that is not enough.
"""

import asyncio
import random
import time
from collections.abc import Sequence

from protocol.address import Address
from protocol.chain_actions import FindRoute, Seat
from protocol.errors import (
    ManyhandsError,
    PeerBusy,
    PeerUnreachable,
    SessionTimeout,
    SwarmIncomplete,
)
from protocol.identity import PeerId
from protocol.messages import Span
from protocol.transport import Transport
from scheduler.directory import Directory, fetch_directory
from scheduler.request import GenerationRequest
from scheduler.routing import Route, Wanted, draw_route, find_replacement

AGAIN_S = (0.1, 0.25)  # between looks, drawn: clients that failed together do not return together


class RouteFinder:
    """For one session; keeps what it learned about the chain's profile."""

    def __init__(
        self,
        request: GenerationRequest,
        transport: Transport,
        directory: Directory,
        join: Sequence[Address],
        rng: random.Random,
    ) -> None:
        self.profile = request.profile or ""
        self._since: float | None = None  # when the chain at hand began to be looked for
        self._request, self._transport = request, transport
        self._directory, self._join, self._rng = directory, tuple(join), rng

    async def find(
        self, action: FindRoute, causes: Sequence[ManyhandsError], deadline: float
    ) -> list[Seat]:
        """Seats for every missing run.

        Raises:
            PeerUnreachable: nobody answers at all.
            SwarmIncomplete: nobody serves some blocks, or all who do were lost.
            ManyhandsError: the refusal, when those who serve the blocks refused.
        """
        self._since = self._since or time.monotonic()
        until = min(deadline, self._since + self._request.wait_s)
        avoid = set(action.avoid)
        unreachable: ManyhandsError | None = None
        while True:
            seats = self._look(action, avoid)
            if seats is not None:
                return seats
            if time.monotonic() >= until:
                raise self._why(action, avoid, causes, unreachable, deadline)
            unreachable = await self._ask(avoid)
            if self._look(action, avoid) is None:
                if self._refused(action, avoid, causes):
                    raise causes[-1]
                await asyncio.sleep(self._rng.uniform(*AGAIN_S))
                # Who was only busy may have room again (5a.15), who was silent may be back.
                avoid -= {c.peer_id for c in causes if isinstance(c, PeerBusy | PeerUnreachable)}

    def found(self) -> None:
        """The chain stands: the next search has time of its own."""
        self._since = None

    def _look(self, action: FindRoute, avoid: set[str]) -> list[Seat] | None:
        """Seats from what is known now, or None."""
        seats: list[Seat] = []
        for missing in action.missing:
            taken = avoid | {seat.peer for seat in (*action.survivors, *seats)}
            routes = find_replacement(
                self._directory.live(),
                missing,
                self._wanted(taken),
                before=_neighbour(action.survivors, missing, -1),
                after=_neighbour(action.survivors, missing, +1),
                rtt_ms=self._directory.rtt_ms,
                seed=self._rng.getrandbits(32),
            )
            if not routes:
                return None
            seats += self._seats(draw_route(routes, self._rng))
        return seats

    def _seats(self, route: Route) -> list[Seat]:
        self.profile = self.profile or route.hops[0].announcement.profile
        return [
            Seat(hop.peer_id, hop.span, tuple(str(address) for address in hop.addresses))
            for hop in route.hops
        ]

    def _wanted(self, avoid: set[str]) -> Wanted:
        request = self._request
        return Wanted(
            manifest=request.manifest,
            n_blocks=request.n_blocks,
            n_positions=request.capacity,
            profile=self.profile or None,
            avoid=frozenset(map(PeerId, avoid)),
        )

    async def _ask(self, avoid: set[str]) -> ManyhandsError | None:
        """Ask the swarm: those we were told of, and anybody we heard about since."""
        known = [
            address
            for peer in self._directory.live()
            if peer.peer_id not in avoid
            for address in peer.addresses[:1]
        ]
        self._rng.shuffle(known)
        asked = [*(a for a in self._join if a.peer_id not in avoid), *known] or list(self._join)
        try:
            await fetch_directory(self._transport, asked, self._directory, timeout_s=1.0)
        except ManyhandsError as error:
            return error
        return None

    def _refused(
        self, action: FindRoute, avoid: set[str], causes: Sequence[ManyhandsError]
    ) -> bool:
        """Whether peers that are there said no for good: waiting would not change their minds."""
        if not causes or isinstance(causes[-1], PeerBusy | PeerUnreachable):
            return False
        return self._look(action, set()) is not None

    def _why(
        self,
        action: FindRoute,
        avoid: set[str],
        causes: Sequence[ManyhandsError],
        unreachable: ManyhandsError | None,
        deadline: float,
    ) -> ManyhandsError:
        if time.monotonic() >= deadline:
            return SessionTimeout("no route was found in time", hint="raise --timeout")
        if unreachable is not None and not self._directory.live():
            return unreachable
        if causes and isinstance(causes[-1], PeerBusy):
            return causes[-1]
        survivors = {seat.peer for seat in action.survivors}
        try:
            self._directory.require_complete(
                self._wanted(avoid - survivors), model=self._request.model
            )
        except (SwarmIncomplete, PeerUnreachable) as error:
            return error
        missing = [(span.start, span.stop) for span in action.missing]
        return SwarmIncomplete(missing, model=self._request.model)


def _neighbour(survivors: Sequence[Seat], missing: Span, side: int) -> PeerId | None:
    """The surviving hop before (-1) or after (+1) a run, around the ring."""
    if not survivors:
        return None
    ordered = sorted(survivors, key=lambda seat: seat.span)
    if side < 0:
        before = [seat for seat in ordered if seat.span.stop <= missing.start]
        return PeerId((before or ordered)[-1].peer)
    after = [seat for seat in ordered if seat.span.start >= missing.stop]
    return PeerId((after or ordered)[0].peer)
