"""A call can be told from where its caller comes; the transports agree on how that is spelled."""

import pytest

from protocol.address import Endpoint
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc_listener import seen_endpoint
from protocol.transport.memory import MemoryNetwork
from tests.protocol.transport.peers import connected, new_identity


async def _where(caller, seen, request):
    return f"{seen}".encode() + request


async def test_over_sockets_a_caller_is_seen_with_address_and_port():
    async with connected(Service(seen_calls={"Test": _where})) as connection:
        told = await connection.call("Test", b"!", timeout_s=5.0)

    host, _, port = told.removesuffix(b"!").decode().rpartition(":")
    assert host == "127.0.0.1"
    assert 0 < int(port) < 65536


async def test_in_one_process_a_caller_is_seen_where_it_listens_or_nowhere():
    network = MemoryNetwork()
    alice, bob = (network.transport(new_identity(), OPEN_SWARM_ID) for _ in range(2))
    listener = await bob.listen("127.0.0.1", 0, Service(seen_calls={"Test": _where}))
    connection = await alice.dial(listener.addresses[0])

    assert await connection.call("Test", b"", timeout_s=1.0) == b"None"
    await alice.listen("10.0.0.7", 0, Service())
    assert (await connection.call("Test", b"", timeout_s=1.0)).startswith(b"10.0.0.7:")


@pytest.mark.parametrize(
    ("peer", "seen"),
    [
        ("ipv4:203.0.113.5:40123", Endpoint("203.0.113.5", 40123)),
        ("ipv6:%5B2001:db8::1%5D:40123", Endpoint("2001:db8::1", 40123)),
        ("ipv6:[::ffff:203.0.113.5]:40123", Endpoint("203.0.113.5", 40123)),
        ("ipv6:%5Bfe80::1%25eth0%5D:40123", Endpoint("fe80::1", 40123)),
        ("unix:", None),
        ("unix:/run/node.sock", None),
        ("ipv4:nowhere:1", None),
        ("", None),
    ],
)
def test_what_grpc_says_of_a_caller_is_read(peer, seen):
    assert seen_endpoint(peer) == seen
