"""Who is in the swarm, and how it is told: modes 4, 8 and 9."""

import asyncio
from collections.abc import AsyncIterator, Sized
from typing import Any

import pytest

from protocol.announcement_table import MAX_REPLY_BYTES, AnnouncementTable, Merged
from protocol.announcements import MAX_RECORD_BYTES, TYPE, _to_fields, seal_announcement
from protocol.anti_entropy import MAX_MESSAGE_BYTES, Record
from protocol.gossip_rules import Exchange, answer
from protocol.signing import OPEN_SWARM_ID, seal
from protocol.transport.memory import MemoryNetwork
from tests.announcing import NOW_MS, announce, key_of, peer_of, record
from tests.failure_modes.conftest import ask
from tests.gossiping import GossipSwarm, identity_of, until
from tests.local_swarm import Swarm, whole

LITTLE = 16 * 1024  # bytes of records in a message


@pytest.fixture
async def gossips(network: MemoryNetwork) -> AsyncIterator[GossipSwarm]:
    swarm = GossipSwarm(lambda n: network.transport(identity_of(n), OPEN_SWARM_ID))
    yield swarm
    await swarm.aclose()


async def test_ghost_members_are_gone_as_soon_as_their_place_is_taken(gossips: GossipSwarm):
    """exo, Parallax: a node restarts under a new id, and the cluster waits for its old self.

    Here nobody waits for anybody, and a former self leaves the tables as soon as a newcomer has
    proven its own key at the same address: long before its record would expire.
    """
    first = await gossips.start(1)
    await gossips.start(2, first.address)
    ghost = await gossips.start(3, first.address)
    await until(gossips.agree, timeout_s=30)

    await ghost.crash()
    await gossips.start(4, first.address, port=ghost.address.port)

    await until(gossips.agree, timeout_s=15)  # of 30 that a record lives
    assert peer_of(3) not in first.sees()


def test_state_log_growth_does_not_happen_where_state_is_a_table():
    """exo: every change is an event in a log that is sent again: 1.8 million were, and NACKed.

    Here a peer's newest record replaces its older ones, so that a day of refreshes leaves a table
    as large as a minute does, and two peers that agree exchange as little as ever.
    """
    long_lived, fresh = AnnouncementTable(OPEN_SWARM_ID), AnnouncementTable(OPEN_SWARM_ID)
    for step in range(500):
        stamp = NOW_MS + step * 10_000
        for n in (1, 2, 3):
            stamps = {"issued_ms": stamp, "sequence": stamp, "expires_ms": stamp + 30_000}
            told = record(n, **stamps)
            long_lived.merge(told, sender=peer_of(n), now_ms=stamp)
            if step == 499:
                fresh.merge(told, sender=peer_of(n), now_ms=stamp)

    questions = [Exchange(table).question(stamp) for table in (long_lived, fresh)]
    answers = [answer(long_lived, question, sender="x", now_ms=stamp) for question in questions]

    assert len(long_lived.live(stamp)) == len(fresh.live(stamp)) == len(long_lived) == 3
    assert _sizes(long_lived) == _sizes(fresh)
    assert len(questions[0]) == len(questions[1])
    assert [told.n_taken for told in answers] == [0, 0]
    assert max(len(told.reply) for told in answers) < 200


def _sizes(table: AnnouncementTable) -> dict[str, int]:
    """Of everything in it."""
    return {name: len(held) for name, held in vars(table).items() if isinstance(held, Sized)}


def test_gossip_message_too_big_is_never_made_and_never_taken():
    """exo: state that grows with the context is gossiped; at 128K a message of 1.1 MB is refused.

    Here what is gossiped knows nothing of sessions but their number, every answer is bounded,
    however large the table, and a record that is larger than any may be is dropped and counted.
    """
    full = AnnouncementTable(OPEN_SWARM_ID, reply_bytes=LITTLE)
    empty = AnnouncementTable(OPEN_SWARM_ID)
    for n in range(1, 200):
        full.merge(record(n, software="x" * 100), sender="x", now_ms=NOW_MS)
    held = sum(len(entry.data) for entry in full.entries.values())
    sizes: list[int] = []

    while len(empty) < len(full):
        exchange = Exchange(empty, gives=False)
        message = exchange.question(NOW_MS)
        while message:
            told = answer(full, message, sender="client", now_ms=NOW_MS)
            sizes.append(len(told.reply))
            message = exchange.take(told.reply, sender="full", now_ms=NOW_MS).reply
    padding = (("of a later version", b"x" * MAX_RECORD_BYTES),)
    fields = (*_to_fields(announce(1, sequence=NOW_MS + 1)), padding)
    oversized = Record(30_000, seal(TYPE, OPEN_SWARM_ID, fields, key_of(1)).encode())

    assert len(sizes) < 40, sizes
    assert max(sizes) <= 2 * LITTLE < held / 2
    assert 2 * MAX_REPLY_BYTES <= MAX_MESSAGE_BYTES
    assert full.merge(oversized, sender="liar", now_ms=NOW_MS) is Merged.FORGED, "well signed, too"
    assert sum(full.dropped.values()) == 1


async def test_gossip_message_too_big_does_not_come_from_long_sessions(pair: Swarm):
    """The same, at a real node: its announcement is as large with sessions as without."""
    node = pair.nodes[0].node

    def size() -> int:
        sealed: Any = node.draft().stamped(NOW_MS, NOW_MS, 30_000)
        return len(seal_announcement(sealed, OPEN_SWARM_ID, node.identity.key))

    alone = size()
    async with pair.client() as client:
        asking = [asyncio.create_task(whole(client.generate(ask(pair)))) for _ in range(4)]
        await until(lambda: len(node.sessions) > 0, timeout_s=30)
        under_way = size()
        await asyncio.gather(*asking)

    assert under_way <= alone + 64
