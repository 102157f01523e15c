"""One loaded span and all that lives and dies with it: sessions, batcher, neighbours, offer.

In: an engine, what is served of which model, and what of the node outlasts a span. Out: a
`Serving`, which `node.py` runs, asks what to announce of it, and ends; a node that moves has one
after the other. The listener, the gossip and the books are the node's.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from ledger.escrow import Escrow
from ledger.objects import NO_ASSET
from ledger.policy import Policy
from ledger.receipts import Receipt
from ledger.spending import Fault
from ledger.writer import LedgerWriter
from node.adapter_shelf import AdapterShelf
from node.batching import Batcher
from node.engine import ShardEngine, release_memory
from node.files import SharedFile
from node.fingerprints import FingerprintShelf
from node.giving import Giving
from node.grammars import Grammars
from node.metering import Till
from node.neighbours import Neighbours
from node.offers import Offers, Terms
from node.owing import OwingBook
from node.pacing import Throttle
from node.served import Served
from node.sessions import Sessions
from node.settings import NodeSettings
from node.sparing import Sparing
from node.step_cost import StepCost
from node.surroundings import Surroundings
from node.throughput import Speeds
from node.vetting import Vetting
from node.vitals import Vitals
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.fp_profile import fp_profile_of
from protocol.identity import Identity
from protocol.load import Load
from protocol.measured import Measured, State
from protocol.messages import Span
from protocol.profile import Execution
from protocol.text import Tokenizer
from protocol.transport import Stream, Transport
from protocol.wire import wire_format

log = logging.getLogger(__name__)

GONE_S = 0.1  # for streams of sessions that are over to notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What the node serves of a model, besides the span itself."""

    name: str
    digest: bytes  # of the manifest
    files: Mapping[str, bytes]  # small ones, by name; "manifest" among them
    tokenizer: Tokenizer | None  # where the head is served: answers are drawn and told there
    speeds: Speeds  # of the span, before anybody was served
    capacity_blocks: int = 0  # the most of it that this node could serve; 0: it never moves
    weights: Mapping[str, SharedFile] = field(default_factory=dict)  # for other nodes to fetch
    signature: str = ""  # what its publisher's says, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What of a node stays whatever span it serves."""

    identity: Identity
    swarm_id: bytes
    policy: Policy  # how sessions are paid for in this swarm
    transport: Transport
    books: LedgerWriter
    settings: NodeSettings
    software: str
    vetting: Vetting
    outbound: Throttle
    shelf: FingerprintShelf
    inbound: dict[str, Stream] = field(default_factory=dict)  # what predecessors opened, by peer
    offer_numbers: Iterator[int] = field(default_factory=lambda: count(1))
    since_ms: int = field(default_factory=wall_ms)
    escrow: Escrow | None = None  # where allotments pay: what they still have for whom
    owing: OwingBook | None = None  # None: work is free, or paid by credit that somebody granted
    up_bytes_per_s: Callable[[], int] = lambda: 0  # as receivers saw it; 0: none has yet

    async def file(self, receipt: Receipt, faults: Sequence[Fault] = ()) -> tuple[bytes, int]:
        """Log a closed tab, and keep what its client signed that nobody honest signs."""
        for fault in faults:
            self.books.report(fault)
        entry = await asyncio.wrap_future(self.books.file(receipt))
        return entry.receipt_id, entry.index


Parts = tuple["weakref.ref[object]", ...]


class Serving:
    """`run` it for as long as the span is served; `drain` it before that ends."""

    def __init__(self, standing: Standing, engine: ShardEngine, model: Model) -> None:
        settings, identity = standing.settings, standing.identity
        escrow = standing.escrow
        self.engine, self.model, self.settings = engine, model, settings
        self.profile = replace(engine.profile, wire=settings.wire or engine.profile.wire)
        terms = Terms(
            manifest=model.digest,
            span=engine.span,
            execution=str(Execution(self.profile, standing.software)),
            rates=settings.rates,
            asset=escrow.purse.policy.assets[0] if escrow else NO_ASSET,
            credit_window_ncr=settings.credit_window_ncr,
            # An allotment is there beforehand, and free work is asked nothing for.
            prepaid_ncr=0 if escrow or settings.rates.is_free else settings.prepaid_ncr,
            max_positions=engine.max_positions,
            fp_profile=fp_profile_of(model.digest, self.profile) if settings.fingerprints else "",
        )
        self.offer = Offers(
            identity,
            standing.swarm_id,
            terms,
            settings.offer_lifetime_s,
            standing.offer_numbers,
        )
        credit = standing.owing.credit(settings) if standing.owing else None
        limit = settings.lend_limit_ncr
        till = Till(identity.key, standing.swarm_id, self.offer, limit, escrow, credit)
        drafts = settings.draft_model if engine.heads else None
        served = Served(engine, model.digest, self.profile, settings.kv_cache_bytes, drafts)
        self.sessions = Sessions(served, till)
        self.giving = Giving(self.sessions, standing.swarm_id, standing.up_bytes_per_s)
        self.sparing = Sparing(self.sessions, standing.swarm_id)
        self.shelf = AdapterShelf(settings.adapters, engine.adapters)
        self._auditable = standing.shelf
        self.neighbours = Neighbours(
            standing.transport,
            self.sessions.arrivals,
            pack=settings.pack,
            look_s=settings.look_s,
            pack_width=wire_format(self.profile.wire).pack_width,
            bucket=standing.outbound.bucket,
        )
        self.batcher = Batcher(
            engine,
            asyncio.get_running_loop(),
            flush=self.neighbours.flush,
            cost=StepCost(model.speeds.decode_us, model.speeds.prefill_us_per_row),
            watch=lambda seen: self.vitals.saw(seen),
        )
        self.vitals = Vitals(model.speeds, len(engine.span), self.batcher.load)
        self.sessions.around = Surroundings(
            peer_id=identity.peer_id,
            swarm_id=standing.swarm_id,
            batcher=self.batcher,
            neighbours=self.neighbours,
            prefixes=self.sessions.prefixes,
            transport=standing.transport,
            vetting=standing.vetting,
            inbound=standing.inbound,
            grammars=Grammars(model.tokenizer),
            freed=self.sessions.freed,
            paid=self.sessions.lending.paid,
            keep=standing.books.keep,
            file=standing.file,
            hidden_size=engine.hidden_size,
            shelf=standing.shelf,
            tracer=settings.tracer,
            draft_model=drafts,
        )

    @property
    def span(self) -> Span:
        return self.engine.span

    def measured(self) -> Measured:
        """What to announce of this span's speed and load."""
        journal = 0 if self.engine.heads else self.sessions.served.row_bytes
        return replace(
            self.vitals.measured(),
            capacity_blocks=self.model.capacity_blocks,
            position_bytes=self.engine.kv_bytes_per_position + journal,
            kept_bytes=self.sessions.kept_bytes,
        )

    async def prepare(self) -> None:
        """What is done before the first session may come."""
        await asyncio.to_thread(self.shelf.look)
        self.batcher.start()

    async def run(self, changed: Callable[[], None]) -> None:
        """Serve until cancelled; `changed` is called when others should hear of it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.sessions.run(), name="sessions")
                tasks.create_task(self.shelf.run(changed), name="adapters")
        finally:
            try:
                await self.neighbours.aclose()
            finally:
                self.batcher.dismiss()  # even if we may not wait: its thread would stay, and we
                await asyncio.to_thread(self.batcher.stop)

    async def drain(self, timeout_s: float, *, up_bytes_per_s: int = 0) -> None:
        """Take nobody new and let those end who are here; whoever is left then must go."""
        await self.sessions.drain(timeout_s, up_bytes_per_s=up_bytes_per_s)

    def parts(self) -> Parts:
        """What holds on to the engine, held by nobody through this."""
        return tuple(map(weakref.ref, (self, self.sessions, self.batcher)))

    def status(self) -> dict[str, object]:
        """Public counters since the span was loaded."""
        load, sessions, adapters = self.batcher.load, self.sessions, self.engine.adapters
        return {
            "model": self.model.name,
            "manifest": self.model.digest.hex(),
            "signature": self.model.signature,
            "span": [self.span.start, self.span.stop],
            "n_blocks": self.engine.n_blocks,
            "profile": str(self.profile),
            "sessions": len(sessions),
            "refused": sessions.refused,
            "kv_reserved_bytes": sessions.reserved_bytes,
            "retained_bytes": sessions.prefixes.retained_bytes,
            "audit_bytes": self._auditable.retained_bytes,
            "spare_copies": sessions.prefixes.n_copies,
            "spare_bytes_given": self.giving.spare_bytes_given,
            "prefix_hits": sessions.prefixes.hits,
            "prefix_positions": sessions.prefixes.positions,
            "kv_budget_bytes": self.settings.kv_cache_bytes,
            "steps": load.steps,
            "rows_run": load.rows,
            "busy_s": round(load.busy_s, 3),
            "paths": self.neighbours.paths(),
            "frames_pushed": self.neighbours.frames_pushed,
            "rows_pushed": self.neighbours.rows_pushed,
            "bytes_saved": self.neighbours.bytes_saved,
            "decode_us": self.vitals.decode_us,
            "queue_us": self.vitals.queue_us,
            "adapters": list(adapters.names),
            "adapters_refused": dict(self.shelf.refused),
            "adapters_seen": dict(self.shelf.seen),
            "adapter_bytes": adapters.n_bytes,
            "draining": sessions.draining,
        }


def summary(said: Announcement) -> dict[str, object]:
    """Of what was served last, while nothing is."""
    span = said.span
    return {
        "model": said.model,
        "manifest": said.manifest.hex(),
        "span": [span.start, span.stop] if span else None,
        "n_blocks": said.n_blocks,
        "profile": said.profile,
        "sessions": 0,
        "draining": True,
    }


async def until_gone(parts: Parts) -> None:
    """Until nothing holds a span that ended, so that its memory is free for the next one."""
    for _ in range(5):
        await asyncio.sleep(GONE_S)
        await asyncio.to_thread(release_memory)
        if not any(part() for part in parts):
            return
    log.warning("a span that is over still takes memory")


def load_of(serving: Serving | None, state: State, ticket: int) -> Load:
    """How busy a node is, that serves this or nothing at present."""
    return Load(
        n_sessions=len(serving.sessions) if serving else 0,
        queue_us=serving.vitals.queue_us if serving else 0,
        kv_free_bytes=serving.sessions.open_bytes if serving else 0,
        state=state,
        ticket=ticket,
    )
