"""A node asks peers to dial it back: whom, when, and what it announces of the answers."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from node.reaching import Reaching, ReachTiming, choose_dialers
from node.whereabouts import Ways, Whereabouts
from protocol.address import Address
from protocol.identity import Identity
from protocol.reachability import Nat, Reach, Verdict, network_of
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from protocol.transport.one_port import OnePort
from tests.announcing import announce, key_of, peer_of
from tests.gossiping import identity_of
from tests.protocol.transport.peers import new_transport

QUICK = ReachTiming(start_s=0.0, again_s=0.05, glance_s=0.01, seen_every_s=0.02)


def peers_at(*hosts):
    return [
        announce(n, addresses=(Address(host, 31400, peer_of(n)),))
        for n, host in enumerate(hosts, start=1)
    ]


# --- whom ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_dialers_are_drawn_from_different_networks_where_there_are_some(seed):
    crowd = [f"203.0.113.{n}" for n in range(1, 30)]
    peers = peers_at(*crowd, "198.51.100.1", "192.0.2.1", "192.0.2.2")

    chosen = choose_dialers(peers, 3, random.Random(seed))

    networks = {network_of(peer.addresses[0].host) for peer in chosen}
    assert networks == {"203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"}


def test_who_is_asked_next_is_from_elsewhere_than_those_asked_before():
    peers = peers_at("203.0.113.1", "203.0.113.2", "198.51.100.1")

    [chosen] = choose_dialers(peers[1:], 1, random.Random(1), beside=peers[:1])

    assert chosen == peers[2]


def test_where_all_are_in_one_network_they_are_asked_all_the_same():
    peers = peers_at("203.0.113.1", "203.0.113.2")

    assert set(choose_dialers(peers, 3, random.Random(1))) == set(peers)


# --- in a swarm ----------------------------------------------------------------------------------


class World:
    """Nodes that dial back for each other, as far as they know the call."""

    def __init__(self, transports):
        self.transports = transports
        self.announced: dict[int, object] = {}
        self.n_changes = 0

    def others(self, n):
        return [peer for m, peer in sorted(self.announced.items()) if m != n]

    def changed(self):
        self.n_changes += 1

    @asynccontextmanager
    async def node(self, n, host="127.0.0.1", *, knows_the_call=True, ways=None, at=None):
        """`at`: where others are told to find it, if not where it listens."""
        transport = self.transports(n)
        ways = ways or Ways(timing=QUICK)
        place = Whereabouts(transport, lambda: self.others(n), self.changed, ways)
        service = Service(seen_calls=place.seen_calls if knows_the_call else {}, came=place.came)
        listener = await transport.listen(host, 0, service)
        place.listening(listener)
        self.announced[n] = announce(n, addresses=at or listener.addresses)
        try:
            yield place
        finally:
            await listener.aclose(grace_s=0)
            del self.announced[n]


@asynccontextmanager
async def running(place):
    task = asyncio.create_task(place.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds):
    async with asyncio.timeout(5.0):
        while not holds():  # noqa: ASYNC110 (a finding has no event)
            await asyncio.sleep(0.01)


def in_memory():
    network = MemoryNetwork(seed=3)
    return World(lambda n: network.transport(identity_of(n), OPEN_SWARM_ID))


async def test_a_node_that_peers_reach_announces_that_they_did():
    world = in_memory()
    async with world.node(1), world.node(2), world.node(3) as place, running(place):
        assert place.reach == Reach()
        await until(lambda: place.reach.is_public)

        assert place.reach == Reach(verdict=Verdict.DIRECT, nat=Nat.NONE, n_confirmed=1)
        assert place.status()["verdict"] == "direct"
        assert len(place.status()["witnesses"]) == 2
        assert world.n_changes == 1


async def test_the_only_peer_that_can_be_asked_decides_where_the_others_cannot_be_dialled():
    world = in_memory()
    async with world.node(1), world.node(2), world.node(3) as place, running(place):
        world.announced[2] = announce(2, reach=Reach(verdict=Verdict.NAT))

        await until(lambda: place.reach.verdict is Verdict.DIRECT)

        assert [each.peer_id for each in place.finding.witnesses] == [peer_of(1)]


async def test_what_one_peer_said_suffices_as_soon_as_the_others_are_known_to_be_hidden():
    world, ways = in_memory(), Ways(timing=ReachTiming(start_s=0.0, again_s=60, weigh_s=0.01))
    async with world.node(1), world.node(2), world.node(3, ways=ways) as place, running(place):
        world.announced[2] = announce(2, addresses=(Address("203.0.113.9", 1, peer_of(2)),))
        await until(lambda: place.finding.witnesses)
        before = place.reach.verdict
        world.announced[2] = announce(2, reach=Reach(verdict=Verdict.NAT))

        await until(lambda: place.reach.verdict is Verdict.DIRECT)

        assert before is Verdict.UNKNOWN
        assert "one peer" not in place.status()["why"]


async def test_a_node_alone_stays_as_it_is_until_peers_come():
    world = in_memory()
    async with world.node(3) as place, running(place):
        await asyncio.sleep(0.1)
        assert place.reach == Reach()
        async with world.node(1), world.node(2):
            await until(lambda: place.reach.verdict is Verdict.DIRECT)


async def test_among_older_peers_a_node_stays_as_it_is():
    world = in_memory()
    async with AsyncExitStack() as peers:
        for n in (1, 2):
            await peers.enter_async_context(world.node(n, knows_the_call=False))
        async with world.node(3) as place, running(place):
            await asyncio.sleep(0.2)

            assert place.reach == Reach()
            assert len(place.addresses) == 1


class At:
    """A listener, as far as it says where it listens."""

    def __init__(self, *addresses):
        self.addresses = addresses


async def test_an_address_that_peers_dial_in_vain_goes_once_another_is_confirmed():
    """The node listens at two addresses and is seen at one of them, where nobody gets through."""
    world = in_memory()
    async with world.node(1), world.node(2), world.node(3) as place:
        [listening] = place.own()
        wrong = Address(listening.host, listening.port + 1000, listening.peer_id)

        place.listening(At(wrong))
        await place.ask()
        assert place.reach.verdict is Verdict.FIREWALLED
        assert place.addresses == (wrong,)  # nothing better is known: neighbours may try it

        place.listening(At(wrong, listening))
        await place.ask()
        assert place.reach == Reach(verdict=Verdict.DIRECT, nat=Nat.NONE, n_confirmed=1)
        assert place.addresses == (listening,)


async def test_a_machine_with_another_address_is_asked_about_at_once():
    world = in_memory()
    async with world.node(1), world.node(2), world.node(3) as place, running(place):
        await until(lambda: place.reach.is_public)
        [before] = place.own()

        moved = Address("10.0.0.9", before.port, before.peer_id)
        place.listening(At(moved))
        await until(lambda: place.reach.verdict is Verdict.MAPPED)

        assert place.addresses == (before, moved)  # where peers still reach it, and where it is


@asynccontextmanager
async def behind_a_router(world, *, ways=None):
    """Node 3, which two peers reach at its router's address; and what lets peer `n` visit it."""
    async with (
        world.node(1, "203.0.113.1"),
        world.node(2, "203.0.113.2"),
        world.node(3, "198.51.100.3", ways=ways) as place,
    ):
        [outside] = place.own()
        place.listening(At(Address("192.168.1.7", outside.port, outside.peer_id)))
        await place.ask()
        assert place.reach.verdict is Verdict.MAPPED

        async def visit(n, host):
            caller = world.transports(n)
            listener = await caller.listen(host, 0, Service())  # so that this is where it is seen
            await (await caller.dial(outside)).aclose()
            await listener.aclose(grace_s=0)

        yield place, visit


async def test_a_router_that_lets_in_who_was_asked_may_be_closed_to_strangers_until_one_comes():
    world = in_memory()
    async with behind_a_router(world) as (place, visit):
        assert place.may_be_hidden
        assert place.status()["why"].endswith("until then relays carry it as well")

        world.announced[4] = announce(4, addresses=(Address("203.0.113.4", 1, peer_of(4)),))
        for n, host in (
            (4, "203.0.113.44"),  # a peer: we may have sent to it
            (7, "203.0.113.4"),  # who shares an address with a peer
            (7, "127.0.0.1"),  # as relays and tunnels bring callers
            (7, "192.168.1.8"),  # a neighbour
            (7, "198.51.100.3"),  # one behind the same router, which turned it around
        ):
            await visit(n, host)
            assert place.may_be_hidden

        del world.announced[4]  # it leaves, and calls as if it had never been a peer
        await visit(9, "203.0.113.4")
        assert place.may_be_hidden

        await visit(8, "192.0.2.8")
        assert not place.may_be_hidden
        assert place.status()["stranger"] == "192.0.2.8"
        assert place.status()["why"].endswith("reached this node")
        assert place.reach.verdict is Verdict.MAPPED


async def test_a_home_among_peers_of_the_world_is_likely_hidden_until_somebody_has_dialled_it():
    world = in_memory()
    async with (
        world.node(1, "203.0.113.1"),
        world.node(2, "203.0.113.2"),
        world.node(3, "198.51.100.3") as place,
    ):
        [outside] = place.own()
        assert not place.is_likely_hidden
        place.listening(At(Address("192.168.1.7", outside.port, outside.peer_id)))
        assert place.is_likely_hidden

        await place.ask()

        assert place.finding.witnesses
        assert not place.is_likely_hidden


async def test_among_neighbours_and_where_its_operator_opened_a_port_no_home_is_likely_hidden():
    world = in_memory()
    ways = Ways(timing=QUICK, announce=("home.example", 40_002))
    async with world.node(1, "192.168.1.1"), world.node(3) as place:
        place.listening(At(Address("192.168.1.7", 31400, place.own()[0].peer_id)))
        assert not place.is_likely_hidden
    async with world.node(1, "203.0.113.1"), world.node(3, ways=ways) as place:
        place.listening(At(Address("192.168.1.7", 31400, place.own()[0].peer_id)))
        assert not place.is_likely_hidden


async def test_a_port_that_its_operator_opened_is_open_to_strangers():
    world = in_memory()
    ways = Ways(timing=QUICK, announce=("home.example", 40_002))
    async with behind_a_router(world, ways=ways) as (place, _):
        assert not place.may_be_hidden


async def test_what_the_operator_says_is_announced_alone_and_confirmed_at_a_router_only():
    world = in_memory()
    ways = Ways(timing=QUICK, announce=("home.example", 40_002))
    async with world.node(1), world.node(2), world.node(3, ways=ways) as place:
        [listening] = place.own()
        await place.ask()

        assert place.addresses == (Address("home.example", listening.port, listening.peer_id),)
        assert place.reach.n_confirmed == 0  # what was confirmed is this machine's own address
        assert place.reach.verdict is Verdict.DIRECT


async def test_over_sockets_all_questions_leave_from_one_port_and_no_nat_is_seen():
    identities = {n: Identity(key_of(n)) for n in (1, 2, 3)}
    world = World(lambda n: new_transport(identity=identities[n]))
    ways = Ways(timing=QUICK, one_port=OnePort)
    async with world.node(1), world.node(2), world.node(3, ways=ways) as place, running(place):
        await until(lambda: place.reach.is_public)

        assert place.reach == Reach(verdict=Verdict.DIRECT, nat=Nat.NONE, n_confirmed=1)
        assert place.finding.seen_hosts == ("127.0.0.1",)


async def test_peers_that_are_gone_or_break_off_say_nothing_either_way():
    world = in_memory()
    gone = Address("127.0.0.1", 1, peer_of(1))
    async with world.node(1, at=(gone,)), world.node(2), world.node(3) as place, running(place):
        await asyncio.sleep(0.2)

        assert place.reach.verdict is Verdict.UNKNOWN
        assert "one peer is too few" in place.finding.why


def test_who_cannot_be_dialled_is_not_asked_to_dial():
    behind = announce(1, reach=Reach(verdict=Verdict.NAT))
    reaching = Reaching(None, lambda: [behind], tuple, tuple, lambda: None)

    assert reaching._willing(()) == []
