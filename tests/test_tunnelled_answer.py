"""Answers inside tunnels of libp2p, between real nodes that can reach each other in no other way.

On loopback no hole has to be punched: a direct connection of two libp2p hosts is one all the same,
and a veil before it is as good as none. `tests/namespaces/test_tunnelled_nodes.py` has routers.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from node.node import Node
from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.identity import Identity, PeerId
from protocol.path import Path as Way
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.control_plane import CARRYING, TunnelLimits
from protocol.transport.grpc import GrpcTransport
from protocol.transport.libp2p import Libp2pPlane, is_installed
from protocol.transport.tunnelling import info_of
from scheduler import Client, Finished, GenerationResult, Token
from scheduler.thin import fetch_small_files
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm
from tests.node.relaying import until
from tests.protocol.transport.test_libp2p import Shelf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.libp2p,
    pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed"),
]

N_TOKENS = 200
WANDERING = SamplingParams(temperature=1.0, seed=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@dataclass
class Veil:
    """Tunnels as they are but for holes, which are there when the test says so."""

    real: Any
    has_holes: bool = False

    @property
    def holes(self) -> Mapping[PeerId, int]:
        return self.real.holes if self.has_holes else {}

    async def open(self, address: Address, path: Way | None = None, *, timeout_s: float) -> Any:
        if path is Way.PUNCHED and not self.has_holes:
            raise PeerUnreachable(address.peer_id, "no hole could be punched")
        return await self.real.open(address, path, timeout_s=timeout_s)


@dataclass
class Tunnelled:
    """Two nodes and a client, with their libp2p hosts; nobody can dial the second node."""

    built: Swarm
    client: Client
    relays: list[Libp2pPlane]
    planes: list[Libp2pPlane]  # of the nodes
    transport: GrpcTransport  # of the client
    veil: Veil  # of the first node
    seen: list[Way] = field(default_factory=list)  # how rows went to the second node, in order

    @property
    def first(self) -> Node:
        return self.built.nodes[0].node

    @property
    def second(self) -> Node:
        return self.built.nodes[1].node

    async def answer(self, happens: Callable[[], Awaitable[None]] | None = None) -> list[int]:
        """The tokens of an answer; after its fifth something `happens`."""
        prompt = self.built.tokenizer.encode("Tell me about hands.")
        request = self.built.request(
            prompt, max_tokens=N_TOKENS, sampling=WANDERING, ignore_eos=True
        )
        tokens, result = 0, None
        async with self.client.generate(request) as run:
            async for event in run:
                tokens += isinstance(event, Token)
                self.look()
                if tokens == 5 and happens is not None:
                    await happens()
                    happens = None
                if isinstance(event, Finished):
                    result = event.result
        assert isinstance(result, GenerationResult)
        return list(result.token_ids)

    def look(self) -> None:
        for way in self.first.neighbours.paths().values():
            if self.seen[-1:] != [way]:
                self.seen.append(way)

    async def dig(self) -> None:
        """From now on there is a hole between the two nodes."""
        here, there = self.planes
        host, info = here.tunnelling._tunnels._host, info_of(there.addresses[0])
        await here.tunnelling.thread.call(lambda: host.connect(info))
        self.veil.has_holes = True

    async def fill(self) -> None:
        """The hole is gone."""
        from protocol.transport.circuits import connections_of, is_direct

        here, there = self.planes
        host, peer = here.tunnelling._tunnels._host, info_of(there.addresses[0]).peer_id

        async def close() -> None:
            for each in connections_of(host, peer):
                if is_direct(each):
                    await each.close()

        self.veil.has_holes = False
        await here.tunnelling.thread.call(close)

    async def kill_the_relay(self) -> None:
        """The one that carries most."""
        most = max(self.relays, key=carried_bytes)
        assert carried_bytes(most) > 0
        await most.stop()


def carried_bytes(relay: Libp2pPlane) -> int:
    told: Any = relay.tunnelling.status()["relaying"]
    return int(told["carried_bytes"])


def plane(identity: Identity, *bootstrap: Any, **more: Any) -> Libp2pPlane:
    return Libp2pPlane(identity, bootstrap=bootstrap, **more)


@asynccontextmanager
async def tunnelled(model: Path, home: Path) -> AsyncIterator[Tunnelled]:
    transports: dict[PeerId, GrpcTransport] = {}
    veils: list[Veil] = []
    planes: list[Libp2pPlane] = []
    async with AsyncExitStack() as stack:

        async def standing(**more: Any) -> Libp2pPlane:
            made = plane(Identity(SigningKey.generate()), **more)
            await made.start(Shelf())
            stack.push_async_callback(made.stop)
            return made

        def over_sockets(identity: Identity) -> GrpcTransport:
            made = transports[identity.peer_id] = GrpcTransport(identity, OPEN_SWARM_ID)
            return made

        def of_node(identity: Identity) -> Libp2pPlane:
            bootstrap = [relay.addresses[0] for relay in relays]
            planes.append(plane(identity, *bootstrap, tunnels=TunnelLimits()))
            veils.append(Veil(planes[-1].tunnelling))
            transports[identity.peer_id].tunnelling = veils[-1]
            return planes[-1]

        relays = [await standing(relaying=CARRYING) for _ in range(2)]
        built = await stack.enter_async_context(swarm(model, home, over_sockets))
        built.plane_of = of_node
        await built.start((0, 3), look_s=0.02)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
            announced = nobody.getsockname()
            [local] = await built.start((3, 6), announce=announced, via_auto=True)
        first = built.nodes[0].node

        def is_told() -> bool:
            """That there are two relays, and where."""
            told = {peer.peer_id: peer.addresses for peer in first.announcements()}
            return len(told.get(local.node.peer_id, ())) == 3

        await until(is_told, 30)
        client = await stack.enter_async_context(built.client())
        *_, of_client = transports.values()
        of_client.tunnelling = Veil((await standing(tunnels=TunnelLimits())).tunnelling)
        yield Tunnelled(built, client, relays, planes, of_client, veils[0])


async def test_an_answer_moves_from_the_circuit_to_the_hole_and_back_and_loses_no_token(
    model: Path, tmp_path: Path
):
    async with tunnelled(model, tmp_path) as there:
        right = await there.answer()
        assert there.seen == [Way.CIRCUIT]

        assert await there.answer(there.dig) == right
        assert there.seen == [Way.CIRCUIT, Way.PUNCHED]

        assert await there.answer(there.fill) == right
        assert there.seen == [Way.CIRCUIT, Way.PUNCHED, Way.CIRCUIT]


async def test_a_client_without_the_model_fetches_its_files_through_a_tunnel(
    model: Path, tmp_path: Path
):
    async with tunnelled(model, tmp_path) as there:
        hidden = [
            peer for peer in there.first.announcements() if peer.peer_id == there.second.peer_id
        ]

        manifest, files = await fetch_small_files(
            there.transport, hidden, there.built.manifest.digest
        )

        assert manifest == there.built.manifest
        assert files.keys() == {each.name for each in manifest.small_files()}
        assert sum(map(carried_bytes, there.relays)) > sum(map(len, files.values()))


async def test_a_relay_of_circuits_that_dies_in_mid_answer_costs_no_token(
    model: Path, tmp_path: Path
):
    async with tunnelled(model, tmp_path) as there:
        right = await there.answer()

        assert await there.answer(there.kill_the_relay) == right

        assert there.seen == [Way.CIRCUIT]
        await until(lambda: len(there.second.carrying.addresses) == 1, 30)
