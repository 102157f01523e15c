"""What a port does with strangers, junk and trouble."""

import asyncio
import os
import socket

import pytest

from protocol.address import Address
from protocol.errors import ConfigError, PeerUnreachable
from protocol.transport import Service
from tests.protocol.transport.peers import (
    call_service,
    listening,
    new_identity,
    new_transport,
    who_am_i,
)


async def test_a_port_in_use_is_a_config_error_with_a_hint():
    async with listening(Service()) as address:
        with pytest.raises(ConfigError, match=f"port {address.port}.*in use") as caught:
            await new_transport().listen("127.0.0.1", address.port, Service())

    assert "port 0" in caught.value.hint


async def test_a_host_that_is_not_ours_is_a_config_error():
    with pytest.raises(ConfigError, match=r"cannot listen on 198\.51\.100\.7"):
        await new_transport().listen("198.51.100.7", 0, Service())


async def test_every_interface_is_published_as_concrete_hosts():
    listener = await new_transport().listen("0.0.0.0", 0, Service())

    hosts = [address.host for address in listener.addresses]

    assert hosts
    assert "0.0.0.0" not in hosts
    await listener.aclose()


async def test_nobody_at_the_address_is_unreachable_soon():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", free.getsockname()[1], new_identity().peer_id)

    with pytest.raises(PeerUnreachable, match="nobody answers"):
        await asyncio.wait_for(new_transport().dial(address), timeout=3)


async def test_a_port_that_accepts_and_says_nothing_is_unreachable_at_the_deadline():
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = Address("127.0.0.1", silent.sockets[0].getsockname()[1], new_identity().peer_id)

    with pytest.raises(PeerUnreachable):
        await asyncio.wait_for(new_transport().dial(address, timeout_s=0.3), timeout=3)

    silent.close()


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(range(256)) * 100,
        b"\xff\xff\xff\xff" + os.urandom(5000),
        b"\x16\x03\x01",  # half a TLS handshake, left open
        b"",
    ],
    ids=["http", "a huge record", "random bytes", "half a handshake", "nothing"],
)
async def test_junk_on_the_port_leaves_it_serving(junk):
    async with listening(call_service(who_am_i)) as address:
        sockets = [await asyncio.open_connection(address.host, address.port) for _ in range(20)]
        for _, writer in sockets:
            writer.write(junk)

        connection = await new_transport().dial(address)
        answer = await connection.call("Test", b"", timeout_s=5)

        assert answer
        await connection.aclose()
        for _, writer in sockets:
            writer.transport.abort()
