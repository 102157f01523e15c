"""A node: one TaskGroup holding everything a contributor runs. Start here.

In: an identity, a transport, a loaded span, a ledger. Out: a peer of the swarm that admits
sessions, runs its span for them, states what it did, and is known to the others until it leaves.
What belongs to the span it serves is in `serving.py`; identity, listener and gossip are here.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from ledger.writer import LedgerWriter
from node.batching import Batcher
from node.engine import ShardEngine
from node.files import METHOD as FILE_METHOD
from node.files import SharedWeights
from node.gossip import Gossip
from node.neighbours import Neighbours
from node.server import Server
from node.serving import Model, Serving, Standing
from node.sessions import Sessions
from node.settings import NodeSettings
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError
from protocol.gossip_rules import METHOD as GOSSIP_METHOD
from protocol.identity import Identity, PeerId
from protocol.measured import State
from protocol.pieces import METHOD as WEIGHTS_METHOD
from protocol.transport import CallHandler, Listener, Transport

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
    ) -> None:
        self.identity, self.settings = identity, settings
        self.state = State.SERVING
        self._transport = transport
        self._standing = Standing(
            identity=identity,
            swarm_id=swarm_id,
            transport=transport,
            books=books,
            settings=settings,
            software=software,
        )
        self.serving = Serving(self._standing, engine, model)
        self._serving_task: asyncio.Task[None] | None = None
        self._listener: Listener | None = None
        self.gossip = Gossip(
            AnnouncementTable(swarm_id), transport, identity.key, self.draft, join=settings.join
        )

    # --- life -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """Listen, announce and serve; drain and leave on the way out."""
        await self.serving.prepare()
        service = Server(lambda: self.sessions).service(self._calls())
        self._listener = await self._transport.listen(
            self.settings.host, self.settings.port, service
        )
        async with asyncio.TaskGroup() as tasks:
            serve = self.serving.run(self.gossip.announce)
            self._serving_task = tasks.create_task(serve, name="serving")
            gossip = tasks.create_task(self.gossip.run(), name="gossip")
            try:
                yield self
            finally:
                await self._leave(gossip)

    async def _leave(self, gossip: "asyncio.Task[None]") -> None:
        self.state, self.sessions.draining = State.DRAINING, True
        await _ended(gossip)
        try:
            await self.gossip.leave()
        except ManyhandsError as error:
            log.info("left without a word", extra={"error": str(error)})
        await self.serving.drain(self.settings.drain_s)
        if self._serving_task is not None:
            await _ended(self._serving_task)
        if self._listener is not None:
            await self._listener.aclose()

    def _calls(self) -> dict[str, CallHandler]:
        """What other peers may ask, whatever is served at the time."""
        return {
            GOSSIP_METHOD: self.gossip.handle,
            FILE_METHOD: lambda peer, request: self.serving.files.handle(peer, request),
            WEIGHTS_METHOD: lambda peer, request: self.serving.shared.handle(peer, request),
            "status": self._status_call,
            "ping": _ping,
        }

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._listener.addresses if self._listener else ()

    # --- what it serves now -----------------------------------------------------------------------

    @property
    def engine(self) -> ShardEngine:
        return self.serving.engine

    @property
    def model(self) -> Model:
        return self.serving.model

    @property
    def shared(self) -> SharedWeights:
        return self.serving.shared

    @property
    def sessions(self) -> Sessions:
        return self.serving.sessions

    @property
    def batcher(self) -> Batcher:
        return self.serving.batcher

    @property
    def neighbours(self) -> Neighbours:
        return self.serving.neighbours

    # --- what it says of itself -------------------------------------------------------------------

    def draft(self) -> Announcement:
        """What to announce now."""
        serving = self.serving
        return Announcement(
            peer_id=self.identity.peer_id,
            addresses=self.addresses,
            model=serving.model.name,
            manifest=serving.model.digest,
            n_blocks=serving.engine.n_blocks,
            span=serving.span,
            profile=str(serving.profile),
            decode_us=serving.vitals.decode_us,
            prefill_us_per_row=serving.vitals.prefill_us_per_row,
            kv_free_bytes=max(0, serving.sessions.free_bytes),
            max_positions=serving.engine.max_positions,
            n_sessions=len(serving.sessions),
            region=self.settings.region,
            software=self._standing.software,
            offer=serving.offer().encode(),
            adapters=serving.engine.adapters.names,
            measured=replace(
                serving.measured(), state=self.state, since_ms=self._standing.since_ms
            ),
        )

    def status(self) -> dict[str, object]:
        """Public counters; `manyhands status` and the tests read them."""
        return {
            "schema": "manyhands/node-status/v1",
            "peer": self.identity.peer_id,
            "addresses": [str(address) for address in self.addresses],
            "software": self._standing.software,
            "state": self.state.value,
            "tasks": len(asyncio.all_tasks()),
            **self.serving.status(),
        }

    async def _status_call(self, peer_id: PeerId, request: bytes) -> bytes:
        return json.dumps(self.status()).encode()


async def _ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _ping(peer_id: PeerId, request: bytes) -> bytes:
    return b""
