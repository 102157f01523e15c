"""A node: one TaskGroup holding everything a contributor runs. Start here.

In: an identity, a transport, a loaded span, a ledger. Out: a peer of the swarm that admits
sessions, runs its span for them, states what it did, and is known to the others until it leaves.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from ledger.objects import Offer
from ledger.receipts import Receipt
from ledger.writer import LedgerWriter
from node.adapter_shelf import AdapterShelf
from node.batching import Batcher
from node.engine import ShardEngine
from node.files import METHOD as FILE_METHOD
from node.files import SharedFile, SharedWeights, SmallFiles
from node.gossip import Gossip
from node.hop import Surroundings
from node.metering import Till
from node.neighbours import Neighbours
from node.server import Server
from node.sessions import Served, Sessions
from node.settings import NodeSettings
from node.step_cost import StepCost
from protocol.actions import Ending
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.gossip_rules import METHOD as GOSSIP_METHOD
from protocol.identity import Identity, PeerId
from protocol.messages import Reserve
from protocol.pieces import METHOD as WEIGHTS_METHOD
from protocol.profile import Execution
from protocol.signing import Envelope
from protocol.transport import Listener, Transport
from protocol.wire import wire_format

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the node serves of a model, besides the span itself."""

    name: str
    digest: bytes  # of the manifest
    files: Mapping[str, bytes]  # small ones, by name; "manifest" among them
    ending: Callable[[Reserve, Sequence[int], int], Ending]
    decode_us: int
    prefill_us_per_row: int
    weights: Mapping[str, SharedFile] = field(default_factory=dict)  # for other nodes to fetch


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
        self.identity, self.settings, self.model, self.engine = identity, settings, model, engine
        self.profile = replace(engine.profile, wire=settings.wire or engine.profile.wire)
        self._swarm_id, self._transport, self._books = swarm_id, transport, books
        self._software = software
        self._offer: Envelope | None = None
        self._offer_until_ms = 0
        self._offer_no = 0
        self._listener: Listener | None = None
        till = Till(identity.key, swarm_id, self.offer, settings.lend_limit_ncr)
        served = Served(engine, model.digest, self.profile, settings.kv_cache_bytes)
        self.sessions = Sessions(served, till)
        self.shared = SharedWeights(model.digest, model.weights, lambda: len(self.sessions) > 0)
        self.shelf = AdapterShelf(settings.adapters, engine.adapters)
        self.neighbours = Neighbours(
            transport,
            self.sessions,
            pack=settings.pack,
            pack_width=wire_format(self.profile.wire).pack_width,
        )
        self.batcher = Batcher(
            engine,
            asyncio.get_running_loop(),
            flush=self.neighbours.flush,
            cost=StepCost(model.decode_us, model.prefill_us_per_row),
        )
        self.sessions.around = Surroundings(
            peer_id=identity.peer_id,
            swarm_id=swarm_id,
            batcher=self.batcher,
            neighbours=self.neighbours,
            prefixes=self.sessions.prefixes,
            inbound={},
            ending=model.ending,
            freed=self.sessions.freed,
            keep=books.keep,
            file=self._file,
        )
        self.gossip = Gossip(
            AnnouncementTable(swarm_id), transport, identity.key, self.draft, join=settings.join
        )

    # --- life -------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        """Listen, announce and serve; drain and leave on the way out."""
        calls = {
            GOSSIP_METHOD: self.gossip.handle,
            FILE_METHOD: SmallFiles(self.model.digest, self.model.files).handle,
            WEIGHTS_METHOD: self.shared.handle,
            "status": self._status_call,
            "ping": _ping,
        }
        await asyncio.to_thread(self.shelf.look)
        service = Server(self.sessions).service(calls)
        self._listener = await self._transport.listen(
            self.settings.host, self.settings.port, service
        )
        self.batcher.start()
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self.sessions.run(), name="sessions"),
                tasks.create_task(self.gossip.run(), name="gossip"),
                tasks.create_task(self.shelf.run(self.gossip.announce), name="adapters"),
            ]
            try:
                yield self
            finally:
                await self._leave(background)

    async def _leave(self, background: list["asyncio.Task[None]"]) -> None:
        self.sessions.draining = True
        for task in background[1:]:
            task.cancel()
        await asyncio.gather(*background[1:], return_exceptions=True)
        try:
            await self.gossip.leave()
        except ManyhandsError as error:
            log.info("left without a word", extra={"error": str(error)})
        await self.sessions.drain(self.settings.drain_s)
        background[0].cancel()
        await self.neighbours.aclose()
        if self._listener is not None:
            await self._listener.aclose()
        await asyncio.to_thread(self.batcher.stop)

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self._listener.addresses if self._listener else ()

    # --- what it says of itself -------------------------------------------------------------------

    def draft(self) -> Announcement:
        """What to announce now."""
        return Announcement(
            peer_id=self.identity.peer_id,
            addresses=self.addresses,
            model=self.model.name,
            manifest=self.model.digest,
            n_blocks=self.engine.n_blocks,
            span=self.engine.span,
            profile=str(self.profile),
            decode_us=self.model.decode_us,
            prefill_us_per_row=self.model.prefill_us_per_row,
            kv_free_bytes=max(0, self.sessions.free_bytes),
            max_positions=self.engine.max_positions,
            n_sessions=len(self.sessions),
            region=self.settings.region,
            software=self._software,
            offer=self.offer().encode(),
            adapters=self.engine.adapters.names,
        )

    def offer(self) -> Envelope:
        """The signed offer in force; made anew when half its life is over."""
        now, lifetime_ms = wall_ms(), int(self.settings.offer_lifetime_s * 1000)
        if self._offer is None or now > self._offer_until_ms - lifetime_ms // 2:
            self._offer_no += 1
            self._offer_until_ms = now + lifetime_ms
            self._offer = Offer(
                provider=self.identity.public_key,
                offer_no=self._offer_no,
                manifest=self.model.digest,
                layer_lo=self.engine.span.start,
                layer_hi=self.engine.span.stop,
                exec_profile=str(Execution(self.profile, self._software)),
                rates=self.settings.rates,
                credit_window=self.settings.credit_window_ncr,
                max_ctx=self.engine.max_positions,
                not_before_ms=now - 60_000,
                expires_ms=self._offer_until_ms,
            ).seal(self._swarm_id, self.identity.key)
        return self._offer

    def status(self) -> dict[str, object]:
        """Public counters; `manyhands status` and the tests read them."""
        load, span = self.batcher.load, self.engine.span
        return {
            "schema": "manyhands/node-status/v1",
            "peer": self.identity.peer_id,
            "addresses": [str(address) for address in self.addresses],
            "model": self.model.name,
            "manifest": self.model.digest.hex(),
            "span": [span.start, span.stop],
            "n_blocks": self.engine.n_blocks,
            "profile": str(self.profile),
            "software": self._software,
            "sessions": len(self.sessions),
            "refused": self.sessions.refused,
            "kv_reserved_bytes": self.sessions.reserved_bytes,
            "retained_bytes": self.sessions.prefixes.retained_bytes,
            "prefix_hits": self.sessions.prefixes.hits,
            "prefix_positions": self.sessions.prefixes.positions,
            "kv_budget_bytes": self.settings.kv_cache_bytes,
            "steps": load.steps,
            "rows_run": load.rows,
            "busy_s": round(load.busy_s, 3),
            "frames_pushed": self.neighbours.frames_pushed,
            "rows_pushed": self.neighbours.rows_pushed,
            "bytes_saved": self.neighbours.bytes_saved,
            "decode_us": self.model.decode_us,
            "adapters": list(self.engine.adapters.names),
            "adapters_refused": dict(self.shelf.refused),
            "adapters_seen": dict(self.shelf.seen),
            "adapter_bytes": self.engine.adapters.n_bytes,
            "weights_shared_bytes": self.shared.bytes_shared,
            "draining": self.sessions.draining,
        }

    async def _status_call(self, peer_id: PeerId, request: bytes) -> bytes:
        return json.dumps(self.status()).encode()

    async def _file(self, receipt: Receipt) -> tuple[bytes, int]:
        entry = await asyncio.wrap_future(self._books.file(receipt))
        return entry.receipt_id, entry.index


async def _ping(peer_id: PeerId, request: bytes) -> bytes:
    return b""
