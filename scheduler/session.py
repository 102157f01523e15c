"""One generation over a chain: the rules of `protocol.chain_session`, with hands.

In: a request, a directory, connections. Out: events for the caller, and receipts. What a hop says
goes straight into the rules; what the rules want is done here: streams to hops, routes for blocks
that lost theirs, commits with their signatures, and at the end the settlement of every tab.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from protocol.asking import Handover, PrefixNames
from protocol.chain_actions import (
    ChainAction,
    Deliver,
    Done,
    FindHeirs,
    FindRoute,
    Release,
    Seat,
    SendCommit,
    SendRaise,
    SendReserve,
)
from protocol.chain_hops import Phase
from protocol.chain_session import ChainSession
from protocol.errors import InDebt, ManyhandsError, PeerMisbehaved, PeerUnreachable, SessionTimeout
from protocol.identity import Identity
from protocol.logprobs import PromptLogprobs
from protocol.messages import (
    Account,
    Close,
    Closed,
    Commit,
    Failure,
    Keep,
    Leaving,
    LinkDown,
    Pay,
    Progress,
    Raise,
    Raised,
    Reserve,
    Reserved,
    Resume,
    SessionId,
    ToClient,
    TokenEvent,
    Unpaid,
)
from protocol.transport.error_codec import decode_error
from scheduler.accusing import lost_by
from scheduler.chain import Connections, ControlLink, earns_guesses, until_closed
from scheduler.copies import Copies
from scheduler.finder import RouteFinder
from scheduler.heirs import Choice, choose
from scheduler.payments import Payments
from scheduler.prefixes import SessionPrefixes
from scheduler.proposals import commit_message, reserve_message, taking_over
from scheduler.request import GenerationRequest
from scheduler.settlement import Settled, Settlement
from scheduler.transcript import Transcript

log = logging.getLogger(__name__)

TICK_S = 0.1
SETTLE_S = 2.0  # for hops to state, be paid and file


class Session:
    """Runs once; `transcript` tells the caller."""

    def __init__(
        self,
        request: GenerationRequest,
        finder: RouteFinder,
        connections: Connections,
        identity: Identity,
        settlement: Settlement,
        prefixes: SessionPrefixes,
        rules: ChainSession | None = None,
    ) -> None:
        self.request = request
        self.transcript = Transcript(finder.watch, request)
        self.rules = rules or ChainSession(
            request.prompt_ids,
            request.n_blocks,
            most_drafts=request.most_drafts,
            drafter=request.make_drafter(),
            earns_guesses=lambda peer: earns_guesses(request, self._links.get(peer)),
        )
        self.error: ManyhandsError | None = None
        self._finder, self._connections = finder, connections
        settlement.announced = finder.announced
        finder.left_ncr = lambda staying: settlement.left_ncr(staying, len(self.rules.ids))
        finder.on_wait = self.transcript.waiting
        self._identity, self._settlement = identity, settlement
        self._prefixes = prefixes
        may_copy = request.spares and not request.reads_prompt
        self._payments = Payments(self.rules, settlement, self._send, self._do)
        self._copies = Copies(
            self.rules, finder, connections, settlement, self._asking, is_on=may_copy
        )
        self._links: dict[str, ControlLink] = {}
        self._tasks: asyncio.TaskGroup
        self._passing: list[asyncio.Task[None]] = []  # what nobody needs once the answer ended
        self._ended = asyncio.Event()
        self._mistake: Exception | None = None
        self._deadline = time.monotonic() + request.timeout_s
        self._buying = finder.announced, request, self._deadline
        self._finish_reason = ""

    @property
    def id(self) -> SessionId:
        return self._settlement.session

    async def run(self) -> None:
        """To the end, whatever it is; `error` says which.

        Cancelling this task cancels the session, and still settles it.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._passing.append(self._start(self._tick()))
                self._do(self.rules.begin())
                try:
                    await self._ended.wait()
                except asyncio.CancelledError:
                    self._do(self.rules.cancel())
                    raise
                finally:
                    for task in self._passing:
                        task.cancel()
                    await asyncio.shield(asyncio.ensure_future(self._close()))
        finally:
            self._finder.over()
            self.transcript.end()
        if self._mistake is not None:
            raise self._mistake

    def cancel(self, why: ManyhandsError | None = None) -> None:
        self._do(self.rules.fail(why) if why else self.rules.cancel())

    def _start(
        self, work: Coroutine[Any, Any, None], name: str | None = None
    ) -> asyncio.Task[None]:
        return self._tasks.create_task(self._guarded(work), name=name)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """A mistake of ours ends the session like any error: settled, and told to the caller."""
        try:
            await work
        except Exception as mistake:
            log.exception("a session failed")
            self._mistake = self._mistake or mistake
            self._ended.set()

    # --- what the rules want ----------------------------------------------------------------------

    def _do(self, actions: Sequence[ChainAction]) -> None:
        commits = [action for action in actions if isinstance(action, SendCommit)]
        if commits:
            self._commit(commits)
        for action in actions:  # commits were sent above, all together
            match action:
                case SendReserve(seat, epoch, leaver):
                    self._reserve(seat, epoch, leaver)
                case SendRaise(peer, epoch):
                    self._send(peer, Raise(epoch=epoch))
                case Release(peer):
                    self._send(peer, Close(reason="released"))
                case FindRoute():
                    self._passing.append(self._start(self._find(action)))
                case FindHeirs():
                    self._passing.append(self._start(self._find_heirs(action)))
                case Deliver():
                    self._deliver(action)
                case Done(finish_reason, error):
                    self._finish_reason, self.error = finish_reason, error
                    self._ended.set()

    def _send(self, peer: str, message: Raise | Close | Commit | Pay | Keep) -> None:
        if (link := self._links.get(peer)) is not None:
            link.send(message)

    def _reservation(self, seat: Seat, epoch: int, leaver: Seat | None) -> Reserve:
        prefixes, path = PrefixNames(), self._path_to(seat)
        if path:
            prefixes = self._prefixes.ask(self.rules.ids, path, self._copies.names(seat))
        most_drafts = self.rules.most_drafts
        handover = taking_over(self._settlement, seat, epoch, leaver, most_drafts=most_drafts)
        return self._asking(seat, epoch, prefixes, handover)

    def _asking(self, seat: Seat, epoch: int, prefixes: PrefixNames, handover: Handover) -> Reserve:
        return reserve_message(
            self.request,
            self._settlement,
            seat,
            epoch,
            budget_ms=max(1, round((self._deadline - time.monotonic()) * 1000)),
            profile=self._finder.profile,
            adapter=self._finder.adapter,
            prefixes=prefixes,
            handover=handover,
            has_begun=self._finder.has_begun(),
        )

    def _reserve(self, seat: Seat, epoch: int, leaver: Seat | None) -> None:
        reserve = self._reservation(seat, epoch, leaver)
        self._ask(seat, self._settlement.open(seat.peer, reserve).reserve)

    async def _ask_again(self, seat: Seat, error: ManyhandsError) -> None:
        """It found no credit behind the session: show it more."""
        try:
            self._ask(seat, await self._settlement.shown_more(seat.peer, error))
        except ManyhandsError as failed:
            self._do(self.rules.lost(seat.peer, failed, time.monotonic()))

    def _ask(self, seat: Seat, reserve: Reserve) -> None:
        link = ControlLink(
            self._connections,
            seat.peer,
            seat.addresses,
            reserve,
            heard=self._hear,
            lost=self._lost,
            resume=self._resume,
        )
        self._links[seat.peer] = link
        self._start(link.run(), name=f"control to {seat.peer}")

    def _path_to(self, seat: Seat) -> list[Seat]:
        """All hops up to it; empty for one that is no hop yet."""
        seats = [hop.seat for hop in self.rules.hops]
        return seats[: seats.index(seat) + 1] if seat in seats else []

    def _commit(self, commits: Sequence[SendCommit]) -> None:
        epoch, seats = commits[0].epoch, [hop.seat for hop in self.rules.hops]
        chain, n_ids = [seat.peer for seat in seats], len(self.rules.ids)
        route = self._settlement.route(epoch, seats)
        for commit in commits:
            try:
                terms = self._settlement.accept(commit.peer, chain, n_ids) if commit.is_new else b""
            except ManyhandsError as error:  # terms nobody asked for: go on without that hop
                self._do(self.rules.lost(commit.peer, error, time.monotonic()))
                return
            around = (commit.previous, commit.next.peer) if self._settlement.constraints else ()
            records = self._finder.records_of(around)
            message = commit_message(commit, self.rules, self._settlement, route, terms, records)
            self._send(commit.peer, message)
            if commit.is_new and self._settlement.tabs[commit.peer].ahead_ncr:
                self._payments.pay(commit.peer, now=True)
        self._finder.found()
        self._prefixes.remember(self.rules.ids, seats)
        self.transcript.routed(self.rules.hops)

    async def _find(self, action: FindRoute) -> None:
        try:
            seats = await self._finder.find(action, self._deadline)
            await self._settlement.funds.prepare(seats, *self._buying)
        except ManyhandsError as error:
            self._do(self.rules.no_route(action.epoch, error))
            return
        self._do(self.rules.routed(action.epoch, seats, self.transcript.found()))

    async def _find_heirs(self, action: FindHeirs) -> None:
        routes = await self._finder.heirs(action)
        choice = choose(routes, action, self._rest_s)
        seats = [] if choice is Choice.STAY else self._finder.seats(routes)
        seats = await self._settlement.funds.afforded(seats, *self._buying)
        hand_over, now = choice is Choice.HAND_OVER, time.monotonic()
        self._do(self.rules.heirs(action.epoch, seats, now, hand_over=hand_over))

    def _deliver(self, delivered: Deliver) -> None:
        self.transcript.token(delivered, self.rules)
        self._payments.pay_who_waits()

    # --- what hops say ----------------------------------------------------------------------------

    def _hear(self, link: ControlLink, message: ToClient) -> None:
        peer, now = link.peer, time.monotonic()
        if self._links.get(peer) is not link:
            return  # it was refused or lost, and asked again since
        match message:
            case TokenEvent() | PromptLogprobs():
                self._told(peer, message, now)
            case Progress():
                self._do(self.rules.progress(peer, message, now))
            case Reserved():
                self._reserved(peer, message, now)
            case Raised():
                self._do(self.rules.raised(peer, message, now))
            case Leaving():
                self._do(self.rules.leaving(peer, message, now))
            case Account():
                self._payments.stated(peer, message)
            case Unpaid():
                self._payments.waits(peer)
            case LinkDown(epoch=epoch, peer=successor):
                self._finder.watch.link_down(peer, successor)
                self._do(self.rules.link_down(peer, successor, epoch, now))
            case Failure(error=error):
                self._failure(link, decode_error(error, peer), now)
            case Closed():  # asked to, it is no hop any more, and nothing is lost
                closed = PeerUnreachable(peer, "it closed the session")
                self._do(self.rules.lost(peer, closed, now))

    def _told(self, peer: str, message: TokenEvent | PromptLogprobs, now: float) -> None:
        try:
            self.transcript.heard(peer, message, self.rules)
        except PeerMisbehaved as error:
            self._do(self.rules.lost(peer, error, now))
            return
        if isinstance(message, TokenEvent):
            self._do(self.rules.token(peer, message, now))

    def _reserved(self, peer: str, message: Reserved, now: float) -> None:
        try:
            if not self.rules.succession.takes_over(peer):
                self._prefixes.check(peer, message.prefix_length)
            self._settlement.tabs[peer].proposed(message)
        except PeerMisbehaved as error:
            self._do(self.rules.lost(peer, error, now))
            return
        self._do(self.rules.reserved(peer, message, now))

    def _failure(self, link: ControlLink, error: ManyhandsError, now: float) -> None:
        peer = link.peer
        log.info("a hop refused or failed", extra={"peer": peer, "error": str(error)})
        if isinstance(error, SessionTimeout):
            self._do(self.rules.fail(self._finder.waits_for or error))
            return
        if (hop := self._payments.find_hop(peer)) and self._settlement.may_show_more(peer, error):
            del self._links[peer]  # that it ends is no loss
            self._start(self._ask_again(hop.seat, error))
            return
        if hop is not None and isinstance(error, InDebt):
            self._settlement.owes(peer, hop.seat.addresses)  # another time it may know us better
        hops = {hop.peer for hop in self.rules.hops}
        for lost, why in lost_by(error, peer, hops, is_resumed=link.is_resumed):
            self._do(self.rules.lost(lost, why, now))

    def _lost(self, link: ControlLink, error: ManyhandsError) -> None:
        if self._links.get(link.peer) is link:
            self._do(self.rules.lost(link.peer, error, time.monotonic()))

    def _resume(self, link: ControlLink) -> Resume | None:
        """A lost control stream is worth a new one while the hop serves a running session."""
        serves = any(hop.peer == link.peer and hop.committed for hop in self.rules.hops)
        is_old = self._links.get(link.peer) is not link  # given up, and reserved again since
        if self.rules.phase is Phase.DONE or is_old or not serves:
            return None
        return Resume(session=self.id, epoch=self.rules.epoch, have=len(self.rules.ids))

    # --- time and the end -------------------------------------------------------------------------

    async def _tick(self) -> None:
        while not self._ended.is_set():
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            if now >= self._deadline:
                waited = f"no complete answer within {self.request.timeout_s:g} s"
                late = SessionTimeout(waited, hint="raise --timeout")
                self._do(self.rules.fail(self._finder.waits_for or self._finder.nobody or late))
            elif (spent := self._settlement.spent) is not None:
                self._do(self.rules.fail(spent))
            else:
                self._do(self.rules.tick(now))
                self._copies.look(self._rest_s, self._start)

    @property
    def _rest_s(self) -> float:
        return self.transcript.rest_s(self.request.max_tokens)

    async def _close(self) -> None:
        """Close every hop, settle every tab, file every receipt, say how it went."""
        self.transcript.complete()
        forgetting = asyncio.create_task(self._copies.forget())
        for peer, keep in self._prefixes.keeps(self.rules):
            self._send(peer, keep)
        for hop in self.rules.hops:
            self._send(hop.peer, Close(reason=self._finish_reason or "failed"))
        serving = {hop.peer for hop in self.rules.hops}  # nobody waits for a hop that was lost
        links = [link for link in self._links.values() if link.peer in serving]
        await until_closed(links, SETTLE_S)
        settled = await self._settlement.file()
        for link in self._links.values():
            link.abandon()
        forgetting.cancel()  # who has not heard it by now drops it later
        if self.error is None and self._mistake is None:
            self._finish(settled)

    def _finish(self, settled: Settled) -> None:
        self.transcript.finish(self.rules, self._finish_reason, settled)
