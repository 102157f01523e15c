"""The client's directory: any member knows the swarm, and what is missing is said by name."""

import random
import time

import pytest

from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.errors import PeerMisbehaved, PeerUnreachable, SwarmIncomplete, UsageError
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler.directory import MAX_ASKED, MAX_PAIRS, Directory, fetch_directory
from scheduler.routing import Wanted
from tests.announcing import MANIFEST, peer_of, record
from tests.gossiping import identity_of, serve_table

CLIENT = 77
WANTED = Wanted(manifest=MANIFEST, n_blocks=8)


@pytest.fixture
def network():
    return MemoryNetwork()


@pytest.fixture
def client(network):
    return network.transport(identity_of(CLIENT), OPEN_SWARM_ID)


def directory() -> Directory:
    return Directory(AnnouncementTable(OPEN_SWARM_ID))


def table_with(
    *peers: int, span: tuple[int, int] = (0, 8), adapters: tuple[str, ...] = (), **limits: int
) -> AnnouncementTable:
    now_ms = wall_ms()
    stamp = {"sequence": now_ms, "issued_ms": now_ms, "expires_ms": now_ms + 30_000}
    table = AnnouncementTable(OPEN_SWARM_ID, **limits)
    for n in peers:
        table.merge(record(n, span, adapters=adapters, **stamp), sender="", now_ms=now_ms)
    return table


def nobody_at(n: int) -> Address:
    return Address("127.0.0.1", 9, peer_of(n))


def test_an_adapter_nobody_serves_is_named_and_those_that_are_served_are_told():
    plain, adapted = "pirate@0123456789ab", "poet@0123456789ab"
    found = Directory(table_with(1, 2, adapters=(adapted,)))
    wanted = Wanted(manifest=MANIFEST, n_blocks=8, adapter=plain)

    with pytest.raises(SwarmIncomplete) as caught:
        found.require_complete(wanted, model="tiny")

    assert f"blocks 0:8 of tiny with adapter {plain}" in str(caught.value)
    assert caught.value.hint.endswith(f"served now: {adapted}")
    found.require_complete(Wanted(manifest=MANIFEST, n_blocks=8, adapter=adapted))


def test_a_bare_name_means_the_one_version_that_is_served():
    old, new = "pirate@000000000000", "pirate@ffffffffffff"
    one = Directory(table_with(1, 2, adapters=(old, "poet@0123456789ab")))
    two = Directory(table_with(1, 2, adapters=(old, new)))

    assert one.pin_adapter(MANIFEST, "pirate") == old
    assert one.pin_adapter(MANIFEST, "nobody") == "nobody"
    assert one.pin_adapter(bytes(32), "pirate") == "pirate"
    assert two.pin_adapter(MANIFEST, new) == new
    with pytest.raises(UsageError, match="2 adapters called pirate") as caught:
        two.pin_adapter(MANIFEST, "pirate")
    assert old in caught.value.hint
    assert new in caught.value.hint


async def test_any_member_tells_of_all(network, client):
    found = directory()

    async with serve_table(
        network.transport(identity_of(1), OPEN_SWARM_ID), table_with(1, 2, 3)
    ) as (
        member,
        asked,
    ):
        await fetch_directory(client, member.addresses, found)

    assert [peer.peer_id for peer in found.live()] == sorted(map(peer_of, (1, 2, 3)))
    assert found.hosts(MANIFEST) == found.live()
    assert found.hosts(bytes(32)) == ()
    assert list(found.models()) == [MANIFEST]
    assert found.get(peer_of(2)) is not None
    assert 0 < found.rtt_ms[peer_of(CLIENT), peer_of(1)] < 1000
    assert set(asked) == {peer_of(CLIENT)}


async def test_what_several_members_say_is_merged_and_the_dead_cost_no_waiting(network, client):
    found = directory()

    async with (
        serve_table(network.transport(identity_of(1), OPEN_SWARM_ID), table_with(1)) as (one, _),
        serve_table(network.transport(identity_of(2), OPEN_SWARM_ID), table_with(2)) as (other, _),
    ):
        addresses = [nobody_at(3), *one.addresses, *other.addresses]
        began_s = time.monotonic()
        await fetch_directory(client, addresses, found)
        took_s = time.monotonic() - began_s

    assert len(found.live()) == 2
    assert took_s < 1


async def test_a_client_that_was_told_of_many_who_have_left_asks_those_it_heard_of_since(
    network, client
):
    found, gone = directory(), [nobody_at(n) for n in range(10, 30)]

    async with serve_table(network.transport(identity_of(1), OPEN_SWARM_ID), table_with(1, 2)) as (
        member,
        _,
    ):
        await fetch_directory(client, member.addresses, found)
        stamp = {"sequence": wall_ms(), "issued_ms": wall_ms(), "expires_ms": wall_ms() + 30_000}
        heard = record(1, addresses=tuple(member.addresses), **stamp)
        found.table.merge(heard, sender="", now_ms=wall_ms())
        asked = found.whom_to_ask(gone, random.Random(1))
        found.now_ms = lambda: wall_ms() + 60_000  # it slept, and all records have expired
        asked_later = found.whom_to_ask(gone, random.Random(1))
        await fetch_directory(client, asked, found)

    assert not found.live()
    for some in (asked, asked_later):
        assert member.addresses[0] in some[:MAX_ASKED]
        assert set(some[:MAX_ASKED]) & set(gone), "those we were told of are asked, too"
    told = [set(found.whom_to_ask(gone, random.Random(n))[:MAX_ASKED]) for n in range(60)]
    assert set().union(*told) >= set(gone), "each of them has its turn"


async def test_when_nobody_answers_the_client_says_so(client):
    with pytest.raises(PeerUnreachable) as caught:
        await fetch_directory(client, [nobody_at(1), nobody_at(2)], directory(), timeout_s=0.5)

    assert caught.value.exit_code == 4
    assert peer_of(1) in str(caught.value)
    assert "--join" in caught.value.hint
    with pytest.raises(PeerUnreachable):
        await fetch_directory(client, [], directory(), timeout_s=0.5)


async def test_an_impostor_is_not_believed(network, client):
    async with serve_table(network.transport(identity_of(1), OPEN_SWARM_ID), table_with(1)) as (
        member,
        _,
    ):
        real = member.addresses[0]
        expected = Address(real.host, real.port, peer_of(2))
        with pytest.raises((PeerMisbehaved, PeerUnreachable)):
            await fetch_directory(client, [expected], directory(), timeout_s=0.5)


async def test_a_large_table_comes_in_parts(network, client):
    found = directory()
    table = table_with(*range(50), reply_bytes=4_000)

    async with serve_table(network.transport(identity_of(1), OPEN_SWARM_ID), table) as (
        member,
        asked,
    ):
        await fetch_directory(client, member.addresses, found)

    assert len(found.live()) == 50
    assert len(asked) > 5


async def test_connections_are_kept_for_whoever_wants_them(network, client):
    connections = {}

    async with serve_table(network.transport(identity_of(1), OPEN_SWARM_ID), table_with(1)) as (
        member,
        asked,
    ):
        await fetch_directory(client, member.addresses, directory(), connections=connections)
        first = connections[peer_of(1)]
        await fetch_directory(client, member.addresses, directory(), connections=connections)

        assert connections == {peer_of(1): first}
        await first.aclose()
    assert len(asked) == 4  # each fetch asks until there is nothing new


async def test_a_connection_of_others_is_used_and_left_open(network, client):
    asker = network.transport(identity_of(1), OPEN_SWARM_ID)

    async with serve_table(asker, table_with(1)) as (member, asked):
        lent = await client.dial(member.addresses[0])
        elsewhere = Address("nowhere.test", 1, peer_of(1))  # it cannot be dialled
        await fetch_directory(client, [elsewhere], directory(), at_hand={peer_of(1): lent})
        await fetch_directory(client, member.addresses, directory(), at_hand={peer_of(1): lent})
        assert len(asked) == 4
    with pytest.raises(PeerUnreachable):
        await fetch_directory(
            client, [elsewhere], directory(), timeout_s=0.5, at_hand={peer_of(1): lent}
        )
    await lent.aclose()


def test_missing_blocks_are_named():
    incomplete = Directory(table_with(1, span=(2, 6)))

    with pytest.raises(SwarmIncomplete) as caught:
        incomplete.require_complete(WANTED, model="tiny")

    assert caught.value.exit_code == 5
    assert caught.value.missing == ((0, 2), (6, 8))
    assert "0:2, 6:8 of tiny" in str(caught.value)
    assert "manyhands serve tiny --span 0:2;" in caught.value.hint
    assert "--wait" in caught.value.hint
    Directory(table_with(1)).require_complete(WANTED)


def test_round_trips_to_peers_that_came_and_went_are_not_remembered_for_ever():
    known = directory()
    for n in range(MAX_PAIRS + 50):
        known.note_rtt((peer_of(CLIENT), f"peer {n}"), 1.0)
        known.note_rtt((peer_of(CLIENT), "an old friend"), 2.0)

    assert len(known.rtt_ms) == MAX_PAIRS
    assert known.rtt_ms[peer_of(CLIENT), "an old friend"] == 2.0
