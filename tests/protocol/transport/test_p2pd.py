"""Beside the reference daemon in Go: found by it, answering it, and finding others through it.

The daemon's own hash table keeps values of the namespaces that are compiled into it, and ours is
not among them: it carries our peers' addresses and opens our streams, but keeps no page.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.discovery import Discovery
from protocol.announcement_table import AnnouncementTable
from protocol.identity import Identity
from protocol.record_pages import key_of_page, keys_of, page_of, read_key, write_records
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.libp2p import Libp2pPlane, is_installed
from tests.announcing import NOW_MS, key_of, peer_of, record
from tests.gossiping import until
from tests.p2pd import (
    FIND_PEER,
    GET_VALUE,
    OK,
    PUT_VALUE,
    Daemon,
    bytes_of,
    find_p2pd,
    nested,
    number,
    peer_bytes,
    read,
    running_p2pd,
)

P2PD = find_p2pd()
KAD = "/ipfs/kad/1.0.0"
KAD_PUT_VALUE, KAD_GET_VALUE, KAD_ADD_PROVIDER = 0, 1, 2
KEY = key_of_page(OPEN_SWARM_ID, page_of(peer_of(5)))

pytestmark = [
    pytest.mark.libp2p,
    pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed"),
    pytest.mark.skipif(P2PD is None, reason="no p2pd: scripts/test fetches it where it can"),
]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    assert P2PD is not None
    async with running_p2pd(P2PD, tmp_path, "-dhtServer") as running:
        yield running


@pytest.fixture
async def node(daemon: Daemon) -> AsyncIterator[Discovery]:
    """Our side: it knows the daemon, and announced itself."""
    table = AnnouncementTable(OPEN_SWARM_ID)
    table.merge(record(1), sender="self", now_ms=NOW_MS)
    plane = Libp2pPlane(Identity(key_of(1)), bootstrap=[daemon.address])
    made = Discovery(table, plane, now_ms=lambda: NOW_MS)
    assert await made.start()
    await until(lambda: daemon.address.peer_id in plane.peers(), timeout_s=30)
    yield made
    await made.stop()


def kad(kind: int, key: bytes, value: bytes = b"") -> bytes:
    put = nested(3, nested(1, key) + nested(2, value)) if value else b""
    return number(1, kind) + nested(2, key) + put


async def test_the_daemon_knows_us_by_the_peer_id_that_grpc_knows_us_by(
    daemon: Daemon, node: Discovery
):
    assert peer_bytes(peer_of(1)) in await daemon.peers()


async def test_our_records_are_put_and_found_over_the_daemons_own_streams(
    daemon: Daemon, node: Discovery
):
    us, fresh = peer_of(1), write_records([record(5)])

    answered = read(await daemon.exchange(us, KAD, kad(KAD_PUT_VALUE, KEY, fresh)))
    told = read(await daemon.exchange(us, KAD, kad(KAD_GET_VALUE, KEY)))

    assert bytes_of(answered[2][0]) == KEY
    found = bytes_of(read(bytes_of(told[3][0]))[2][0])
    assert record(5).data in found
    assert node.table.get(peer_of(5), NOW_MS) is not None


async def test_what_is_no_record_of_ours_is_reset_whoever_sends_it(daemon: Daemon, node: Discovery):
    us, forged = peer_of(1), write_records([record(5, signer=6)])

    for request in (
        kad(KAD_PUT_VALUE, KEY, forged),
        kad(KAD_PUT_VALUE, b"/pk/" + bytes(32), b"a key of somebody"),
        kad(KAD_ADD_PROVIDER, KEY),
    ):
        assert await daemon.exchange(us, KAD, request) == b""

    assert len(node.table.live(NOW_MS)) == 1
    assert node.status()["refused"] == {
        "dropped": 1, "malformed": 1, "not kept": 2, "unsupported": 1
    }  # fmt: skip


@pytest.mark.slow
async def test_one_daemon_finds_another_through_us(daemon: Daemon, node: Discovery, tmp_path: Path):
    assert P2PD is not None
    (tmp_path / "b").mkdir()
    async with running_p2pd(P2PD, tmp_path / "b", "-dhtServer") as other:
        assert await other.dial(node.plane.addresses[0])
        found = await other.dht(FIND_PEER, nested(2, daemon.peer))
        async with asyncio.timeout(20):
            while found[1] != [OK]:  # until both have heard from us what we speak
                await asyncio.sleep(0.2)
                found = await other.dht(FIND_PEER, nested(2, daemon.peer))

    assert daemon.peer in bytes_of(found[5][0])


@pytest.mark.slow
async def test_the_daemon_keeps_no_pages_and_we_are_asked_for_them_instead(
    daemon: Daemon, node: Discovery
):
    refused = await daemon.dht(PUT_VALUE, nested(4, KEY), nested(5, b"value"))
    await daemon.dht(GET_VALUE, nested(4, KEY))

    assert refused[1] != [OK]
    assert b"invalid record keytype" in bytes_of(refused[2][0])
    assert read_key(OPEN_SWARM_ID, KEY, sender="") == keys_of(OPEN_SWARM_ID).index(KEY)
    assert await node.plane.publish(KEY, write_records([record(5)])) == 0
