"""Peers on one local network: what is told, what is believed, and two that find each other."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.address import Address
from protocol.identity import Identity, PeerId
from protocol.transport.lan import is_concrete, read_told, service_type
from protocol.transport.libp2p import Libp2pPlane
from tests.announcing import key_of, peer_of
from tests.gossiping import until

IS_INSTALLED = importlib.util.find_spec("libp2p") is not None
GOOD = f"/ip4/192.168.1.7/tcp/4001/p2p/{peer_of(1)}".encode()


def test_addresses_that_stand_for_all_interfaces_or_are_names_are_never_told():
    hosts = ("0.0.0.0", "::", "224.0.0.1", "node.example.org", "192.168.1.7", "127.0.0.1")

    told = [host for host in hosts if is_concrete(Address(host, 4001, peer_of(1)))]

    assert told == ["192.168.1.7", "127.0.0.1"]


def test_of_an_answer_only_addresses_that_can_be_dialled_are_read():
    answer = [
        (b"dnsaddr", GOOD),
        (b"dnsaddr1", f"/ip4/0.0.0.0/tcp/4001/p2p/{peer_of(1)}".encode()),
        (b"dnsaddr2", b"/ip4/192.168.1.7/udp/4001/quic-v1"),
        (b"dnsaddr3", b"\xff\xfe"),
        (b"dnsaddr4", None),
        (b"other", GOOD),
    ]

    assert [str(address).encode() for address in read_told(answer)] == [GOOD]


@given(st.lists(st.tuples(st.just(b"dnsaddr"), st.binary(max_size=200))))
def test_no_bytes_on_the_network_do_harm(answer):
    assert read_told(answer) == []


def test_a_private_swarm_has_a_service_of_its_own():
    assert service_type(b"") == "_p2p._udp.local."
    assert service_type(bytes(32)) != service_type(b"\x01" + bytes(31))
    assert service_type(bytes(32)).startswith("_p2p-")


class _Nothing:
    def admits(self, peer_id: PeerId) -> bool:
        return True

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        return False

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        return b""


@pytest.mark.libp2p
@pytest.mark.skipif(not IS_INSTALLED, reason="the libp2p extra is not installed")
async def test_two_nodes_on_one_network_find_each_other_without_an_address():
    # A swarm of the test's own: whatever else is on this network is not met.
    swarm_id = key_of(77).public_key
    first, second = (
        Libp2pPlane(Identity(key_of(n)), swarm_id=swarm_id, lan=True) for n in (71, 72)
    )
    await first.start(_Nothing())
    await second.start(_Nothing())
    try:
        await until(lambda: bool(first.peers() and second.peers()), timeout_s=30)

        assert list(first.peers()) == [second.peer_id]
    finally:
        await first.stop()
        await second.stop()
