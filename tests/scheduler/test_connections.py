"""A client's connections: shared, left for better ones, and let go when nothing runs on them."""

import asyncio

import pytest

from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.path import Path
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from scheduler.chain import IDLE_S, Connections
from tests.announcing import peer_of
from tests.gossiping import identity_of
from tests.virtual_time import run_in_virtual_time

CLIENT = 9


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
