"""A real swarm in one process: real nodes, a real client, real ledgers, over any transport.

On the memory transport faults can be scripted; on gRPC the same code runs over real sockets. Only
processes are missing; `tests/swarm/` has those.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ledger.escrow import Escrow
from ledger.log import Ledger
from ledger.meter import Rates
from ledger.objects import FREE
from ledger.writer import LedgerWriter
from node.belonging import Place
from node.engine import ShardEngine, load_shard
from node.files import SharedFile
from node.moving import Elsewhere
from node.moving_rules import Pace
from node.node import Node
from node.registrar import Registrar
from node.serving import Model
from node.settings import NodeSettings
from node.settling import Settling
from node.throughput import Speeds
from protocol.address import Address
from protocol.describing import make_manifest
from protocol.identity import Identity
from protocol.manifest import Manifest
from protocol.membership.gate import Membership
from protocol.messages import Span
from protocol.path_book import Met
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.text import Tokenizer
from protocol.transport import Transport
from protocol.transport.control_plane import ControlPlane
from protocol.transport.grpc import GrpcTransport
from scheduler import Client, Finished, Generation, GenerationRequest, GenerationResult
from scheduler.purse import ClientPurse

TransportOf = Callable[[Identity], Transport]
MembershipOf = Callable[[Identity], Membership]
SPEEDS = Speeds(((1, 10_000),), 1000)  # what they announce; they are faster, so keep their word


@dataclass
class LocalNode:
    """A node and the switch that ends it."""

    node: Node
    books: LedgerWriter
    home: Path
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[None] | None" = None

    @property
    def address(self) -> Address:
        return self.node.addresses[0]


class Swarm:
    """Made by `swarm`; `start` nodes, then ask `client()`."""

    def __init__(
        self,
        directory: Path,
        home: Path,
        transport_of: TransportOf,
        membership_of: MembershipOf | None = None,
    ) -> None:
        """`membership_of`: of a swarm that has members, over real sockets. `plane_of` may be set:
        how a node finds others besides gossip."""
        self.plane_of: Callable[[Identity], ControlPlane | None] = lambda identity: None
        self.escrow_of: Callable[[Identity, Path], Escrow | None] = lambda identity, home: None
        self.settling_of: Callable[[Identity, Path, LedgerWriter], Settling | None] = (
            lambda identity, home, books: None
        )
        self.purse_of: Callable[[Identity, Path], ClientPurse | None] = lambda identity, home: None
        self.directory, self.home, self.transport_of = directory, home, transport_of
        self.membership_of = membership_of
        self.manifest: Manifest = make_manifest(directory)
        self.tokenizer = Tokenizer.from_directory(directory)
        self.nodes: list[LocalNode] = []
        self._n_started = 0
        self._stack = AsyncExitStack()

    async def start(
        self,
        *spans: tuple[int, int],
        rates: Rates = FREE,
        kv_cache_bytes: int = 64 << 20,
        elsewhere: Elsewhere | None = None,
        pace: Pace | None = None,
        **more: object,
    ) -> list[LocalNode]:
        move = (elsewhere, pace)
        return [await self._start(Span(*span), rates, kv_cache_bytes, more, move) for span in spans]

    async def _start(
        self,
        span: Span,
        rates: Rates,
        kv_cache_bytes: int,
        more: Mapping[str, object],
        move: tuple[Elsewhere | None, Pace | None],
    ) -> LocalNode:
        identity = self.new_identity()
        join, engine = self.introductions(), await self.engine(span)
        home = self.home / f"node-{self._n_started}"
        self._n_started += 1
        home.mkdir(parents=True)
        transport, membership = self._transport(identity)
        swarm_id = membership.swarm_id if membership else OPEN_SWARM_ID
        books = LedgerWriter(lambda: Ledger.open(home, identity.key, swarm_id))
        settings = NodeSettings(
            join=join,
            rates=rates,
            kv_cache_bytes=kv_cache_bytes,
            credit_window_ncr=100_000,
            adapters=home / "adapters",
            **({"drain_s": 0.2} | more),  # type: ignore[arg-type]
        )
        model = self.model(capacity_blocks=len(span) if move[0] else 0)
        node = Node(
            identity,
            swarm_id,
            transport,
            engine,
            model,
            books,
            settings,
            "test",
            plane=self.plane_of(identity),
            elsewhere=move[0],
            pace=move[1],
            place=self._place(identity, membership, transport, home) if membership else None,
            escrow=self.escrow_of(identity, home),
            settling=self.settling_of(identity, home, books),
        )
        local = LocalNode(node, books, home)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            try:
                async with node.running():
                    ready.set_result(None)
                    await local.stop.wait()
            finally:
                books.close()

        local.task = asyncio.create_task(live())
        await asyncio.wait((ready, local.task), return_when=asyncio.FIRST_COMPLETED)
        if local.task.done():
            local.task.result()
        self.nodes.append(local)
        return local

    def new_identity(self) -> Identity:
        """Of the next node."""
        return Identity(SigningKey.generate())

    def introductions(self) -> tuple[Address, ...]:
        """By which the next node joins."""
        return tuple(node.address for node in self.nodes[:1])

    async def engine(self, span: Span) -> ShardEngine:
        """Of the next node; kept for the next swarm."""
        return _engine(self.directory, span, len(self.nodes))

    def _transport(self, identity: Identity) -> tuple[Transport, Membership | None]:
        if self.membership_of is None:
            return self.transport_of(identity), None
        membership = self.membership_of(identity)
        return GrpcTransport(identity, membership.swarm_id, gate=membership), membership

    def _place(
        self, identity: Identity, membership: Membership, transport: Transport, home: Path
    ) -> Place:
        async def keep(membership: Membership, met: Met) -> None:
            (home / "state").write_bytes(membership.state.encode())

        registrar = Registrar(membership, identity.key, home / "register.jsonl")
        return Place(membership=membership, transport=transport, registrar=registrar, keep=keep)

    def model(self, capacity_blocks: int = 0) -> Model:
        """What goes with any span of it, on a node that could serve so many blocks."""
        return Model(
            name="test",
            digest=self.manifest.digest,
            files=self.small_files(),
            tokenizer=self.tokenizer,
            speeds=SPEEDS,
            capacity_blocks=capacity_blocks,
            weights={
                file.name: SharedFile(self.directory / file.name, ((0, file.n_bytes),))
                for file in self.manifest.files
                if file.is_weights
            },
        )

    def small_files(self) -> dict[str, bytes]:
        names = [entry.name for entry in self.manifest.small_files()]
        files = {name: (self.directory / name).read_bytes() for name in names}
        return files | {"manifest": self.manifest.to_json()}

    async def stop(self, local: LocalNode) -> None:
        """A proper leave."""
        local.stop.set()
        if local.task is not None:
            await local.task

    @asynccontextmanager
    async def client(
        self, name: str = "client", *, seed: int = 1, identity: Identity | None = None
    ) -> AsyncIterator[Client]:
        identity = identity or Identity(SigningKey.generate())
        home = self.home / name
        home.mkdir(parents=True, exist_ok=True)
        transport, membership = self._transport(identity)
        swarm_id = membership.swarm_id if membership else OPEN_SWARM_ID
        books = LedgerWriter(lambda: Ledger.open(home, identity.key, swarm_id))
        join = [node.address for node in self.nodes if not node.stop.is_set()]
        try:
            async with Client(
                identity,
                swarm_id,
                transport,
                books,
                join,
                rng=random.Random(seed),
                membership=membership,
                purse=self.purse_of(identity, home),
            ) as client:
                yield client
        finally:
            books.close()

    def request(self, prompt_ids: Sequence[int], **what: object) -> GenerationRequest:
        return GenerationRequest(
            manifest=self.manifest.digest,
            n_blocks=self.manifest.n_blocks,
            prompt_ids=tuple(prompt_ids),
            **what,  # type: ignore[arg-type]
        )

    async def aclose(self) -> None:
        for local in self.nodes:
            local.stop.set()
        await asyncio.gather(*(n.task for n in self.nodes if n.task), return_exceptions=True)
        for local in self.nodes:  # engines live on, for the next swarm
            for adapter in local.node.engine.adapters.names:
                local.node.engine.adapters.unload(adapter)


@asynccontextmanager
async def swarm(
    directory: Path, home: Path, transport_of: TransportOf, *spans: tuple[int, int]
) -> AsyncIterator[Swarm]:
    built = Swarm(directory, home, transport_of)
    try:
        await built.start(*spans)
        yield built
    finally:
        await built.aclose()


@lru_cache(maxsize=16)
def _engine(directory: Path, span: Span, place: int) -> ShardEngine:
    """Loading and proving takes seconds; each place in a swarm has an engine of its own."""
    return load_shard(directory, span, dtype="float32")


async def whole(generation: Generation) -> GenerationResult:
    """The result, without looking at what comes before it."""
    async with generation:
        async for event in generation:
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("the generation ended without a result or an error")


def add_byte_tokenizer(directory: Path) -> Path:
    """Give a random checkpoint a tokenizer of plain bytes; ids beyond 255 have no text."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.save(str(directory / "tokenizer.json"))
    return directory
