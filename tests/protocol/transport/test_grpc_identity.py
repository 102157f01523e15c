"""Who may talk to whom over real sockets: keys, versions, swarms."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime

import pytest
from cryptography import x509

from protocol.address import Address
from protocol.errors import PeerMisbehaved, PeerRefused, PeerUnreachable, VersionMismatch
from protocol.signing import SigningKey
from protocol.tls import LEAF_LIFETIME
from protocol.transport import Service, Stream
from tests.protocol.transport.peers import (
    call_service,
    claiming,
    connected,
    listening,
    new_identity,
    new_transport,
    stream_service,
    who_am_i,
)


async def test_the_listener_sees_the_callers_proven_peer_id():
    caller = new_transport()

    async with connected(call_service(who_am_i), caller=caller) as connection:
        answer = await connection.call("Test", b"!", timeout_s=5)

    assert answer == caller.peer_id.encode() + b"!"


async def test_a_stream_knows_both_peers():
    caller, listener = new_transport(), new_transport()
    seen = []

    async def note(stream: Stream) -> None:
        seen.append(stream.peer_id)

    async with connected(stream_service(note), caller=caller, listener=listener) as connection:
        stream = await connection.open("Test")
        with pytest.raises(PeerUnreachable):
            await stream.receive()

    assert (seen, stream.peer_id) == ([caller.peer_id], listener.peer_id)


async def test_another_peer_at_the_address_is_named_and_refused():
    async with listening(Service()) as address:
        pinned = Address(address.host, address.port, new_identity().peer_id)

        with pytest.raises(PeerMisbehaved, match=address.peer_id) as caught:
            await new_transport().dial(pinned)

    assert caught.value.peer_id == pinned.peer_id


async def test_an_impostor_with_the_right_names_and_another_key_is_refused():
    victim, forger = new_identity(), SigningKey.generate()
    impostor = new_transport(identity=claiming(victim, forger))
    listener = await impostor.listen("127.0.0.1", 0, Service())
    address = Address("127.0.0.1", listener.addresses[0].port, victim.peer_id)

    with pytest.raises(PeerMisbehaved, match="proves no identity"):
        await new_transport().dial(address)

    await listener.aclose()


async def test_a_caller_who_claims_anothers_identity_is_refused_and_counted():
    listener = new_transport()
    liar = new_transport(identity=claiming(new_identity(), SigningKey.generate()))

    async with listening(call_service(who_am_i), listener) as address:
        with pytest.raises(PeerMisbehaved, match="proved no identity"):
            await liar.dial(address)

    assert listener.counters.handshakes_failed == 1


async def test_a_caller_without_a_certificate_gets_no_connection():
    async with listening(call_service(who_am_i)) as address:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

            answer = await asyncio.wait_for(reader.read(), timeout=5)

            assert answer == b""


async def test_a_listener_renews_its_certificate_while_it_serves():
    now = datetime.now(UTC)
    listener = new_transport(now=lambda: now)

    async with listening(call_service(who_am_i), listener) as address:
        before = [await serial_number(address) for _ in range(2)]
        now += LEAF_LIFETIME * 0.6
        after = [await serial_number(address) for _ in range(2)]
        connection = await new_transport(now=lambda: now).dial(address)
        await connection.aclose()

    assert before[0] == before[1]
    assert not {*before} & {*after}


async def serial_number(address: Address) -> object:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(certificate).serial_number


async def test_a_caller_of_another_network_gets_no_connection():
    async with listening(call_service(who_am_i)) as address:
        with pytest.raises(PeerUnreachable):
            await new_transport(network="another").dial(address)


@pytest.mark.parametrize(("caller", "listener", "older"), [(1, 2, "caller"), (3, 2, "listener")])
async def test_another_protocol_version_is_refused_naming_the_older_side(caller, listener, older):
    async with listening(Service(), new_transport(version=listener)) as address:
        with pytest.raises(VersionMismatch, match=f"the {older} is older") as caught:
            await new_transport(version=caller).dial(address)

    assert caught.value.peer_id == address.peer_id
    assert "update" in caught.value.hint


async def test_another_swarm_is_refused_and_counted():
    listener = new_transport(swarm_id=bytes(32))

    async with listening(Service(), listener) as address:
        with pytest.raises(PeerRefused, match="swarm"):
            await new_transport().dial(address)

    assert listener.counters.refused == 1
