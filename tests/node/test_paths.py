"""One way after another to a peer, and a better one while the first is in use."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from weakref import ref

import pytest

from protocol.address import Address
from protocol.errors import PeerBusy, PeerUnreachable
from protocol.identity import PeerId
from protocol.path import Path
from protocol.path_book import Way
from protocol.reachability import Reach, Verdict
from protocol.transport import Connection
from protocol.transport.paths import Paths, paths_of
from tests.announcing import announce
from tests.node.relaying import (
    ECHO,
    Relayed,
    forwarding,
    free_port,
    relay_of,
    relayed,
    reserving,
    until,
)
from tests.protocol.transport.peers import listening, new_identity, new_transport


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
        transport, peer_id = new_transport(), behind.addresses[0].peer_id
        paths = Paths(transport, stagger_s=0.0)

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


@dataclass
class Tunnels:
    """What libp2p might carry to one peer: a circuit, and a hole from when there is one."""

    inside: Address
    hole: int = 0  # its number
    leads: bool = True  # or nobody gets through it
    asked: list[Path | None] = field(default_factory=list)
    n_open: int = 0

    @property
    def holes(self) -> dict[PeerId, int]:
        return {self.inside.peer_id: self.hole} if self.hole else {}

    async def open(self, address, path=None, *, timeout_s):
        self.asked.append(path)
        if path is Path.PUNCHED and not (self.hole and self.leads):
            raise PeerUnreachable(address.peer_id, "no hole could be punched")
        self.n_open += 1
        return Tunnel(self, self.inside, path or Path.CIRCUIT)


@dataclass
class Tunnel:
    tunnels: Tunnels
    address: Address
    path: Path

    async def aclose(self) -> None:
        self.tunnels.n_open -= 1


@asynccontextmanager
async def tunnelled() -> AsyncIterator[tuple[Tunnels, Paths, Address]]:
    """Tunnels to a peer, a dialler, and where they begin."""
    async with listening(ECHO) as inside:
        relay = Address("127.0.0.1", free_port(), new_identity().peer_id)
        address = Address(relay.host, relay.port, inside.peer_id, relay.peer_id, is_tunnel=True)
        transport = new_transport()
        transport.tunnelling = tunnels = Tunnels(inside)
        paths = Paths(transport, sure_s=0.01, hear_s=0.01)
        yield tunnels, paths, address
        await paths.aclose()
        assert tunnels.n_open == 0


async def test_tunnels_come_last_the_hole_before_the_circuit_and_end_with_their_connections():
    async with tunnelled() as (tunnels, paths, address):
        dead = Address("127.0.0.1", free_port(), address.peer_id)

        connection = await paths.dial(address.peer_id, (dead, address))
        stream = await connection.open("echo")
        stream.send(b"through")

        assert await stream.receive() == b"through"
        assert connection.path is Path.CIRCUIT
        assert tunnels.asked == [Path.PUNCHED, Path.CIRCUIT]
        await connection.aclose()


async def test_a_circuit_is_left_for_the_hole_once_there_is_one_and_each_keeps_its_own_numbers():
    async with tunnelled() as (tunnels, paths, address):
        hole, circuit = Way(Path.PUNCHED, address), Way(Path.CIRCUIT, address)
        first = await paths.dial(address.peer_id, (address,))
        stream = await first.open("echo")
        assert paths.way_of(first) == circuit
        assert await paths.upgraded(first, (address,)) is None
        assert paths.book.seen(address.peer_id, circuit).rtt_s is not None
        assert paths.book.seen(address.peer_id, hole).rtt_s is None

        tunnels.hole = 1
        better = await paths.upgraded(first, (address,))

        assert better is not None
        hole = Way(Path.PUNCHED, address, 1)
        assert (better.path, paths.way_of(better)) == (Path.PUNCHED, hole)
        of_hole, of_circuit = (paths.book.seen(address.peer_id, way) for way in (hole, circuit))
        assert of_hole.rtt_s is not None
        assert of_circuit.measured_at_s < of_hole.measured_at_s
        stream.send(b"still there")
        assert await stream.receive() == b"still there"
        again = await paths.dial(address.peer_id, (address,))
        assert again.path is Path.PUNCHED
        for each in (first, better, again):
            await each.aclose()


async def test_who_uses_a_circuit_hears_of_each_hole_once_and_who_goes_better_ways_of_none():
    async with tunnelled() as (tunnels, paths, address):
        there, addresses = address.peer_id, (address,)
        first = await paths.dial(there, addresses)

        async def hears(connection: Connection) -> bool:
            """Or else waits for as long as it was told to."""
            try:
                async with asyncio.timeout(0.3):
                    await paths.until_due(connection, addresses, 60.0)
            except TimeoutError:
                return False
            return True

        assert not await hears(first)
        tunnels.hole, tunnels.leads = 1, False
        assert await hears(first)
        assert await paths.upgraded(first, addresses) is None
        assert not await hears(first)
        tunnels.hole, tunnels.leads = 2, True
        assert await hears(first)
        better = await paths.upgraded(first, addresses)
        assert better is not None
        tunnels.hole = 3
        assert not await hears(better)
        await paths.until_due(better, addresses, 0.0)  # the time has come
        for each in (first, better):
            await each.aclose()


async def test_what_goes_through_a_hole_that_closed_is_dialled_over_the_circuit():
    async with tunnelled() as (tunnels, paths, address):
        tunnels.hole = 1
        first = await paths.dial(address.peer_id, (address,))
        assert first.path is Path.PUNCHED

        tunnels.hole = 0
        for expected in ([Path.PUNCHED, Path.CIRCUIT], [Path.CIRCUIT]):  # at once, the second time
            del tunnels.asked[:]
            again = await paths.dial(address.peer_id, (address,))
            assert again.path is Path.CIRCUIT
            assert tunnels.asked == expected
            await again.aclose()
        await first.aclose()


async def test_a_way_that_decays_is_replaced_while_it_still_works():
    """The direct way gets slow, as one does before it breaks; what ran on it ends well."""
    async with relayed() as there:
        port, delay_s = free_port(), [0.0]
        paths, peer_id = Paths(there.caller, sure_s=0.02), there.address.peer_id
        direct = Address("127.0.0.1", port, peer_id)
        ways = (direct, there.address)
        async with forwarding(port, there.listens, delay_s):
            first = await paths.dial(peer_id, ways)
            stream = await first.open("echo")
            assert first.path is Path.DIRECT
            assert await paths.upgraded(first, ways) is None  # now it knows what is usual

            delay_s[0] = 0.06
            other = await paths.upgraded(first, ways)

            assert other is not None
            assert other.path is Path.RELAYED
            stream.send(b"slowly")
            assert await stream.receive() == b"slowly"
            assert paths.book.seen(peer_id, Way(Path.DIRECT, direct)).n_failed == 0
            assert await paths.upgraded(other, ways) is None  # and does not go back to it

            delay_s[0] = 0.0
            back = await paths.upgraded(other, ways)
            assert back is not None
            assert back.path is Path.DIRECT
            for each in (first, other, back):
                await each.aclose()
        await paths.aclose()


async def test_one_slow_answer_is_no_decay():
    async with relayed() as there:
        port, delay_s = free_port(), [0.0]
        paths, peer_id = Paths(there.caller, sure_s=0.3), there.address.peer_id
        ways = (Address("127.0.0.1", port, peer_id), there.address)
        async with forwarding(port, there.listens, delay_s):
            first = await paths.dial(peer_id, ways)
            assert await paths.upgraded(first, ways) is None

            delay_s[0] = 0.2
            looking = asyncio.create_task(paths.upgraded(first, ways))
            await asyncio.sleep(0.3)
            delay_s[0] = 0.0

            assert await looking is None
            await first.aclose()
        await paths.aclose()


async def test_what_a_peer_says_nobody_can_dial_is_tried_when_nothing_else_answers():
    async with relayed() as there, silent() as hole:
        paths, peer_id = Paths(there.caller, stagger_s=5), there.address.peer_id
        own, reach = Address(*hole, peer_id), Reach(verdict=Verdict.NAT)
        hidden = announce(1, peer_id=peer_id, addresses=(own, there.address), reach=reach)

        connection = await paths.dial(peer_id, hidden.to_dial)

        assert connection.path is Path.RELAYED
        assert paths.status() == {"relayed": 1}
        await connection.aclose()
        await paths.aclose()


async def test_what_was_found_out_goes_with_its_transport():
    async def dialled(there: Relayed) -> ref[Paths]:
        paths = paths_of(transport := new_transport())
        connection = await paths.dial(there.address.peer_id, (there.address,))
        await connection.aclose()
        await paths.aclose()
        assert paths_of(transport) is paths
        return ref(paths)

    async with relayed() as there:
        kept = [await dialled(there) for _ in range(3)]
        await asyncio.sleep(0)
        gc.collect()

    assert [paths() for paths in kept] == [None] * 3
