"""The service through libp2p streams, and circuits through a relay of ours, on loopback.

Holes need routers: `tests/namespaces/test_tunnels.py` has them.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from protocol.address import Address
from protocol.errors import PeerMisbehaved, PeerUnreachable, UsageError
from protocol.identity import Identity, PeerId
from protocol.path import Path as Way
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Service, Stream
from protocol.transport.control_plane import CARRYING, CircuitLimits, PlaneLimits, TunnelLimits
from protocol.transport.grpc import GrpcTransport
from protocol.transport.libp2p import Libp2pPlane, is_installed
from protocol.transport.tunnelling import info_of
from tests.gossiping import until
from tests.p2pd import CONNECT, OK, find_p2pd, nested, number, peer_bytes, running_p2pd
from tests.protocol.transport.test_libp2p import Shelf, on_a_strangers_host

P2PD = find_p2pd()

pytestmark = [
    pytest.mark.libp2p,
    pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed"),
]


@dataclass
class Peer:
    plane: Libp2pPlane
    transport: GrpcTransport

    @property
    def peer_id(self) -> PeerId:
        return self.plane.peer_id

    async def ask(self, other: "Peer", *relays: Address, way: Way = Way.CIRCUIT) -> bytes:
        """A call through a new tunnel."""
        tunnel = await self.plane.tunnelling.open_by(other.peer_id, relays, way)
        try:
            connection = await self.transport.dial(tunnel.address, timeout_s=10)
            try:
                return await connection.call("who", b"", timeout_s=10)
            finally:
                await connection.aclose()
        finally:
            await tunnel.aclose()


@asynccontextmanager
async def peer(
    *bootstrap: Address,
    tunnels: TunnelLimits | None = None,
    relaying: CircuitLimits | None = None,
    serves: bool = True,
) -> AsyncIterator[Peer]:
    identity = Identity(SigningKey.generate())
    plane = Libp2pPlane(identity, bootstrap=bootstrap, tunnels=tunnels, relaying=relaying)
    made = Peer(plane, GrpcTransport(identity, OPEN_SWARM_ID))
    service = Service(calls={"who": _who}, streams={"echoes": _echoes})
    listener = await made.transport.listen("127.0.0.1", 0, service)
    await plane.start(Shelf())
    if serves:
        plane.tunnelling.serve(listener.addresses[0].port, wants_places=lambda: True)
    try:
        yield made
    finally:
        await plane.stop()
        await listener.aclose()


@asynccontextmanager
async def around_a_relay(
    n: int = 2, *, limits: CircuitLimits | None = None, tunnels: TunnelLimits | None = None
) -> AsyncIterator[tuple[Peer, ...]]:
    """A relay, and peers that have a place there."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(peer(relaying=limits or CARRYING))
        others = [
            await stack.enter_async_context(
                peer(*relay.plane.addresses, tunnels=tunnels or TunnelLimits())
            )
            for _ in range(n)
        ]
        for each in others:
            await until(lambda each=each: bool(each.plane.tunnelling.relays), timeout_s=20)
        yield (relay, *others)


async def _who(caller: PeerId, request: bytes) -> bytes:
    return caller.encode()


async def _echoes(stream: Stream) -> None:
    with suppress(PeerUnreachable):  # the caller has ended it
        while True:
            stream.send(await stream.receive())


async def test_a_call_through_a_circuit_is_proven_end_to_end_and_the_relay_counts_its_bytes():
    async with around_a_relay() as (relay, there, here):
        assert list(there.plane.tunnelling.relays) == list(relay.plane.addresses)

        caller = await here.ask(there, *there.plane.tunnelling.relays)

        assert caller.decode() == here.peer_id
        told: Any = relay.plane.tunnelling.status()["relaying"]
        assert told["places"] == 2
        assert told["carried_bytes"] > 2000


async def test_whoever_answers_in_a_tunnel_has_to_be_the_peer_that_was_dialled():
    async with around_a_relay() as (_, there, here):
        tunnel = await here.plane.tunnelling.open_by(
            there.peer_id, there.plane.tunnelling.relays, Way.CIRCUIT
        )
        other = PeerId(Identity(SigningKey.generate()).peer_id)

        with pytest.raises(PeerMisbehaved, match=there.peer_id):
            await here.transport.dial(Address("127.0.0.1", tunnel.address.port, other))
        await tunnel.aclose()


async def test_what_there_is_no_way_to_says_why():
    nowhere = PeerId(Identity(SigningKey.generate()).peer_id)
    async with around_a_relay(1) as (relay, here), peer() as off:
        for asking, relays, why in (
            (here, (), "no relay is known"),
            (here, relay.plane.addresses, "no circuit through"),  # it has no place there
            (off, relay.plane.addresses, "carries nothing here"),
        ):
            with pytest.raises(PeerUnreachable, match=why):
                await asking.plane.tunnelling.open_by(nowhere, relays, Way.CIRCUIT)


@pytest.mark.slow
async def test_a_relay_keeps_no_more_places_and_circuits_than_it_may():
    limits = replace(CARRYING, places=2, circuits_per_peer=1)
    async with around_a_relay(limits=limits) as (relay, there, here):
        async with peer(*relay.plane.addresses, tunnels=TunnelLimits()) as late:
            await until(lambda: relay.plane.refused["reservations"] > 0, timeout_s=20)
            assert not late.plane.tunnelling.relays
            await here.ask(there, *there.plane.tunnelling.relays)  # its circuit stays open

            with pytest.raises(PeerUnreachable, match="no circuit"):
                await late.plane.tunnelling.open_by(
                    there.peer_id, there.plane.tunnelling.relays, Way.CIRCUIT
                )

        assert relay.plane.refused["circuits of one peer"] == 1


@pytest.mark.slow
async def test_a_circuit_that_has_carried_its_share_ends_and_the_next_begins():
    limits = replace(CARRYING, circuit_bytes=64 * 2**20 + 1)
    async with around_a_relay(limits=limits) as (_, there, here):
        relays = there.plane.tunnelling.relays
        tunnel = await here.plane.tunnelling.open_by(there.peer_id, relays, Way.CIRCUIT)
        connection = await here.transport.dial(tunnel.address, timeout_s=10)
        stream = await connection.open("echoes")
        half = bytes(16 * 2**20)

        async def echo_much() -> None:
            for _ in range(3):  # 96 MiB, both ways together
                stream.send(half)
                assert await stream.receive() == half

        with pytest.raises(PeerUnreachable):
            await echo_much()

        assert (await here.ask(there, *relays)).decode() == here.peer_id
        await connection.aclose()
        await tunnel.aclose()


async def test_peers_get_as_many_tunnels_as_they_may_and_none_where_no_service_is():
    async with around_a_relay(3, tunnels=TunnelLimits(streams_per_peer=1)) as (_, there, here, off):
        off.plane.tunnelling.serve(0, wants_places=lambda: True)
        relays = there.plane.tunnelling.relays
        tunnel = await here.plane.tunnelling.open_by(there.peer_id, relays, Way.CIRCUIT)
        connection = await here.transport.dial(tunnel.address, timeout_s=10)

        with pytest.raises(PeerUnreachable):
            await here.transport.dial(tunnel.address, timeout_s=1)
        with pytest.raises(PeerUnreachable):
            await here.ask(off, *relays)

        assert there.plane.refused["tunnels of one peer"] >= 1
        assert off.plane.refused["tunnels to no service"] >= 1
        await connection.aclose()
        await tunnel.aclose()


async def test_a_circuit_by_a_stranger_that_is_no_relay_of_ours_is_refused():
    async def call(host: Any) -> int:
        from libp2p.relay.circuit_v2.pb.circuit_pb2 import StopMessage

        from protocol.transport.circuits import STOP, hear, say

        (connected,) = host.get_connected_peers()
        stream = await host.new_stream(connected, [STOP])
        words = StopMessage(type=StopMessage.CONNECT)
        words.peer.id = host.get_id().to_bytes()
        await say(stream, words)
        return int((await hear(stream, StopMessage)).status)

    async with peer(tunnels=TunnelLimits()) as made:
        status = await on_a_strangers_host(made.plane.addresses[0], call)

        assert status == 202  # PERMISSION_DENIED
        assert not made.plane.problem


async def test_words_that_are_none_end_their_stream_and_nothing_else():
    async def send_junk(host: Any) -> None:
        from libp2p.custom_types import TProtocol

        (connected,) = host.get_connected_peers()
        for protocol in ("/libp2p/circuit/relay/0.2.0/hop", "/libp2p/dcutr"):
            for junk in (b"\xff\xff\xff\x7f", b"\x05\xff\xff\xff\xff\xff", b"\x02\x08\x02"):
                stream = await host.new_stream(connected, [TProtocol(protocol)])
                await stream.write(junk)
                with suppress(Exception):
                    await stream.read(1)

    async with peer(tunnels=TunnelLimits(), relaying=CircuitLimits()) as made:
        await on_a_strangers_host(made.plane.addresses[0], send_junk)
        async with peer(*made.plane.addresses, tunnels=TunnelLimits()) as here:
            await until(lambda: bool(here.plane.tunnelling.relays), timeout_s=20)

        assert not made.plane.problem


@pytest.mark.slow
async def test_both_ends_know_a_hole_by_a_number_until_it_closes_and_the_next_one_by_another():
    async with around_a_relay() as (_, there, here):
        ways, info = here.plane.tunnelling, info_of(there.plane.addresses[0])
        host = ways._tunnels._host
        numbers = []
        for _ in range(2):
            await ways.thread.call(lambda: host.connect(info))
            await until(lambda: here.peer_id in there.plane.tunnelling.holes, timeout_s=10)
            await until(lambda: there.peer_id in ways.holes, timeout_s=10)
            numbers.append(ways.holes[there.peer_id])
            await ways.thread.call(lambda: host.disconnect(info.peer_id))
            await until(lambda: there.peer_id not in ways.holes, timeout_s=10)

        assert numbers[1] > numbers[0] > 0


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_for_longer_than_the_library_waits_loses_nothing():
    async with around_a_relay() as (_, there, here):
        relays = there.plane.tunnelling.relays
        tunnel = await here.plane.tunnelling.open_by(there.peer_id, relays, Way.CIRCUIT)
        _, writer = await asyncio.open_connection("127.0.0.1", tunnel.address.port)
        ours, theirs = await _raw_echo(there)
        sent = bytes(range(256)) * 2**14  # 4 MiB: more than both windows hold

        writer.write(sent)
        accepted_reader, accepted_writer = await theirs
        await asyncio.sleep(8)  # nobody reads: yamux would have reset the stream after five
        received = await accepted_reader.readexactly(len(sent))

        assert received == sent
        for each in (writer, accepted_writer, ours):
            each.close()
        await tunnel.aclose()


@pytest.mark.slow
async def test_a_side_that_has_said_all_is_answered_still_and_the_other_may_go_first():
    async with around_a_relay() as (_, there, here):
        relays = there.plane.tunnelling.relays
        tunnel = await here.plane.tunnelling.open_by(there.peer_id, relays, Way.CIRCUIT)
        answer = bytes(range(256)) * 2**12  # 1 MiB

        for caller_ends_first in (True, False):
            server, accepted = await _raw_echo(there)
            reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.address.port)
            writer.write(b"all there is to say")
            their_reader, their_writer = await accepted
            if caller_ends_first:
                writer.write_eof()
                assert await their_reader.read() == b"all there is to say"
                their_writer.write(answer)
                their_writer.write_eof()
                assert await reader.read() == answer
            else:
                their_writer.write(answer)
                their_writer.write_eof()
                assert await reader.read() == answer
                writer.write(answer)
                writer.write_eof()
                assert await their_reader.read() == b"all there is to say" + answer
            for each in (writer, their_writer, server):
                each.close()
        await tunnel.aclose()


async def _raw_echo(at: Peer) -> tuple[asyncio.Server, "asyncio.Future[Any]"]:
    """A service without TLS in the place of the real one, and its first connection."""
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0, limit=2**16
    )
    at.plane.tunnelling.serve(server.sockets[0].getsockname()[1], wants_places=lambda: True)
    return server, accepted


@pytest.mark.slow
@pytest.mark.skipif(P2PD is None, reason="no p2pd: scripts/test fetches it where it can")
async def test_the_reference_daemon_calls_a_peer_of_ours_through_our_relay(tmp_path: Path):
    assert P2PD is not None
    async with (
        around_a_relay(1) as (relay, there),
        running_p2pd(P2PD, tmp_path, "-relay=true") as daemon,
    ):
        circuit = _circuit_bytes(relay.plane.addresses[0], there.peer_id)
        request = nested(1, peer_bytes(there.peer_id)) + nested(2, circuit) + number(3, 20)

        answer = await daemon.ask(CONNECT, 2, request)

        assert answer[1] == [OK], answer
        assert peer_bytes(there.peer_id) in await daemon.peers()


def _circuit_bytes(relay: Address, peer_id: PeerId) -> bytes:
    """`relay`/p2p-circuit/p2p/`peer_id` as multiaddr bytes."""
    from multiaddr import Multiaddr

    return bytes(Multiaddr(f"{relay}/p2p-circuit/p2p/{peer_id}").to_bytes())


def test_quotas_are_counts():
    for wrong in (
        lambda: TunnelLimits(streams=1, streams_per_peer=2),
        lambda: CircuitLimits(places=0),
        lambda: CircuitLimits(circuit_bytes=0),
        lambda: PlaneLimits(streams=0),
    ):
        with pytest.raises((PeerMisbehaved, UsageError, ValueError)):
            wrong()
