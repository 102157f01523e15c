"""A client's connections: shared, left for better ones, and let go when nothing runs on them."""

import asyncio

import pytest

from protocol.address import Address
from protocol.codec import to_client_bytes, to_hop_message
from protocol.errors import PeerUnreachable
from protocol.messages import Closed, Progress, Reserve, Resume, SessionId, Span
from protocol.path import Path
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from scheduler.chain import IDLE_S, Connections, ControlLink
from tests.announcing import peer_of
from tests.gossiping import identity_of
from tests.virtual_time import run_in_virtual_time

CLIENT = 9
RESERVE = Reserve(
    session=SessionId(bytes(16)),
    epoch=0,
    manifest=bytes(32),
    span=Span(0, 4),
    n_blocks=8,
    capacity=300,
    max_tokens=256,
    budget_ms=60_000,
    client_nonce=bytes(16),
    salt_commit=bytes(32),
)
RESUME = Resume(session=RESERVE.session, epoch=0, have=3)


def test_only_connections_on_which_something_runs_are_held_on_to():
    async def life(loop):
        network = MemoryNetwork()
        addresses = {}

        async def listen(stream):
            await stream.receive()

        async def echo(peer, request):
            return request

        for n in (1, 2, 3):
            transport = network.transport(identity_of(n), OPEN_SWARM_ID)
            service = Service(calls={"echo": echo}, streams={"control": listen})
            listener = await transport.listen("127.0.0.1", 0, service)
            addresses[n] = [str(address) for address in listener.addresses]
        connections = Connections(network.transport(identity_of(CLIENT), OPEN_SWARM_ID))
        stream = await connections.stream(peer_of(1), addresses[1])
        used = await connections.to(peer_of(1), addresses[1])
        idle = await connections.to(peer_of(2), addresses[2])

        await asyncio.sleep(IDLE_S - 1)
        assert await connections.to(peer_of(2), addresses[2]) is idle
        await asyncio.sleep(IDLE_S + 1)
        await connections.to(peer_of(3), addresses[3])

        assert await connections.to(peer_of(1), addresses[1]) is used
        stream.send(b"still there")
        with pytest.raises(PeerUnreachable, match="closed here"):
            await idle.call("echo", b"", timeout_s=1)
        again = await connections.to(peer_of(2), addresses[2])
        assert await again.call("echo", b"it is dialled again", timeout_s=1)
        await connections.aclose()

    run_in_virtual_time(life)


def test_streams_move_to_a_better_way_once_there_is_one_and_calls_under_way_go_on():
    async def life(loop):
        network, peer = MemoryNetwork(), peer_of(1)
        transport, may_answer = network.transport(identity_of(1), OPEN_SWARM_ID), asyncio.Event()

        async def listen(stream):
            await stream.receive()

        async def ping(peer_id, request):
            return request

        async def slow(peer_id, request):
            await may_answer.wait()
            return request

        service = Service(calls={"ping": ping, "slow": slow}, streams={"control": listen})
        [at] = (await transport.listen("127.0.0.1", 0, service)).addresses
        relayed, direct = Address(at.host, at.port, peer, peer_of(2)), Address(at.host, 31400, peer)
        connections = Connections(network.transport(identity_of(CLIENT), OPEN_SWARM_ID))
        stream = await connections.stream(peer, [str(direct), str(relayed)])
        known = await connections.to(peer, ())
        assert known.path is Path.RELAYED
        call = asyncio.create_task(known.call("slow", b"asked before", timeout_s=60))

        await transport.listen("127.0.0.1", 31400, service)
        with pytest.raises(PeerUnreachable):
            await stream.receive()
        again = await connections.stream(peer, ())

        assert loop.time() < 20
        assert (await connections.to(peer, ())).path is Path.DIRECT
        again.send(b"here now")
        may_answer.set()
        assert await call == b"asked before"
        await connections.aclose()

    run_in_virtual_time(life)


class RelayedHop:
    """A hop behind a relay, which can be dialled directly from `opened` on."""

    def __init__(self) -> None:
        self.network, self.peer = MemoryNetwork(), peer_of(1)
        self.heard: list[object] = []  # the first message of each stream
        self.may_close = asyncio.Event()
        self._service = Service(calls={"ping": self._ping}, streams={"control": self._control})

    async def _ping(self, peer: object, request: bytes) -> bytes:
        return request

    async def _control(self, stream) -> None:
        self.heard.append(to_hop_message(await stream.receive()))
        stream.send(to_client_bytes(Progress(epoch=0, rows_in=0, rows_out=0, run_us=0)))
        await self.may_close.wait()
        stream.send(to_client_bytes(Closed()))
        await stream.drain()

    async def listens(self) -> list[str]:
        """Its addresses, of which the relayed one works."""
        self._transport = self.network.transport(identity_of(1), OPEN_SWARM_ID)
        [at] = (await self._transport.listen("127.0.0.1", 0, self._service)).addresses
        relayed = Address(at.host, at.port, self.peer, peer_of(2))
        return [str(Address(at.host, 31400, self.peer)), str(relayed)]

    async def opened(self) -> None:
        await self._transport.listen("127.0.0.1", 31400, self._service)


class Link:
    """To a hop, of a client that says `resume` when asked whether it goes on there."""

    def __init__(self, hop: RelayedHop, addresses: list[str], resume: Resume | None) -> None:
        self.resume, self.heard, self.lost = resume, [], []
        self.connections = Connections(hop.network.transport(identity_of(CLIENT), OPEN_SWARM_ID))
        self.link = ControlLink(
            self.connections,
            hop.peer,
            addresses,
            RESERVE,
            heard=lambda link, message: self.heard.append(type(message)),
            lost=lambda link, error: self.lost.append(error),
            resume=lambda link: self.resume,
        )
        self.running = asyncio.create_task(self.link.run())

    async def path(self, hop: RelayedHop) -> Path:
        return (await self.connections.to(hop.peer, ())).path

    async def ended(self, hop: RelayedHop) -> None:
        hop.may_close.set()
        await self.running
        await self.connections.aclose()


def test_a_hop_that_would_not_take_its_client_back_is_heard_where_it_is_until_it_would():
    async def life(loop):
        hop = RelayedHop()
        client = Link(hop, await hop.listens(), resume=None)
        await asyncio.sleep(1)
        await hop.opened()

        await asyncio.sleep(30)
        assert await client.path(hop) is Path.DIRECT
        assert (client.lost, hop.heard) == ([], [RESERVE])

        client.resume = RESUME  # it has committed
        await asyncio.sleep(30)
        assert (client.lost, hop.heard) == ([], [RESERVE, RESUME])
        await client.ended(hop)
        assert client.heard == [Progress, Progress, Closed]

    run_in_virtual_time(life)


def test_a_hop_that_is_closing_says_so_whatever_way_has_been_found_meanwhile():
    async def life(loop):
        hop = RelayedHop()
        client = Link(hop, await hop.listens(), resume=None)
        await asyncio.sleep(1)
        await hop.opened()
        await asyncio.sleep(30)

        await client.ended(hop)

        assert (client.lost, hop.heard) == ([], [RESERVE])
        assert client.heard == [Progress, Closed]

    run_in_virtual_time(life)


def test_an_answer_that_ends_while_its_stream_moves_still_hears_its_hop_out():
    async def life(loop):
        hop = RelayedHop()
        client = Link(hop, await hop.listens(), resume=RESUME)
        await asyncio.sleep(1)
        await hop.opened()
        assert client.link.may_move()

        client.resume = None  # the answer is whole
        await asyncio.sleep(0)
        await client.link._stream.aclose()
        await asyncio.sleep(1)

        assert (client.lost, hop.heard) == ([], [RESERVE, RESUME])
        await client.ended(hop)
        assert client.heard[-1] is Closed

    run_in_virtual_time(life)
