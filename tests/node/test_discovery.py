"""Discovery over a network of planes: records come, go and are refused by the table's rules."""

import random
from collections.abc import Callable

import pytest

from node.discovery import CALLS, Discovery
from protocol.announcement_table import AnnouncementTable, Dropped, Merged
from protocol.anti_entropy import GossipMessage, Record
from protocol.bans import OFFENCES
from protocol.errors import ConfigError
from protocol.guard import Guard
from protocol.record_pages import (
    MAX_PUT_BYTES,
    N_PAGES,
    key_of_page,
    page_of,
    write_records,
)
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory_plane import MemoryPlane, MemoryPlanes
from tests.announcing import NOW_MS, announce, peer_of, record
from tests.gossiping import until

KEY = key_of_page(OPEN_SWARM_ID, 0)


def discovery(
    network: MemoryPlanes,
    n: int,
    now_s: Callable[[], float] = lambda: 0.0,
    guard: Guard | None = None,
) -> Discovery:
    """Of a peer that has announced itself."""
    table = AnnouncementTable(OPEN_SWARM_ID)
    table.merge(record(n), sender="self", now_ms=NOW_MS)
    return Discovery(
        table,
        network.plane(peer_of(n)),
        every_s=0.05,
        alone_every_s=0.05,
        now_ms=lambda: NOW_MS,
        now_s=now_s,
        rng=random.Random(n),
        guard=guard,
    )


async def started(network: MemoryPlanes, *numbers: int) -> list[Discovery]:
    peers = [discovery(network, n) for n in numbers]
    for peer in peers:
        assert await peer.start()
    return peers


async def test_a_newcomer_finds_everybody_through_those_who_keep_the_pages():
    network = MemoryPlanes()
    peers = await started(network, *range(1, 31))
    for peer in peers:
        assert await peer.publish() == 8

    (newcomer,) = await started(network, 99)
    n_found = await newcomer.look(range(N_PAGES))

    assert n_found == 30
    assert {peer_of(n) for n in range(1, 31)} < {
        peer.peer_id for peer in newcomer.table.live(NOW_MS)
    }


async def test_what_was_found_and_what_was_told_by_gossip_is_one_table():
    network = MemoryPlanes()
    first, second = await started(network, 1, 2)
    gossiped = record(3, sequence=NOW_MS + 5)
    second.table.merge(gossiped, sender="gossip", now_ms=NOW_MS)
    first.table.merge(record(3), sender="gossip", now_ms=NOW_MS)

    await first.look(range(N_PAGES))
    await second.look(range(N_PAGES))

    assert first.table.last_sequence(peer_of(3)) == NOW_MS + 5
    assert second.table.last_sequence(peer_of(3)) == NOW_MS + 5


async def test_two_halves_that_gossip_has_lost_hear_of_each_other():
    network = MemoryPlanes()
    here, there = await started(network, 1, 2)
    import asyncio

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(peer.run()) for peer in (here, there)]
        await until(lambda: len(here.table.live(NOW_MS)) == 2, timeout_s=5)
        await until(lambda: len(there.table.live(NOW_MS)) == 2, timeout_s=5)
        for task in running:
            task.cancel()


async def test_a_leave_goes_where_the_record_was():
    network = MemoryPlanes()
    staying, leaving = await started(network, 1, 2)
    await leaving.publish()
    assert staying.table.get(peer_of(2), NOW_MS) is not None

    gone = announce(2).tombstone().stamped(NOW_MS + 1, NOW_MS, 30_000)
    from protocol.announcements import seal_announcement
    from tests.announcing import key_of

    data = seal_announcement(gone, OPEN_SWARM_ID, key_of(2))
    leaving.table.merge(Record(30_000, data), sender="self", now_ms=NOW_MS)
    await leaving.leave()

    assert staying.table.get(peer_of(2), NOW_MS) is None
    assert not staying.plane.peers()


async def test_forged_oversized_foreign_and_expired_values_are_refused_and_counted():
    network = MemoryPlanes()
    (peer,) = await started(network, 1)
    bad = {
        "forged": (KEY, write_records([record(5, signer=6)])),
        "oversized": (KEY, bytes(MAX_PUT_BYTES + 1)),
        "foreign namespace": (b"/pk/" + bytes(8), write_records([record(5)])),
        "another swarm": (key_of_page(bytes(32), 0), write_records([record(5)])),
        "expired": (KEY, write_records([record(5, issued_ms=1, expires_ms=2, sequence=1)])),
        "no records": (KEY, GossipMessage(wanted=(bytes(16),)).encode()),
    }

    kept = {name: await peer.keep(peer_of(9), *each) for name, each in bad.items()}

    assert not any(kept.values()), kept
    assert len(peer.table.live(NOW_MS)) == 1
    assert peer.refused == {"dropped": 2, "malformed": 4}
    assert peer.table.dropped[Dropped(peer_of(9), Merged.EXPIRED)] == 1


async def test_a_flood_of_one_peer_is_cut_off_and_another_is_served_meanwhile():
    network = MemoryPlanes()
    (peer,) = await started(network, 1)
    burst = int(CALLS.burst)

    for n in range(burst + 400):
        await peer.keep(peer_of(9), KEY, write_records([record(100 + n % 40, signer=6)]))
    page = page_of(peer_of(1))
    answered = await peer.kept(peer_of(8), key_of_page(OPEN_SWARM_ID, page))

    assert peer.refused["limited"] >= 400
    assert peer.table.dropped[Dropped(peer_of(9), Merged.LIMITED)] >= 400
    assert len(peer.table.entries) == 1
    assert answered


async def test_who_sends_what_does_not_hold_again_and_again_is_banned_for_a_while():
    now_ms = NOW_MS
    network = MemoryPlanes()
    guard = Guard(now_ms=lambda: now_ms)
    peer = discovery(network, 1, guard=guard)
    forged = write_records([record(5, signer=6)])

    for _ in range(int(OFFENCES.burst)):
        await peer.keep(peer_of(9), KEY, forged)
    assert peer.admits(peer_of(9))
    await peer.keep(peer_of(9), KEY, forged)

    assert not peer.admits(peer_of(9))
    assert peer.admits(peer_of(8))
    assert [ban.peer_id for ban in guard.bans.now()] == [peer_of(9)]
    now_ms += 601_000
    assert peer.admits(peer_of(9))


async def test_asking_for_foreign_keys_gets_nothing():
    network = MemoryPlanes()
    (peer,) = await started(network, 1)

    assert await peer.kept(peer_of(9), b"/ipns/somebody") == b""
    assert peer.refused == {"foreign key": 1}


async def test_a_page_is_written_once_however_often_it_is_asked_for():
    now = 0.0
    network = MemoryPlanes()
    peer = discovery(network, 1, now_s=lambda: now)
    key = key_of_page(OPEN_SWARM_ID, page_of(peer_of(1)))
    first = await peer.kept(peer_of(9), key)
    peer.table.merge(record(1, sequence=NOW_MS + 9), sender="self", now_ms=NOW_MS)

    again = await peer.kept(peer_of(9), key)
    now = 3.0
    later = await peer.kept(peer_of(9), key)

    assert first == again != later


class _Missing(MemoryPlane):
    async def start(self, keeper: object) -> None:
        raise ConfigError("libp2p is not installed", hint="pip install it")


async def test_a_node_whose_plane_cannot_start_goes_on_and_says_so(
    caplog: pytest.LogCaptureFixture,
):
    peer = Discovery(AnnouncementTable(OPEN_SWARM_ID), _Missing(MemoryPlanes(), peer_of(1)))

    assert not await peer.start()
    await peer.run()  # and returns

    assert "no discovery over libp2p" in caplog.text
    assert peer.status()["problem"] == "libp2p is not installed"
