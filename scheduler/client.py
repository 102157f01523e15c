"""A client of a swarm: who serves what, and answers to prompts.

In: an identity of its own, a transport, addresses to begin at. Out: generations, each an iterator
of events that can be left at any time: what ran is settled, everything is freed.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from ledger.findings import Findings
from ledger.swarms import funding_of
from ledger.writer import LedgerWriter
from protocol.address import Address
from protocol.announcements import Announcement
from protocol.errors import PeerError, PeerUnreachable
from protocol.identity import Identity, PeerId
from protocol.membership.gate import Membership
from protocol.membership.rules import Channel
from protocol.membership.table import new_table
from protocol.messages import SessionId
from protocol.owing import NOTHING_TO_SHOW, Showing
from protocol.path import Path
from protocol.path_book import Met
from protocol.signing import Envelope
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of
from scheduler.affording import expected_ncr
from scheduler.chain import Connections
from scheduler.commitments import Commitment, Opened, open_windows
from scheduler.data_links import DataLinks
from scheduler.directory import Directory, fetch_directory
from scheduler.fault_news import PARTNERS, OwnFaults, exchange_faults
from scheduler.finder import RouteFinder
from scheduler.funds import Funds
from scheduler.hidden_session import HiddenRequest, HiddenSession
from scheduler.owing import OwingTalks
from scheduler.peer_record import PeerRecords
from scheduler.permission import Permission, Terms
from scheduler.prefixes import Prefixes
from scheduler.purse import ClientPurse
from scheduler.request import NO_DRAFTER, Event, GenerationRequest
from scheduler.sent_rows import fetch_sent_rows
from scheduler.session import Session
from scheduler.settlement import Settlement
from scheduler.swarm_watch import hear, watch_swarm
from scheduler.turns import Turns


class Generation:
    """One answer, as it comes. Use `async with`, and iterate."""

    def __init__(self, session: Session, settlement: Settlement) -> None:
        self.session, self._settlement = session, settlement
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.session.run(), name="generation")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cancel()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events until the answer is complete.

        Raises:
            ManyhandsError: why there is no complete answer; what was delivered stands.
        """
        while (event := await self.session.transcript.events.get()) is not None:
            yield event
        if self.session.error is not None:
            raise self.session.error
        if self._task is not None:
            await asyncio.wait([self._task])
            self._task.result()  # a mistake of ours comes out here

    @property
    def cost_ncr(self) -> int:
        """What has been promised for it so far, however it ends."""
        return self._settlement.promised_ncr

    @property
    def commitments(self) -> Mapping[str, Commitment]:
        """What its hops are held to, by their peers: fingerprints can be asked for under these."""
        return self._settlement.commitments()

    async def cancel(self) -> None:
        """Stop if it still runs, and wait until every tab is settled."""
        self.session.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


class Client:
    """Shares connections and what it knows of the swarm among its generations."""

    def __init__(
        self,
        identity: Identity,
        swarm_id: bytes,
        transport: Transport,
        books: LedgerWriter,
        join: Sequence[Address],
        *,
        rng: random.Random | None = None,
        records: PeerRecords | None = None,
        membership: Membership | None = None,
        channel: Channel = Channel.STABLE,
        terms: Terms | None = None,
        purse: ClientPurse | None = None,
        shows: Showing = NOTHING_TO_SHOW,
    ) -> None:
        """shows: to nodes that we owe: who our kin is, what it did for others.
        channel: in which a model must be released, where the swarm releases models.
        membership: the gate of `transport`, in a swarm that has members; it is kept up to date.
        terms: what has to be accepted before a model is used, see `Permission`.
        purse: what pays, where issuers' credit does.
        records: what earlier clients of this home saw of their peers; this one adds to it."""
        self.records = records or PeerRecords()
        self.identity, self.swarm_id, self.transport = identity, swarm_id, transport
        self._books, self._join = books, tuple(join)
        self._rng = rng or random.Random()
        self._connections, self._turns = Connections(transport), Turns()
        self._data = DataLinks(self._connections)
        self._own_faults = OwnFaults(identity.public_key)
        self._directory = Directory(
            new_table(swarm_id, membership),
            groups_of=membership.groups_of if membership else None,
        )
        self._membership, self.purse = membership, purse
        self.policy = funding_of(membership.state.policy if membership else None)
        self.permission = Permission(membership, channel, self._directory, terms)
        self._watching: asyncio.Task[None] | None = None
        self._prefixes = Prefixes(identity)
        self._owing = OwingTalks(identity, books, self._connections, shows)

    async def __aenter__(self) -> Self:
        if self._membership is not None:
            known = (self._connections, self._directory, self._join, self._rng)
            if self._membership.state.governance.is_strict:
                await hear(self._membership, *known)  # before it judges
            self._watching = asyncio.create_task(watch_swarm(self._membership, *known))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._owing.aclose()
        await self._data.aclose()
        await self._connections.aclose()

    @property
    def certifies_groups(self) -> bool:
        """Whether certificates show who is in a trust group; else a peer's word is all there is."""
        return self._membership is not None

    def hear_round_trips(self, hear: Callable[[float, Path], None]) -> None:
        """Be told of each that is measured from now on: its seconds, and the way."""
        self._directory.heard = hear

    def met(self) -> Met:
        """Where to begin another time: of whom we were told, only those whom we reached."""
        return paths_of(self.transport).book.met()

    async def directory(self) -> Directory:
        """A fresh look at who serves what.

        Raises:
            PeerUnreachable: nobody answered within five seconds.
        """
        if not self._join:
            raise PeerUnreachable("", "no peer is known", hint="name one with --join ADDRESS")
        asked = self._directory.whom_to_ask(self._join, self._rng)
        await fetch_directory(self.transport, asked, self._directory)
        return self._directory

    async def expected_ncr(self, request: GenerationRequest) -> int | None:
        """What an answer is expected to cost by what peers ask now; None: no chain is known."""
        if (known := expected_ncr(request, self._directory, self.records)) is not None:
            return known
        with suppress(PeerError):
            await self.directory()
        return expected_ncr(request, self._directory, self.records)

    async def ping(
        self, peer: Announcement, *, timeout_s: float, anew: bool = False
    ) -> tuple[float, Path]:
        """Milliseconds to a peer and back, and the way there. anew: the connection at hand is
        taken for dead.

        Raises:
            PeerError: why it does not answer.
        """
        rtt_ms, path = await self._connections.ping(peer, timeout_s=timeout_s, anew=anew)
        self._directory.heard(rtt_ms / 1000, path)
        return rtt_ms, path

    def generate(self, request: GenerationRequest) -> Generation:
        if self.purse is not None:  # a part of an allotment has no room for refused drafts
            request = replace(request, drafter=NO_DRAFTER)
        session = SessionId(secrets.token_bytes(16))
        settlement = self._settlement(session, request)
        prefixes = self._prefixes.session(session, request)
        finder = RouteFinder(
            request,
            self.transport,
            self._directory,
            self._join,
            self._rng,
            prefixes.familiar,
            records=self.records,
            connections=self._connections,
            permit=self.permission.of(request.manifest, request.model),
            turns=self._turns,
        )
        connections, identity = self._connections, self.identity
        running = Session(request, finder, connections, identity, settlement, prefixes)
        settlement.owes = self._owing.met
        self.permission.watch(running)
        return Generation(running, settlement)

    async def open_windows(self, held: Commitment, windows: Sequence[int]) -> Opened:
        """Fingerprints of what a hop ran for us, by the indices of their windows.

        Raises:
            PeerMisbehaved, IntegrityError: they are not those that it had committed to.
            PeerRefused, PeerUnreachable: it does not show them.
        """
        return await open_windows(await self._again(held.peer), held, windows, self.swarm_id)

    async def sent_rows(self, held: Commitment, row_bytes: int, most_rows: int) -> bytes:
        """What a hop sent its successor, from position 0 on, as it shows it now.

        Raises:
            PeerMisbehaved: these are no such rows.
            PeerRefused, PeerUnreachable: it does not show them.
        """
        return await fetch_sent_rows(await self._again(held.peer), held, row_bytes, most_rows)

    async def _again(self, peer: PeerId) -> Connection:
        """To a hop of a session that is over."""
        told = self._directory.get(peer)
        if told is None:  # a long answer outlives what was heard before it
            told = (await self.directory()).get(peer)
        if told is None:
            raise PeerUnreachable(peer, "nobody knows where it is")
        return await self._connections.to(peer, [str(address) for address in told.to_dial])

    async def exchange_faults(self, findings: Findings, told: Sequence[Envelope] = ()) -> int:
        """Tell a few peers these faults, or some that our key told before, and hear what they know:
        how many are new to us."""
        live = self._directory.live()
        some = self._rng.sample(live, min(PARTNERS, len(live)))
        if some and not told:
            told = await asyncio.to_thread(self._own_faults.following, findings)
        return await exchange_faults(self._connections, some, findings, told)

    def hidden(self, request: HiddenRequest) -> HiddenSession:
        """A session of hidden rows: the caller embeds, norms and draws (`ends="client"`)."""
        session, identity = SessionId(secrets.token_bytes(16)), self.identity
        asked = request.as_generation()
        known = (self.transport, self._directory, self._join, self._rng)
        running = HiddenSession(
            request,
            RouteFinder(
                asked,
                *known,
                ends=identity.peer_id,
                records=self.records,
                connections=self._connections,
                permit=self.permission.of(asked.manifest, asked.model),
                turns=self._turns,
            ),
            self._connections,
            self._data,
            identity,
            self._settlement(session, asked),
            self._prefixes.session(session, asked),
        )
        self.permission.watch(running)
        return running

    def _settlement(self, session: SessionId, request: GenerationRequest) -> Settlement:
        """Its tabs keep to the request's prices, and tell each hop who else may serve."""
        return Settlement(
            session,
            self.identity,
            self.swarm_id,
            self._books,
            max_price=request.limits.max_price,
            max_cost=request.limits.max_cost,
            max_prepaid=request.limits.max_prepaid,
            constraints=request.limits.constraints(request.profile),
            funds=Funds(self.purse),
            hidden_size=request.hidden_size,
        )
