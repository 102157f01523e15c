"""Who cannot be dialled is reached through a relay, within its quotas, and it reads nothing."""

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands.loops import new_runner
from node.relay import MAX_STRANGERS_PER_HOST, Relay
from node.relay_book import Quotas, RelayBook
from protocol.address import Address
from protocol.canonical import encode
from protocol.errors import (
    IntegrityError,
    PeerBusy,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
)
from protocol.identity import PeerId
from protocol.membership.roles import Role
from protocol.relaying import (
    MAGIC,
    METHOD,
    TOKEN_BYTES,
    Alert,
    Asked,
    Called,
    Declined,
    Granted,
    Reservation,
    Share,
    from_bytes,
    to_bytes,
)
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from tests.membership import WORKS, found, identity_of, member
from tests.node.relaying import relay_of, relayed, reserving, until
from tests.protocol.test_client_hello import HELLO
from tests.protocol.transport.peers import new_identity, new_transport


async def test_a_peer_behind_a_relay_answers_and_is_proven_to_be_itself():
    async with relayed() as there:
        connection = await there.caller.dial(there.address)
        stream = await connection.open("echo")
        large = os.urandom(3 << 20)
        stream.send(large)
        echoed = await stream.receive()
        await connection.aclose()
        del stream, connection  # gRPC keeps a connection for as long as it has a call

        assert there.address.relay == there.gate.peer_id
        assert echoed == large
        await until(lambda: there.relay.status()["connections"] == 0)
        [carried] = there.relay.book.sums().values()
        assert carried.connections == 1
        assert carried.to_peer_bytes > len(large)
        assert carried.from_peer_bytes > len(large)


def test_it_relays_on_the_event_loop_that_commands_run_on():
    async def carry() -> bytes:
        async with relayed() as there:
            connection = await there.caller.dial(there.address)
            echoed = await connection.call("ping", bytes(8 << 20), timeout_s=20)
            await connection.aclose()
            return echoed

    with new_runner() as runner:
        assert runner.run(carry()) == bytes(8 << 20)


async def test_the_relay_sees_ciphertext_and_peer_ids_and_nothing_else():
    prompt = b"Once upon a time there was a secret. " * 20
    async with relayed() as there, tapped(there.address) as (address, seen):
        connection = await there.caller.dial(address)
        assert await connection.call("ping", prompt, timeout_s=5) == prompt
        await connection.aclose()

        assert there.address.peer_id.lower().encode() in seen
        assert len(seen) > 2 * len(prompt)
        assert not re.search(rb"secret|upon a time|manyhands", seen, re.IGNORECASE)


async def test_who_has_no_reservation_is_not_reached_and_the_caller_learns_why():
    async with relayed() as there:
        stranger = new_identity().peer_id
        nobody = Address(there.address.host, there.address.port, stranger, there.gate.peer_id)

        with pytest.raises(PeerUnreachable, match="keeps no reservation"):
            await there.caller.dial(nobody)
        assert there.relay.book.refused["no reservation"] >= 1


async def test_bytes_beyond_a_peers_share_are_slow_and_new_callers_get_a_typed_refusal():
    share = Share(bytes_per_s=1 << 18, burst_bytes=1 << 18)
    async with relayed(Quotas(share=share)) as there:
        connection = await there.caller.dial(there.address)
        await connection.call("ping", bytes(1 << 18), timeout_s=10)

        with pytest.raises(PeerBusy, match="share is used up") as refused:
            await there.caller.dial(there.address)

        assert refused.value.peer_id == there.gate.peer_id
        assert await connection.call("ping", b"still there", timeout_s=10) == b"still there"
        await connection.aclose()
        [carried] = there.relay.book.sums().values()
        assert carried.refused >= 1


async def test_connections_and_reservations_beyond_a_quota_are_refused_by_name():
    async with relayed(Quotas(share=Share(connections=1), reservations=1)) as there:
        connection = await there.caller.dial(there.address)

        with pytest.raises(PeerBusy, match="share is used up"):
            await there.caller.dial(there.address)
        dialled = await there.caller.dial(there.gate)
        stream = await dialled.open(METHOD)
        stream.send(to_bytes(Asked(1000)))
        with pytest.raises(PeerBusy, match="as many peers as it will"):
            await stream.receive()
        await dialled.aclose()
        await connection.aclose()


async def test_a_connection_is_cut_after_its_time_and_a_new_one_stands():
    async with relayed(Quotas(share=Share(connection_s=1))) as there:
        connection = await there.caller.dial(there.address)
        stream = await connection.open("echo")

        with pytest.raises(PeerUnreachable):
            await stream.receive()
        with contextlib.suppress(PeerUnreachable):  # sent while it is cut, it is lost
            await connection.call("ping", b"between", timeout_s=5)
        assert await connection.call("ping", b"again", timeout_s=5) == b"again"
        assert there.relay.book.refused["time"] == 1
        await connection.aclose()


async def test_a_reservation_is_renewed_before_it_ends():
    async with relayed(Quotas(lifetime_ms=600)) as there:
        first = there.reservations.status()[0]["expires_ms"]
        await until(lambda: there.reservations.status()[0]["expires_ms"] > first + 600)

        connection = await there.caller.dial(there.address)
        await connection.aclose()


async def test_another_relay_takes_over_from_one_that_dies():
    async with AsyncExitStack() as all_of_them:
        gates, ends = [], {}
        for _ in range(3):
            ends_one = await all_of_them.enter_async_context(AsyncExitStack())
            _, gate = await ends_one.enter_async_context(relay_of())
            gates.append(gate)
            ends[gate.peer_id] = ends_one
        reservations = await all_of_them.enter_async_context(reserving(*gates))
        await until(lambda: len(reservations.addresses) == 2)
        lost, kept = (address.relay for address in reservations.addresses)
        [spare] = ends.keys() - {lost, kept}

        await ends[lost].aclose()

        await until(lambda: {a.relay for a in reservations.addresses} == {kept, spare})


async def test_a_half_open_stranger_is_let_go_and_only_so_many_are_waited_for():
    async with relay_of(hello_s=0.5) as (relay, _):
        where = (relay.addresses[0].host, relay.addresses[0].port)
        flood = [await asyncio.open_connection(*where) for _ in range(MAX_STRANGERS_PER_HOST + 20)]
        for _, writer in flood:
            with contextlib.suppress(OSError):
                writer.write(HELLO[:100])

        await until(lambda: relay.book.refused["strangers of one address"] >= 20)
        # Those that wait are let go when their time is over.
        waiting, _ = flood[0]
        assert await asyncio.wait_for(waiting.read(), 5) == b""
        for _, writer in flood:
            writer.close()

        reader, writer = await asyncio.open_connection(*where)
        writer.write(HELLO)
        assert await reader.read() == Alert.UNRECOGNIZED_NAME.record
        writer.close()


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", MAGIC[:2] + b"xx", b"\x16\x03\x01\xff"]
)
async def test_junk_is_refused_at_once(junk):
    async with relay_of() as (relay, _):
        reader, writer = await asyncio.open_connection(
            relay.addresses[0].host, relay.addresses[0].port
        )
        writer.write(junk + bytes(4))

        assert await reader.read() == Alert.DECODE_ERROR.record
        assert relay.book.refused["no hello"] == 1
        writer.close()


async def test_a_token_that_nobody_was_given_opens_nothing():
    async with relayed() as there:
        reader, writer = await asyncio.open_connection(there.address.host, there.address.port)
        writer.write(MAGIC + bytes(TOKEN_BYTES))

        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert there.relay.book.refused["no such token"] == 1
        writer.close()


async def test_who_does_not_connect_back_costs_its_caller_a_typed_error():
    """It takes the reservation and then declines every call, as one whose listener is gone."""
    async with relay_of() as (_, gate):
        lazy = GrpcTransport(new_identity(), OPEN_SWARM_ID)
        connection = await lazy.dial(gate)
        stream = await connection.open(METHOD)
        stream.send(to_bytes(Asked(60_000)))
        granted = from_bytes(await stream.receive(), sender=gate.peer_id)
        assert isinstance(granted, Granted)
        held = Reservation.opened(
            granted.reservation, OPEN_SWARM_ID, peer_id=lazy.peer_id, relay=gate.peer_id
        )

        async def decline() -> None:
            while True:
                match from_bytes(await stream.receive(), sender=gate.peer_id):
                    case Called(token):
                        stream.send(to_bytes(Declined(token)))

        declining = asyncio.create_task(decline())
        with pytest.raises(PeerUnreachable, match="did not answer the call"):
            await new_transport().dial(held.relayed()[0])
        declining.cancel()
        await connection.aclose()


async def test_in_a_private_swarm_bytes_are_carried_by_those_alone_who_may_relay():
    founding = found()
    relays = WORKS | {Role.RELAY}
    for roles, is_taken in ((WORKS, False), (relays, True)):
        carrier = member(founding, 1, roles)
        relay, carrier_id = Relay(identity_of(1), carrier.swarm_id), identity_of(1).peer_id
        transport = GrpcTransport(identity_of(1), carrier.swarm_id, gate=carrier)
        listener = await transport.listen("127.0.0.1", 0, Service(streams={METHOD: relay.handle}))
        carried = member(founding, 2)
        asking = GrpcTransport(identity_of(2), carried.swarm_id, gate=carried)
        async with relay.running("127.0.0.1", 0):
            connection = await asking.dial(listener.addresses[0])
            if is_taken:
                stream = await connection.open(METHOD)
                stream.send(to_bytes(Asked(60_000)))
                assert isinstance(from_bytes(await stream.receive(), sender=carrier_id), Granted)
            else:
                with pytest.raises(PeerRefused, match="not answer relay"):
                    await connection.open(METHOD)
            await connection.aclose()
        await listener.aclose()


def test_a_reservation_is_signed_for_one_peer_in_one_swarm():
    relay, peer, other = new_identity(), new_identity(), new_identity()
    address = Address("203.0.113.5", 31402, relay.peer_id)
    promise = Reservation(
        peer_id=peer.peer_id,
        relay=relay.peer_id,
        addresses=(address,),
        share=Share(),
        issued_ms=1,
        expires_ms=2,
    )
    sealed = promise.sealed(OPEN_SWARM_ID, relay.key)
    for_two = {"peer_id": peer.peer_id, "relay": relay.peer_id}

    assert Reservation.opened(sealed, OPEN_SWARM_ID, **for_two) == promise
    for swarm_id, two in (
        (bytes(32), for_two),
        (OPEN_SWARM_ID, for_two | {"peer_id": other.peer_id}),
        (OPEN_SWARM_ID, for_two | {"relay": other.peer_id}),
    ):
        with pytest.raises(IntegrityError):
            Reservation.opened(sealed, swarm_id, **two)


@given(data=st.one_of(st.binary(max_size=100), st.lists(st.integers(0, 9)).map(encode)))
def test_any_words_are_understood_passed_over_or_refused(data):
    with contextlib.suppress(PeerMisbehaved):
        from_bytes(data, sender=PeerId("peer"))


def test_sums_outlive_the_process_that_made_them():
    book = RelayBook(Quotas())
    peer = new_identity().peer_id
    book.opened(peer)
    book.carried(peer, 1000, 0.0, to_peer=True)
    book.closed(peer, 2.5)

    later = RelayBook(Quotas())
    later.restore(json.loads(json.dumps(book.kept())))

    assert later.sums() == book.sums()
    assert later.sums()[peer].n_bytes == 1000


@asynccontextmanager
async def tapped(address: Address) -> AsyncIterator[tuple[Address, bytearray]]:
    """The same peer through a wire that somebody listens to, and all that passes there."""
    seen, tasks = bytearray(), set()

    async def copy(reader, writer) -> None:
        while data := await reader.read(65536):
            seen.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader, writer) -> None:
        onward = await asyncio.open_connection(address.host, address.port)
        both = (copy(reader, onward[1]), copy(onward[0], writer))
        tasks.update(asyncio.create_task(one) for one in both)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Address("127.0.0.1", port, address.peer_id, address.relay), seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
