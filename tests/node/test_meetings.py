"""Nodes meet for round trips and bursts; whoever receives holds the watch."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from node.bandwidth import EACH_S, METHOD, UPWARD, Bandwidth
from node.links import LinkTimes
from node.meetings import MOST_OFFERS, Meetings
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.memory import MemoryNetwork
from tests.announcing import announce, peer_of
from tests.gossiping import identity_of


@pytest.fixture
def network():
    return MemoryNetwork(seed=5)


async def _ping(peer, request):
    return b""


@asynccontextmanager
async def host(network, n, bandwidth):
    """Peer `n`, which sends bursts; its announcement."""
    transport = network.transport(identity_of(n), OPEN_SWARM_ID)
    service = Service(calls={"ping": _ping}, streams=bandwidth.streams)
    listener = await transport.listen("127.0.0.1", 0, service)
    try:
        yield announce(n, addresses=listener.addresses)
    finally:
        await listener.aclose(grace_s=0)


def meeting(network, n, peers, bandwidth, *, is_idle=True):
    links = LinkTimes()
    transport = network.transport(identity_of(n), OPEN_SWARM_ID)
    rng = random.Random(1)
    return links, Meetings(transport, lambda: peers, links, bandwidth, lambda: is_idle, rng=rng)


async def test_two_that_meet_know_round_trip_and_bandwidth_of_each_other(network):
    ours, theirs = Bandwidth(), Bandwidth()
    async with host(network, 1, theirs) as peer:
        links, meetings = meeting(network, 2, [peer], ours)

        await meetings.meet(peer)

        assert links.rtt_s(peer_of(1), asyncio.get_running_loop().time()) is not None
        assert ours.n_known == 1
        assert ours.down_bytes_per_s > 0
        await asyncio.sleep(0)
        assert theirs.up_bytes_per_s > 0


async def test_who_is_asked_for_no_burst_offers_some_and_learns_how_wide_its_way_up_is(
    network,
):
    ours, theirs = Bandwidth(), [Bandwidth() for _ in range(3)]
    async with AsyncExitStack() as hosts:
        hosting = [host(network, n, each) for n, each in enumerate(theirs, start=1)]
        peers = [await hosts.enter_async_context(each) for each in hosting]
        _, meetings = meeting(network, 7, peers, ours)

        for peer in peers:
            assert ours.n_told == peers.index(peer)
            await meetings.meet(peer)

        assert ours.up_bytes_per_s > 0
        assert [each.n_known for each in theirs] == [1, 1, 1]
        assert all(each.down_bytes_per_s > 0 for each in theirs)
        meetings_after = [(each.n_known, each.n_told) for each in theirs]
        await meetings.meet(peers[0])  # three know: no more offers
        assert [(each.n_known, each.n_told) for each in theirs] == meetings_after


async def test_peers_who_know_no_offers_are_made_a_few_and_no_more(network):
    now = [0.0]
    ours, theirs = Bandwidth(), Bandwidth(now_s=lambda: now[0])
    service = Service(calls={"ping": _ping}, streams={METHOD: theirs.handle})
    transport = network.transport(identity_of(1), OPEN_SWARM_ID)
    listener = await transport.listen("127.0.0.1", 0, service)
    links, meetings = meeting(network, 2, [], ours)

    for _ in range(2 * MOST_OFFERS):
        now[0] += EACH_S
        await meetings.meet(announce(1, addresses=listener.addresses))

    assert ours.n_told == 0
    assert meetings._n_offered == MOST_OFFERS
    assert links.rtt_s(peer_of(1), asyncio.get_running_loop().time()) is not None
    await listener.aclose(grace_s=0)


@pytest.mark.parametrize("method", [METHOD, UPWARD])
async def test_a_peer_that_offers_bursts_too_often_is_told_so(network, method):
    now = [0.0]
    theirs = Bandwidth(now_s=lambda: now[0])
    async with host(network, 1, theirs) as peer:
        transport = network.transport(identity_of(2), OPEN_SWARM_ID)
        connection = await transport.dial(peer.addresses[0])
        ask = Bandwidth().probe if method == METHOD else Bandwidth().offer
        await ask(connection)

        with pytest.raises(PeerBusy):
            await ask(connection)

        now[0] += EACH_S
        await ask(connection)


async def test_a_burst_that_is_larger_than_it_was_said_to_be_is_broken_off(network):
    theirs = Bandwidth()
    async with host(network, 1, theirs) as peer:
        transport = network.transport(identity_of(2), OPEN_SWARM_ID)
        stream = await (await transport.dial(peer.addresses[0])).open(UPWARD)
        stream.send((128 << 10).to_bytes(4, "big"))
        stream.send(bytes((128 << 10) + 1))

        with pytest.raises(PeerMisbehaved, match="another size"):
            await stream.receive()

        assert theirs.n_known == 0


async def test_nobody_is_disturbed_by_a_burst_while_sessions_run(network):
    ours = Bandwidth()
    async with host(network, 1, Bandwidth()) as peer:
        links, meetings = meeting(network, 2, [peer], ours, is_idle=False)

        await meetings.meet(peer)

        assert links.best(asyncio.get_running_loop().time())
        assert ours.n_known == 0


async def test_meetings_go_on_whoever_fails(network):
    async with host(network, 1, Bandwidth()) as gone:
        pass
    links, meetings = meeting(network, 2, [gone], Bandwidth())

    with pytest.raises(ManyhandsError):
        await meetings.meet(gone)
    running = asyncio.create_task(meetings.run())
    await asyncio.sleep(0.05)

    assert not running.done()
    running.cancel()
    assert links.best(0) == ()


@pytest.mark.parametrize("method", [METHOD, UPWARD])
@pytest.mark.parametrize("asked", [b"", b"\xff" * 4, b"\xff" * 1000])
async def test_who_asks_for_another_size_gets_none(network, asked, method):
    async with host(network, 1, Bandwidth()) as peer:
        transport = network.transport(identity_of(2), OPEN_SWARM_ID)
        connection = await transport.dial(peer.addresses[0])
        stream = await connection.open(method)
        stream.send(asked)

        with pytest.raises(PeerMisbehaved):
            await stream.receive()


async def test_a_burst_that_never_ends_is_given_up(network):
    async def endless(stream):
        size = int.from_bytes(await stream.receive(), "big")
        stream.send(bytes(size + 1))
        await stream.drain()

    transport = network.transport(identity_of(1), OPEN_SWARM_ID)
    listener = await transport.listen("127.0.0.1", 0, Service(streams={METHOD: endless}))
    ours = Bandwidth()
    connection = await network.transport(identity_of(2), OPEN_SWARM_ID).dial(listener.addresses[0])

    with pytest.raises(PeerMisbehaved, match="another size"):
        await ours.probe(connection)

    assert ours.n_known == 0
    await listener.aclose(grace_s=0)


def test_one_that_praises_or_slanders_us_does_not_count_among_three():
    bandwidth = Bandwidth()
    for n, rate in ((1, 10_000_000), (2, 9_000_000), (3, 10**12), (4, 1)):
        bandwidth.told(peer_of(n), rate)

    assert bandwidth.up_bytes_per_s == 10_000_000


def test_what_was_measured_long_ago_is_forgotten():
    now = [0.0]
    bandwidth = Bandwidth(now_s=lambda: now[0])
    bandwidth.received(peer_of(1), 1_000_000)
    now[0] += 7200

    assert bandwidth.down_bytes_per_s == 0
