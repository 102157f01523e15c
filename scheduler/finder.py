"""Seats for missing blocks: the directory and the route search, asked until they have an answer.

In: which blocks, who stays, whom to avoid. Out: seats, or the error that says what is missing. It
looks in what is already known first, since a failover must not wait for a round of gossip, and
asks the swarm again only when that is not enough. Whom a session lost it asks again in turn, when
nobody else is left; who refused for good it does not.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from protocol.address import Address
from protocol.announcements import Announcement
from protocol.chain_actions import FindHeirs, FindRoute, Seat
from protocol.errors import (
    BudgetExceeded,
    ManyhandsError,
    PeerBusy,
    PeerUnreachable,
    SwarmIncomplete,
)
from protocol.identity import PeerId
from protocol.messages import Span
from protocol.record_pages import record_of, write_records
from protocol.transport import Transport
from scheduler.affording import within
from scheduler.chain import Connections
from scheduler.directory import Directory, fetch_directory
from scheduler.judged import Judged, judged
from scheduler.known_rows import KnownRows
from scheduler.peer_record import PeerRecords
from scheduler.prefixes import Familiar
from scheduler.probing import choose_fresh
from scheduler.request import GenerationRequest
from scheduler.route_watch import RouteWatch
from scheduler.routing import (
    MENDING_ROUTES,
    Route,
    Wanted,
    draw_route,
    find_replacement,
)
from scheduler.search_time import SearchTime, passes
from scheduler.seats import neighbour, seat_of
from scheduler.turns import Turn, Turns

ASK_S = 1.0  # to answer what they know, at first; most do within milliseconds
OFF_LOOP = 300  # peers, from which on a search takes a thread


class RouteFinder:
    """For one session; keeps the chain to one profile once it stood.

    profile: of the seats found last. adapter: of all seats, `name@digest` once some were found.
    waits_for: what keeps it from an answer, while it waits for that to change; `on_wait` is told.
    known: who has run rows of the session: they are found first. n_run: how many rows a hop that is
    new has to run again.
    """

    def __init__(
        self,
        request: GenerationRequest,
        transport: Transport,
        directory: Directory,
        join: Sequence[Address],
        rng: random.Random,
        familiar: Familiar | None = None,
        *,
        ends: PeerId | None = None,
        records: PeerRecords | None = None,
        connections: Connections | None = None,
        permit: Callable[[], None] = lambda: None,
        turns: Turns | None = None,
    ) -> None:
        """
        Args:
            turns: of all sessions of this client, whose first chains ask for room.
            permit: raises NotPermitted where the swarm does not let this model be used.
            connections: to ask peers by, before the choice among them; None: nobody is asked.
            ends: whoever sits before the first hop and behind the last one; None closes a ring.
            records: what the client saw of its peers in earlier sessions; this one adds to it.
        """
        self._ends = ends
        self.profile = self._agreed = request.profile or ""
        self.adapter = request.adapter
        self.waits_for: ManyhandsError | None = None
        self.on_wait: Callable[[ManyhandsError], None] = lambda error: None
        self.n_run: Callable[[], int] = int
        self.has_begun: Callable[[], bool] = bool
        self.left_ncr: Callable[[Collection[str]], int | None] = lambda staying: None
        self._too_dear: BudgetExceeded | None = None  # why what was found last will not do
        self._unreachable: ManyhandsError | None = None  # why nobody answered when last asked
        self._ask_s, self._has_asked = ASK_S, False  # for the chain at hand
        self._time = SearchTime(request.wait_s, request.room_wait_s, rng)  # of the chain at hand
        self._tried_again: set[str] = set()  # since then, of those who had failed
        self._staying: set[str] = set()  # hops of the chain that need no replacement
        self._request, self._transport = request, transport
        self._directory, self._join, self._rng = directory, tuple(join), rng
        self._connections, self._permit = connections, permit
        self._turn = Turn(turns or Turns())
        self._choice: Sequence[Route] = ()  # among which the last route was drawn
        self._records = records or PeerRecords()
        self.known = KnownRows(request, directory, self._records, familiar)
        self.watch = RouteWatch(self._records, directory, lambda: self._wanted(()))

    async def find(self, action: FindRoute, deadline: float) -> list[Seat]:
        """Seats for every missing run.

        Raises:
            NotPermitted: the swarm does not let this model be used.
            PeerUnreachable: nobody answers at all.
            SwarmIncomplete: nobody serves some blocks, or all who do were lost.
            ManyhandsError: the refusal, when those who serve the blocks refused.
        """
        self._turn.give_back()  # nobody waits for who has to look again
        self.watch.lost(action.avoid)
        self._staying = {seat.peer for seat in action.survivors}
        self._time.begin()
        while True:
            self._permit()
            routes = await self._look(action, action.avoid)
            is_full = routes is None and await self._is_full(action)
            until = self._time.until(deadline, is_full=is_full, has_begun=self.has_begun())
            if routes is None and (time.monotonic() < until or not self._has_asked):
                self._unreachable = await self._ask(action.avoid, until)
                routes = await self._look(action, action.avoid)
                if routes is None:
                    await self._raise_refusal(action)
                    self.waits_for = await self._why(action)
                    self.on_wait(self.waits_for)
                    await asyncio.sleep(self._time.rest_s(is_full=is_full))
            is_late = time.monotonic() >= until
            if routes is None:
                routes = await self._look_again(action, is_late=is_late)
            if routes is not None:
                if not isinstance(self.waits_for, PeerBusy):  # else asked again, which may be vain
                    self.waits_for = None
                if not action.survivors and not self.has_begun():
                    await self._turn.take()
                return self.seats(await self._settled(routes, action))
            if is_late:
                raise await self._why(action)

    async def heirs(self, action: FindHeirs) -> list[Route]:
        """Routes through a leaver's blocks, looked for once; none: it has to stay."""
        lost = FindRoute(action.epoch, (action.leaver.span,), action.survivors, action.avoid)
        routes = await self._look(lost, action.avoid)
        if routes is None:
            await self._ask(action.avoid, time.monotonic() + ASK_S)
            routes = await self._look(lost, action.avoid)
        return routes or []

    async def spare(
        self, seat: Seat, others: Sequence[Seat], avoid: Collection[str]
    ) -> Seat | None:
        """Who would take all blocks of this hop now, if it were lost."""
        taken = {*avoid, seat.peer, *(other.peer for other in others)}
        routes = [r for r in await self._search(seat.span, others, taken) if len(r.hops) == 1]
        return seat_of(draw_route(routes, self._rng).hops[0]) if routes else None

    def announced(self, peer: str) -> Announcement | None:
        """What it says of itself."""
        return self._directory.get(PeerId(peer))

    def records_of(self, peers: Sequence[str]) -> bytes:
        """What these peers say of themselves, for others who may not have heard it yet."""
        table, now_ms = self._directory.table, self._directory.now_ms()
        known = (record_of(table, PeerId(peer), now_ms) for peer in dict.fromkeys(peers))
        return write_records(record for record in known if record is not None)

    @property
    def nobody(self) -> ManyhandsError | None:
        """Why nobody can be reached, while nobody is known at all."""
        return None if self._directory.live() else self._unreachable

    def found(self) -> None:
        """The chain stands: the next search has time of its own."""
        self._agreed, self._unreachable, self.waits_for = self.profile, None, None
        self._time.over()
        self._has_asked = False
        self._tried_again.clear()
        self.over()

    def over(self) -> None:
        """Nothing more is asked for: the chain stands, or the session has ended."""
        self._turn.give_back()

    async def _settled(self, routes: list[Route], action: FindRoute) -> list[Route]:
        """After a last look at who is busy now; a failover does not wait for one."""
        is_first = len(routes) == 1 and not action.survivors and not action.avoid
        if self._connections is None or not is_first or len(self._choice) < 2:
            return routes
        slowdown = self._judged([hop.announcement for r in self._choice for hop in r.hops])
        chosen = await choose_fresh(
            self._choice,
            self._wanted(()),
            self._connections,
            self._rng,
            slowdown=slowdown["slowdown"],
        )
        return [chosen]

    async def _look(self, action: FindRoute, avoid: Collection[str]) -> list[Route] | None:
        """A route for every missing run from what is known now, or None."""
        chosen: list[Route] = []
        self._too_dear = None
        taken = {*avoid, *(seat.peer for seat in action.survivors)}
        for missing in action.missing:
            routes = await self._search(missing, action.survivors, taken)
            if not routes:
                return None
            known = self._known_route(routes, missing, action.survivors, taken)
            chosen.append(known or draw_route(routes, self._rng, n_blocks=self._request.n_blocks))
            self._choice = () if known else routes
            taken.update(chosen[-1].peer_ids)
        return chosen

    def _known_route(
        self,
        routes: Sequence[Route],
        missing: Span,
        survivors: Sequence[Seat],
        taken: Collection[str],
    ) -> Route | None:
        """Over nodes that have run some of it already, if that is better."""
        wanted = self._wanted(taken)

        def through(peers: Sequence[Announcement]) -> Sequence[Route]:
            return self._searching(peers, missing, survivors)(wanted)

        return self.known.route(routes, wanted, through)

    async def _search(
        self, missing: Span, survivors: Sequence[Seat], taken: Collection[str]
    ) -> Sequence[Route]:
        """The best through these blocks, between those who stay, without those who are taken."""
        live = self._directory.live()
        left_ncr = self.left_ncr({seat.peer for seat in survivors})
        searching = self._searching(live, missing, survivors)
        search = partial(within, searching, self._wanted(taken), left_ncr)
        try:
            # Among thousands it takes longer than what else runs on this loop should wait.
            return await asyncio.to_thread(search) if len(live) > OFF_LOOP else search()
        except BudgetExceeded as error:
            self._too_dear = error
            return ()

    def _searching(
        self, peers: Sequence[Announcement], missing: Span, survivors: Sequence[Seat]
    ) -> Callable[[Wanted], tuple[Route, ...]]:
        return partial(
            find_replacement,
            peers,
            missing,
            before=neighbour(survivors, missing, -1, self._ends),
            after=neighbour(survivors, missing, +1, self._ends),
            **self._judged(peers),
            k=MENDING_ROUTES if survivors else 4,
            seed=self._rng.getrandbits(32),
        )

    def _judged(self, peers: Sequence[Announcement]) -> Judged:
        return judged(peers, self._directory, self._records)

    async def _is_full(self, action: FindRoute) -> bool:
        """Whether those who said that they have no room would do."""
        full = {peer for peer, why in action.avoid.items() if isinstance(why, PeerBusy)}
        return bool(full) and await self._look(action, action.avoid.keys() - full) is not None

    async def _look_again(self, action: FindRoute, *, is_late: bool) -> list[Route] | None:
        """Routes with as few as needed of those who failed for the moment: they may be back.

        Who failed last is taken last, so that each of them has its turn, however cheap another one
        looks. When the wait is over, it is the turn of those who never had one.
        """
        tired = self._tried_again if is_late else set()
        passing = [p for p, why in action.avoid.items() if passes(why) and p not in tired]
        avoid = {*action.avoid}.difference(passing)
        routes = await self._look(action, avoid)
        if routes is None:
            return None
        for peer in reversed(passing):
            if (without := await self._look(action, avoid | {peer})) is not None:
                avoid.add(peer)
                routes = without
        self._tried_again.update({*passing} - avoid)
        return routes

    def seats(self, routes: Sequence[Route]) -> list[Seat]:
        """Of routes, once they are chosen: the chain is of their profile then."""
        self.profile = routes[0].hops[0].announcement.profile
        self.adapter = self._pinned()
        return [seat_of(hop) for route in routes for hop in route.hops]

    def _wanted(self, avoid: Collection[str]) -> Wanted:
        request, limits = self._request, self._request.limits
        if limits.require:  # those who stay have their blocks already
            left = tuple(peer for peer in limits.require if peer not in self._staying)
            limits = replace(limits, require=left)
        wanted = Wanted(
            manifest=request.manifest,
            n_blocks=request.n_blocks,
            n_positions=request.capacity,
            n_prompt=min(max(len(request.prompt_ids), self.n_run()), request.capacity),
            lease_s=request.timeout_s,
            hidden_size=request.hidden_size,
            profile=self._agreed or None,
            adapter=self._pinned(),
            avoid=frozenset(map(PeerId, avoid)),
            shunned=self._records.trust.shunned,
            has_begun=self.has_begun(),
            limits=limits,
            goal=request.goal,
        )
        return self._directory.judged(wanted)

    def _pinned(self) -> str:
        """Hops of one chain never mix two versions of an adapter."""
        return self._directory.pin_adapter(self._request.manifest, self.adapter)

    async def _ask(self, avoid: Collection[str], until: float) -> ManyhandsError | None:
        """Ask the swarm: those we were told of, and anybody we heard about since.

        Each time in vain they get twice as long: all of a busy machine's nodes may be slow alike.
        Far peers are asked over the connections that sessions have, which saves two or three round
        trips; where that was in vain these may be dead, and all are dialled.
        """
        self._has_asked = True
        ours = self._connections if self._unreachable is None else None
        at_hand = ours.at_hand() if ours is not None else None
        asked = self._directory.whom_to_ask(self._join, self._rng, avoid)
        timeout_s = max(ASK_S, min(self._ask_s, until - time.monotonic()))
        try:
            await fetch_directory(
                self._transport, asked, self._directory, timeout_s=timeout_s, at_hand=at_hand
            )
        except ManyhandsError as error:
            self._ask_s *= 2
            return error
        self._ask_s = ASK_S
        return None

    async def _raise_refusal(self, action: FindRoute) -> None:
        """Waiting is vain if those who have the blocks said no for good, or cost too much."""
        if self._too_dear is not None:
            raise self._too_dear
        final = {peer: why for peer, why in action.avoid.items() if not passes(why)}
        if not final or await self._look(action, final) is not None:
            return
        if await self._look(action, ()) is not None:
            raise list(final.values())[-1]

    async def _why(self, action: FindRoute) -> ManyhandsError:
        """What is missing: it says more than that time is over."""
        if self.nobody is not None:
            return self.nobody
        refused = {
            peer: why
            for peer, why in action.avoid.items()
            if isinstance(why, PeerBusy) or not passes(why)
        }
        without = {*action.avoid}.difference(refused)
        if refused and await self._look(action, without) is not None:
            return list(refused.values())[-1]
        survivors = {seat.peer for seat in action.survivors}
        try:
            self._directory.require_complete(
                self._wanted({*action.avoid} - survivors), model=self._request.model
            )
        except (SwarmIncomplete, PeerUnreachable) as error:
            return error
        missing = [(span.start, span.stop) for span in action.missing]
        return SwarmIncomplete(missing, model=self._request.model, adapter=self.adapter)
