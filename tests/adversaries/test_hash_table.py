"""An eclipse of a page of the hash table: who has the keys nearest to it keeps it, and lies."""

from functools import cache

import pytest

from node.discovery import Discovery
from protocol.announcement_table import AnnouncementTable
from protocol.gossip_rules import MAX_STEPS, Exchange, answer
from protocol.identity import PeerId
from protocol.record_pages import N_PAGES, key_of_page, page_of, read_key, write_records
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory_plane import MemoryPlanes, distance
from tests.announcing import NOW_MS, peer_of, record

PAGE = 5
HONEST = range(1, 41)
NEWCOMER = 99
N_ATTACKERS, N_DRAWN = 200, 2_000  # keys that the attacker makes, to choose the nearest of


class Liar:
    """Keeps nothing that it is sent, and tells of its own kind alone, on every page."""

    def __init__(self, numbers: list[int]) -> None:
        self._told = {
            page: write_records([record(n) for n in numbers if page_of(peer_of(n)) == page])
            for page in range(N_PAGES)
        }

    def admits(self, peer_id: PeerId) -> bool:
        return True

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        return True

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        return self._told[read_key(OPEN_SWARM_ID, key, sender=sender)]


def discovery(network: MemoryPlanes, n: int) -> Discovery:
    """Of a peer that has announced itself to nobody yet."""
    table = AnnouncementTable(OPEN_SWARM_ID)
    table.merge(record(n), sender="self", now_ms=NOW_MS)
    return Discovery(table, network.plane(peer_of(n)), now_ms=lambda: NOW_MS, now_s=lambda: 0.0)


@cache
def nearest() -> list[int]:
    """Of the attacker's keys."""
    key = key_of_page(OPEN_SWARM_ID, PAGE)
    drawn = range(10_000, 10_000 + N_DRAWN)
    return sorted(drawn, key=lambda n: distance(peer_of(n), key))[:N_ATTACKERS]


def gossip(asks: AnnouncementTable, answers: AnnouncementTable) -> None:
    """One exchange, whole tables compared."""
    begun = Exchange(asks)
    message = begun.question(NOW_MS)
    for _ in range(MAX_STEPS):
        told = answer(answers, message, sender="asks", now_ms=NOW_MS)
        message = begun.take(told.reply, sender="answers", now_ms=NOW_MS).reply
        if not message:
            return


@pytest.fixture
async def eclipsed() -> tuple[MemoryPlanes, list[Discovery]]:
    """A swarm whose gossip has told all of all, and two hundred keys around one page."""
    network = MemoryPlanes()
    honest = [discovery(network, n) for n in HONEST]
    for one in honest:
        await one.start()
        for n in HONEST:
            one.table.merge(record(n), sender="gossip", now_ms=NOW_MS)
    near = nearest()
    liar = Liar(near)
    for n in near:
        await network.plane(peer_of(n)).start(liar)
    for one in honest:
        await one.publish()
    return network, honest


async def test_two_hundred_identities_around_a_page_hide_nobody_from_a_newcomer(eclipsed):
    """They keep that page, whole; who stands on it is told by those who are found on the others."""
    network, honest = eclipsed
    newcomer = discovery(network, NEWCOMER)
    await newcomer.start()
    everybody = {peer_of(n) for n in HONEST}
    on_page = {peer for peer in everybody if page_of(peer) == PAGE}

    await newcomer.look([PAGE])
    assert on_page
    assert not everybody & _seen(newcomer), "the page is theirs"

    await newcomer.look(range(N_PAGES))
    found = everybody & _seen(newcomer)
    assert len(found) > len(everybody) / 2

    friend = next(one for one in honest if one.plane.peer_id in found)
    gossip(newcomer.table, friend.table)

    assert everybody <= _seen(newcomer)


async def test_a_peer_whose_page_is_kept_by_liars_is_still_told_of_to_all(eclipsed):
    """Nobody on that page hears of it by the hash table; its own look finds others, who tell."""
    network, honest = eclipsed
    n = next(n for n in range(100, 1_000) if page_of(peer_of(n)) == PAGE)
    hidden = discovery(network, n)
    await hidden.start()

    await hidden.publish()
    assert not any(peer_of(n) in _seen(one) for one in honest)

    await hidden.look(range(N_PAGES))
    friend = next(one for one in honest if one.plane.peer_id in _seen(hidden))
    gossip(hidden.table, friend.table)

    assert peer_of(n) in _seen(friend)


def _seen(one: Discovery) -> set[PeerId]:
    return {peer.peer_id for peer in one.table.live(NOW_MS)}
