"""One way after another to a peer, and a better one while the first is in use."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from protocol.address import Address
from protocol.errors import PeerBusy, PeerUnreachable
from protocol.path import Path
from protocol.transport.paths import Paths, paths_of
from tests.node.relaying import forwarding, relay_of, relayed, reserving, until
from tests.protocol.transport.peers import echo, listening, new_transport, stream_service


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, int]]:
    """A port that takes connections and says nothing, as a black hole looks to who dials it."""
    ends: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: ends.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        for end in ends:
            end.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_dead_direct_address_costs_a_moment_and_the_relay_answers():
    async with relayed() as there, silent() as hole:
        paths = Paths(there.caller)
        ways = (Address(*hole, there.address.peer_id), there.address)

        connection = await paths.dial(there.address.peer_id, ways, timeout_s=5)

        assert connection.path is Path.RELAYED
        assert paths.way_of(connection).address == there.address
        assert await connection.call("ping", b"hi", timeout_s=5) == b"hi"
        assert paths.status() == {"relayed": 1}
        await connection.aclose()
        await paths.aclose()


async def test_who_loses_the_race_keeps_no_connection_open_at_its_relay():
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(relay_of()) for _ in range(2)]
        gates = [gate for _, gate in made]
        behind = await stack.enter_async_context(reserving(*gates))
        await until(lambda: len(behind.addresses) == 2)
        paths, peer_id = Paths(new_transport(), stagger_s=0.0), behind.addresses[0].peer_id

        connection = await paths.dial(peer_id, behind.addresses)

        def n_open(address: Address | None) -> int:
            assert address is not None
            [relay] = (r for r, gate in made if gate.peer_id == address.relay)
            return relay.book.status()["connections"]

        won = paths.way_of(connection).address
        [lost] = set(behind.addresses) - {won}
        await until(lambda: n_open(lost) == 0)
        assert n_open(won) == 1
        await connection.aclose()
        await paths.aclose()


async def test_a_direct_way_that_opens_later_is_taken_and_what_runs_on_the_relay_goes_on():
    async with relayed() as there:
        paths, port = Paths(there.caller, now_s=lambda: clock[0]), free_port()
        peer_id, clock = there.address.peer_id, [0.0]
        ways = (Address("127.0.0.1", port, peer_id), there.address)
        first = await paths.dial(peer_id, ways)
        stream = await first.open("echo")
        assert await paths.upgraded(first, ways) is None

        async with forwarding(port, there.listens):
            clock[0] += 700  # the direct way is due again
            better = await paths.upgraded(first, ways)
            assert better is not None
            assert better.path is Path.DIRECT
            assert (await paths.dial(peer_id, ways)).path is Path.DIRECT
            stream.send(b"still there")
            assert await stream.receive() == b"still there"
            await better.aclose()
            await first.aclose()
        await paths.aclose()


async def test_whose_way_broke_gets_another_one():
    async with relayed() as there:
        paths, port = Paths(there.caller, ping_s=0.5), free_port()
        peer_id = there.address.peer_id
        ways = (Address("127.0.0.1", port, peer_id), there.address)
        async with forwarding(port, there.listens):
            first = await paths.dial(peer_id, ways)
            assert first.path is Path.DIRECT

        other = await paths.upgraded(first, ways)

        assert other is not None
        assert other.path is Path.RELAYED
        await other.aclose()
        await first.aclose()
        await paths.aclose()


async def test_a_no_counts_more_than_silence_and_foreign_addresses_are_not_dialled():
    async with relayed() as there:
        caller = new_transport()
        peer_id = there.address.peer_id
        dead = Address("127.0.0.1", free_port(), peer_id)
        now_s = asyncio.get_running_loop().time()
        foreign = Address("127.0.0.1", free_port(), there.gate.peer_id)
        there.relay.book.carried(peer_id, 1 << 50, now_s, to_peer=True)  # its share is used up

        with pytest.raises(PeerBusy, match="share"):
            await paths_of(caller).dial(peer_id, (dead, there.address, foreign))
        with pytest.raises(PeerUnreachable, match="no address"):
            await paths_of(caller).dial(peer_id, ())
        await paths_of(caller).aclose()


async def test_tunnels_come_last_and_their_numbers_are_their_own():
    async with listening(stream_service(echo)) as inside:

        class Tunnel:
            address, is_open = inside, True

            async def aclose(self) -> None:
                self.is_open = False

        class Tunnels:
            opened: list[Tunnel] = []  # noqa: RUF012

            def paths_to(self, peer_id):
                return (Path.PUNCHED, Path.CIRCUIT)

            async def open(self, peer_id, path, *, timeout_s):
                if path is Path.PUNCHED:
                    raise PeerUnreachable(peer_id, "symmetric on both sides")
                self.opened.append(Tunnel())
                return self.opened[-1]

        paths = Paths(new_transport(), tunnels=Tunnels())
        dead = Address("127.0.0.1", free_port(), inside.peer_id)

        connection = await paths.dial(inside.peer_id, (dead,))
        stream = await connection.open("Test")
        stream.send(b"through")

        assert await stream.receive() == b"through"
        assert connection.path is Path.CIRCUIT
        await connection.aclose()
        assert [tunnel.is_open for tunnel in Tunnels.opened] == [False]
        await paths.aclose()
