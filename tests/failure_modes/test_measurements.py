"""What a peer is held to be, by what was seen of it: modes 3, 5, 6 and 7."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from node.links import MAX_AGE_S, LinkTimes
from protocol.errors import PeerBusy, PeerUnreachable
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport.memory import MemoryNetwork
from protocol.transport.paths import Paths
from scheduler import Routed, Token
from scheduler.peer_record import PeerRecords
from scheduler.routing import Wanted, find_routes
from tests.announcing import MANIFEST, announce, peer_of
from tests.failure_modes.conftest import ask
from tests.local_swarm import Swarm, whole
from tests.node.relaying import forwarding, free_port, relay_of, reserving, until
from tests.protocol.transport.peers import new_transport

NEAR_S, RELAYED_S = 0.012, 2.6


async def test_least_loaded_is_not_dead_and_attracts_no_work(pair: Swarm, network: MemoryNetwork):
    """exo: a crashed instance has no tasks, so it is the least loaded, and gets them all.

    Here the dead are still announced, as idle as can be, and a client that met one once does not
    come back: not in this session, and not in the next ones, while there is no word from it.
    """
    async with pair.client() as client:
        async with client.generate(ask(pair)) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token) and event.index == 4:
                    dead = route[1].peer
                    network.kill(dead)
        dials = network._n_opened[client.identity.peer_id, PeerId(dead)]
        announced = {peer.peer_id: peer for peer in (await client.directory()).live()}
        answers = [await whole(client.generate(ask(pair))) for _ in range(6)]
        dialled_since = network._n_opened[client.identity.peer_id, PeerId(dead)] - dials

    assert announced[PeerId(dead)].n_sessions == 0
    assert [answer.failovers for answer in answers] == [0] * 6
    assert dead not in {step.peer for answer in answers for step in answer.route}
    assert dialled_since <= 1, "the look at the directory may have asked it"


def test_least_loaded_is_not_dead_nor_is_it_who_says_so():
    """The same by the rules: idle and gone is dearer than busy and there."""
    gone, busy = announce(1, n_sessions=0), announce(2, n_sessions=9)
    records = PeerRecords()
    records.note_failure(gone.peer_id, PeerUnreachable(gone.peer_id, "refused"), 100.0, gone)

    risk_ms = records.risk_ms([gone, busy], 101.0)
    routes = find_routes([gone, busy], Wanted(manifest=MANIFEST, n_blocks=8), extra_ms=risk_ms, k=2)

    assert routes[0].peer_ids == (busy.peer_id,)


@pytest.mark.parametrize("first", list(Path))
def test_first_measurement_poisons_nothing(first: Path):
    """mesh-llm: a relay's 2.6 s, measured before the direct path stood, excluded a peer for ever.

    Here the first round trip is one of several, the least of the recent ones counts, and what a
    relay carried counts for nothing as soon as the direct way was measured, even if that is longer.
    """
    links, peer = LinkTimes(), peer_of(1)
    links.learn(peer, RELAYED_S, at_s=0.0, path=first)
    assert links.rtt_s(peer, 1.0) == RELAYED_S

    links.learn(peer, NEAR_S, at_s=5.0)

    links.learn(peer, NEAR_S / 4, at_s=5.5, path=Path.RELAYED)  # not how rows would go
    assert links.rtt_s(peer, 6.0) == NEAR_S
    assert (links.best(6.0)[0].rtt_us, links.relayed(6.0)) == (round(NEAR_S * 1e6), ())


def test_relay_decay_over_hours_is_seen():
    """mesh-llm: a path that was good when it was measured gets worse, and is used on.

    Here a good measurement is believed for minutes, not for ever: what the path is now takes its
    place, and one that only a relay carries any more says so.
    """
    links, peer = LinkTimes(), peer_of(1)
    links.learn(peer, NEAR_S, at_s=0.0)
    for minute in range(1, 60):
        links.learn(peer, RELAYED_S, at_s=60.0 * minute, path=Path.RELAYED)

    assert links.rtt_s(peer, 60.0) == NEAR_S
    assert links.rtt_s(peer, 3600.0) == RELAYED_S
    assert links.is_relayed(peer, 3600.0)
    assert links.best(3600.0 + 2 * MAX_AGE_S) == ()


async def test_relay_decay_ends_with_another_relay_before_anything_broke():
    """mesh-llm: connections over a relay got slower for hours until somebody restarted the node.

    Here a way is measured while it is used: when the relay gets slow, another one is taken, and
    what ran on the first one ends there.
    """
    async with AsyncExitStack() as stack:
        gates = [(await stack.enter_async_context(relay_of()))[1] for _ in range(2)]
        behind = await stack.enter_async_context(reserving(*gates))
        await until(lambda: len(behind.addresses) == 2)
        fading, other = behind.addresses
        port, delay_s = free_port(), [0.0]
        await stack.enter_async_context(forwarding(port, (fading.host, fading.port), delay_s))
        ways = (replace(fading, host="127.0.0.1", port=port), other)
        transport = new_transport()  # of which `Paths` keeps no hold
        paths = Paths(transport, sure_s=0.02, stagger_s=5)
        first = await paths.dial(fading.peer_id, ways)
        stream = await first.open("echo")
        assert paths.way_of(first).address == ways[0]
        assert await paths.upgraded(first, ways) is None  # now it knows what is usual

        delay_s[0] = 0.06
        better = await paths.upgraded(first, ways)

        assert better is not None
        assert paths.way_of(better).address == other
        stream.send(b"slowly")
        assert await stream.receive() == b"slowly"
        await better.aclose()
        await first.aclose()
        await paths.aclose()


async def test_retry_backoff_charged_to_the_innocent_is_charged_to_the_guilty_alone(
    pair: Swarm, network: MemoryNetwork
):
    """mesh-llm: a sibling's fault used up the budget of retries of those beside it.

    Here a chain that loses a hop charges that hop: its neighbours, whose streams to it broke and
    who said so, are believed as before, and their own links are not slowed.
    """
    async with pair.client() as client:
        async with client.generate(ask(pair)) as run:
            async for event in run:
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token) and event.index == 4:
                    guilty = route[1].peer
                    network.kill(guilty)
        failures = {peer: seen.failures for peer, seen in client.records.standings.items()}

    assert {peer for peer, n in failures.items() if n} == {guilty}
    assert {step.peer for step in route} <= set(failures)


def test_retry_backoff_charged_to_the_innocent_is_not_for_an_honest_refusal():
    """The same for who is full and says so: that costs it nothing later."""
    records, full = PeerRecords(), announce(1)

    for at_s in range(20):
        records.note_failure(full.peer_id, PeerBusy(full.peer_id, "full"), float(at_s), full)

    assert records.risk_ms([full], 20.0) == pytest.approx({})


def test_retry_backoff_charged_to_the_innocent_is_not_for_who_complains_of_a_link():
    """The same for who says that it cannot reach its successor: their link is avoided, no more."""
    records, one, other = PeerRecords(), announce(1), announce(2)

    records.note_link_down(one.peer_id, other.peer_id, 0.0)

    assert records.risk_ms([one, other], 1.0) == pytest.approx({})
    assert list(records.broken_links(1.0)) == [(one.peer_id, other.peer_id)]
