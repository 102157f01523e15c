"""A node: one TaskGroup holding everything a contributor runs. Start here.

In: an identity, a transport, a loaded span, a ledger. Out: a peer of the swarm that admits
sessions, runs its span for them, states what it did, and is known to the others until it leaves.
What belongs to the span it serves is in `serving.py`, what it says of itself in `own_words.py`;
identity, listener and gossip are here. For moments of a move (`moving.py`) nothing is served.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from ledger.escrow import Escrow
from ledger.fingerprints import METHOD as FINGERPRINTS_METHOD
from ledger.policy import BILATERAL
from ledger.swarms import funding_of
from ledger.witness import WitnessBook
from ledger.writer import LedgerWriter
from node.accounts import Accounts
from node.accusations import Accusations
from node.bandwidth import Bandwidth
from node.barring import Barring
from node.batching import Batcher
from node.belonging import Belonging, Place
from node.carrying import Carrying
from node.compliance import Compliance
from node.discovery import Discovery
from node.engine import ShardEngine
from node.files import METHOD as FILE_METHOD
from node.files import SharedWeights, SmallFiles
from node.fingerprints import FingerprintShelf
from node.gossip import Gossip
from node.meetings import Meetings
from node.moving import Elsewhere, Mover
from node.moving_rules import Pace, Target
from node.neighbours import Neighbours
from node.owing import OwingBook
from node.own_words import OwnWords
from node.pacing import Throttle
from node.pausing import Pausing
from node.sent_rows import SentRows
from node.server import Server
from node.serving import Model, Serving, Standing, load_of, until_gone
from node.sessions import Sessions
from node.settings import NodeSettings
from node.settling import Settling
from node.vetting import Vetting
from node.whereabouts import Ways, Whereabouts
from protocol.address import Address
from protocol.announcements import MAX_ADDRESSES, Announcement
from protocol.clock import wall_ms
from protocol.errors import ConfigError, ManyhandsError, PeerBusy
from protocol.gossip_rules import METHOD as GOSSIP_METHOD
from protocol.guard import Guard
from protocol.handover import METHOD as HANDOVER_METHOD
from protocol.identity import Identity, PeerId
from protocol.load import METHOD as LOAD_METHOD
from protocol.measured import State
from protocol.membership.table import new_table
from protocol.pieces import METHOD as WEIGHTS_METHOD
from protocol.sent_rows import METHOD as SENT_ROWS_METHOD
from protocol.spare import METHOD as SPARE_METHOD
from protocol.transport import CallHandler, Listener, Transport
from protocol.transport.control_plane import ControlPlane

log = logging.getLogger(__name__)


class Node:
    """Made by `running`; alive while that context is."""

    def __init__(
        self,
        identity: Identity,
        swarm_id: bytes,
        transport: Transport,
        engine: ShardEngine,
        model: Model,
        books: LedgerWriter,
        settings: NodeSettings,
        software: str,
        *,
        elsewhere: Elsewhere | None = None,
        pace: Pace | None = None,
        plane: ControlPlane | None = None,
        place: Place | None = None,
        ways: Ways | None = None,
        escrow: Escrow | None = None,
        witness: WitnessBook | None = None,
        settling: Settling | None = None,
    ) -> None:
        """
        Args:
            elsewhere: how to serve other blocks; without it the node stays with these.
            plane: the network of discovery; without it peers come from join addresses and gossip.
            place: its place in the swarm, when not everybody belongs to it.
            ways: by which others may reach it, besides where it listens.
            escrow: what of others' credit pays for sessions, in a swarm with issuers.
            witness: of spend logs, if this home is one that the swarm's policy names.
            settling: with those whose allotments paid us, in a swarm with issuers.
        """
        self.identity, self.settings = identity, settings
        self._words = OwnWords(self)
        self.state = self._meant = State.SERVING  # as it is; as it would be if it were not held
        self._transport = transport
        self.bandwidth = Bandwidth(settings.max_bytes_per_s)
        membership = place.membership if place else None
        table = new_table(swarm_id, membership)
        policy = funding_of(membership.state.policy if membership else None)
        owing = None
        if policy.mode == BILATERAL and not settings.rates.is_free:
            owing = OwingBook(identity, swarm_id, books, settings.clients)
            owing.load()
        if policy.issuers and escrow is None and not settings.rates.is_free:
            reason = (
                f"in swarm {policy.name} a price is in an issuer's credit, and takes books of it"
            )
            raise ConfigError(reason, hint="serve for free, or give the node an escrow")
        self.standing = Standing(
            vetting=Vetting(identity.peer_id, swarm_id, table, self.draft, membership),
            identity=identity,
            swarm_id=swarm_id,
            policy=policy,
            owing=owing,
            transport=transport,
            books=books,
            settings=settings,
            software=software,
            outbound=Throttle(settings.max_bytes_per_s),
            shelf=FingerprintShelf(
                settings.fingerprints_kept_s,
                settings.fingerprint_bytes,
                sent=SentRows(settings.sent_rows_kept_s, settings.sent_row_bytes),
            ),
            escrow=escrow,
            up_bytes_per_s=lambda: self.bandwidth.up_bytes_per_s,
        )
        self.accusations: Accusations | None = None  # while it runs
        self.loaded: Serving | None = None  # for moments of a move nothing is
        self._n_asked = 0  # for our load, by clients that choose
        self._serving_task: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self._take(Serving(self.standing, engine, model))
        self.mover = Mover(self, elsewhere, pace=pace) if elsewhere else None
        self.guard, join = (guard := Guard()), settings.join
        self._barring = Barring(guard.bans, settings.bans)
        self.gossip = Gossip(table, transport, identity.key, self.draft, join=join, guard=guard)
        self.discovery = Discovery(table, plane, guard=guard) if plane else None
        self.belonging = Belonging(place, self._others, join) if place else None
        self.accounts = Accounts(
            self.standing, self._others, join, guard, witness=witness, settling=settling
        )
        self.compliance = Compliance(self, place.membership if place else None)
        ways = ways or Ways(announce=settings.announce)
        self.whereabouts = Whereabouts(transport, self._others, self.gossip.announce, ways)
        self.pausing = Pausing(self, settings)
        tunnels, told = plane.tunnelling if plane else None, self.gossip.announce
        where = self.whereabouts
        self.carrying = Carrying(self.standing, self._others, told, where, tunnels)

    # --- life -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """Listen, announce and serve; drain and leave on the way out."""
        await self.accounts.begin()
        await self.serving.prepare()
        streams = {**self.bandwidth.streams, **self.carrying.streams}
        belonging = self.belonging
        throttle = Throttle(self.settings.max_bytes_per_s)
        server = Server(lambda: self.sessions, throttle, self.accounts.spreading)
        open_calls = belonging.open_calls if belonging else {}
        self.accusations = await Accusations.begun(self.standing, self._others, self.guard)
        seen_calls, came = self.whereabouts.seen_calls, self.whereabouts.came
        service = server.service(self._calls(), streams, open_calls, seen_calls, self.guard, came)
        at = self.settings.host, self.settings.port
        self._listener = await self._transport.listen(*at, service)
        self.whereabouts.listening(self._listener)
        self.guard.bans.watch(self._listener.sweep)
        port = self._listener.addresses[0].port
        async with self.carrying.running(port), asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._run(self.serving)
            self.compliance.begin(tasks)
            pausing = tasks.create_task(self.pausing.run(), name="pausing")
            gossip = tasks.create_task(self.gossip.run(), name="gossip")
            mover = tasks.create_task(self._move(), name="mover")
            meetings = tasks.create_task(self._meetings().run(), name="meetings")
            reaching = tasks.create_task(self.whereabouts.run(), name="reaching")
            if self.discovery is not None:
                await self.discovery.start()
            barring = tasks.create_task(self._barring.run(), name="barring")
            accusing = tasks.create_task(self.accusations.run(), name="accusations")
            discovery = tasks.create_task(self._discover(), name="discovery")
            accounts = tasks.create_task(self.accounts.run(), name="accounts")
            belongs = tasks.create_task(belonging.run(), name="belonging") if belonging else None
            try:
                yield self
            finally:
                ending = (pausing, meetings, reaching, discovery, belongs, barring, accounts)
                for task in filter(None, (*ending, accusing)):
                    await _ended(task)
                await self._leave(gossip, mover)

    def _meetings(self) -> Meetings:
        def is_idle() -> bool:
            return self.n_sessions == 0

        return Meetings(self._transport, self._others, self.gossip.links, self.bandwidth, is_idle)

    async def _move(self) -> None:
        if self.mover is not None:
            await self.mover.run()

    async def _discover(self) -> None:
        if self.discovery is not None:
            await self.discovery.run()

    async def _leave(self, gossip: "asyncio.Task[None]", mover: "asyncio.Task[None]") -> None:
        self._set(State.DRAINING)
        self.gossip.announce()  # who looks sees why it takes nobody, until it is gone
        mover.cancel()
        await _ended(mover)
        if self.loaded is not None:
            await self._stop(self.loaded)
        await _ended(gossip)
        try:
            await self.gossip.leave()
        except ManyhandsError as error:
            log.info("left without a word", extra={"error": str(error)})
        if self.discovery is not None:
            await self.discovery.leave()
        if self._listener is not None:
            await self._listener.aclose()

    def _calls(self) -> dict[str, CallHandler]:
        """What other peers may ask, whatever is served at the time."""
        share = self.compliance.unless_held(lambda peer, ask: self.shared.handle(peer, ask))
        share, paced = self.pausing.unless_paused(share), self.standing.outbound.bounds
        return {
            GOSSIP_METHOD: self.gossip.handle,
            FINGERPRINTS_METHOD: self.standing.shelf.handle,
            SENT_ROWS_METHOD: paced(self.standing.shelf.sent.handle),
            FILE_METHOD: lambda peer, request: self.files.handle(peer, request),
            HANDOVER_METHOD: paced(lambda peer, ask: self.serving.giving.handle(peer, ask)),
            SPARE_METHOD: lambda peer, request: self.serving.sparing.handle(peer, request),
            WEIGHTS_METHOD: paced(share),
            "status": self._status_call,
            "ping": _ping,
            LOAD_METHOD: self._load_call,
            **self.accounts.calls,
            **(self.belonging.calls if self.belonging else {}),
            **(self.accusations.calls if self.accusations else {}),
        }

    async def _load_call(self, peer: str, request: bytes) -> bytes:
        self._n_asked += 1
        return load_of(self.loaded, self.state, self._n_asked).encode()

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (*self.whereabouts.addresses, *self.carrying.addresses)[:MAX_ADDRESSES]

    # --- node.moving.Movable ----------------------------------------------------------------------

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    def announcements(self) -> Sequence[Announcement]:
        return self.gossip.table.live(wall_ms())

    def _others(self) -> Sequence[Announcement]:
        return [peer for peer in self.announcements() if peer.peer_id != self.peer_id]

    def become(self, state: State) -> None:
        """Say so to all, and take new sessions or none."""
        self._set(state)
        self.gossip.announce()

    async def end_serving(self) -> None:
        """Drain, stop, and hold on to nothing of it."""
        await self._stop(self.serving)
        self._words.remember(self.serving)
        ended = self.serving.parts()
        self.loaded = self._serving_task = None
        await until_gone(ended)

    async def begin_serving(self, engine: ShardEngine, model: Model) -> None:
        serving = Serving(self.standing, engine, model)
        await serving.prepare()
        self._take(serving)
        self._run(serving)
        self.compliance.look()

    # --- node.compliance.Governed -----------------------------------------------------------------

    def say_again(self) -> None:
        self.become(self._meant)

    def ask_to_go(self, left_s: float | None) -> None:
        if (serving := self.loaded) is not None:
            serving.sessions.ask_to_go(left_s, up_bytes_per_s=self.bandwidth.up_bytes_per_s)

    async def drain(self) -> None:
        if self.loaded is not None:
            await self.loaded.drain(self.settings.drain_s)

    async def _stop(self, serving: Serving) -> None:
        up = self.bandwidth.up_bytes_per_s
        await serving.drain(self.settings.drain_s, up_bytes_per_s=up)
        if self._serving_task is not None:
            await _ended(self._serving_task)

    def _set(self, state: State) -> None:
        self._meant, self.state = state, self.pausing.state(self.compliance.state(state))
        if self.loaded is not None:
            self.loaded.sessions.draining = self.state is not State.SERVING
            self.loaded.sessions.held = self.compliance.judged
            self.loaded.sessions.paused = self.pausing.why

    def _take(self, serving: Serving) -> None:
        """Serve this from now on."""
        model = serving.model
        self.loaded = serving
        self.files = SmallFiles(model.digest, model.files)
        self.shared = SharedWeights(model.digest, model.weights, lambda: self.n_sessions > 0)
        self.target, self.called = Target(model.digest, serving.span), model.name

    def _run(self, serving: Serving) -> None:
        run = serving.run(self.gossip.announce)
        self._serving_task = self._tasks.create_task(run, name="serving")

    # --- what it serves now -----------------------------------------------------------------------

    @property
    def serving(self) -> Serving:
        """
        Raises:
            PeerBusy: one span was given up, and the next is not loaded yet.
        """
        if self.loaded is None:
            raise PeerBusy("", "this node is loading other blocks", hint="try again shortly")
        return self.loaded

    @property
    def n_sessions(self) -> int:
        return len(self.loaded.sessions) if self.loaded is not None else 0

    @property
    def engine(self) -> ShardEngine:
        return self.serving.engine

    @property
    def model(self) -> Model:
        return self.serving.model

    @property
    def sessions(self) -> Sessions:
        return self.serving.sessions

    @property
    def batcher(self) -> Batcher:
        return self.serving.batcher

    @property
    def neighbours(self) -> Neighbours:
        return self.serving.neighbours

    def draft(self) -> Announcement:
        """What to announce now."""
        return self._words.draft()

    def status(self) -> dict[str, object]:
        return self._words.status()

    async def _status_call(self, peer_id: PeerId, request: bytes) -> bytes:
        return json.dumps(self.status()).encode()


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _ping(peer_id: PeerId, request: bytes) -> bytes:
    return b""
