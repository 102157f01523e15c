"""Who comes through a relay, or reserves at one, and wants what is there for everybody."""

import asyncio
import socket
import ssl
import sys
from contextlib import AsyncExitStack

import pytest

from node.relay_book import Quotas, RelayBook
from node.relay_door import place_of
from protocol.errors import PeerBusy
from protocol.relaying import METHOD, Alert, Asked, Share, to_bytes
from protocol.tls import tls_name
from protocol.transport.origins import brought, brought_by
from protocol.transport.port_watch import PER_ADDRESS, Arrival, PortWatch, overdue
from tests.node.relaying import relay_of, relayed, until
from tests.protocol.transport.peers import new_identity, new_transport

OTHER_HOST = "127.0.0.2"


def hello_for(peer_id: str) -> bytes:
    """What a caller says first; nothing needs to follow."""
    outgoing = ssl.MemoryBIO()
    asking = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname=tls_name(peer_id)
    )
    with pytest.raises(ssl.SSLWantReadError):
        asking.do_handshake()
    return outgoing.read()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_a_neighbour_at_the_same_relay_does_not_lock_others_out():
    quotas = Quotas(share=Share(connections=24))
    async with relayed(quotas) as there:
        hello, ends = hello_for(there.address.peer_id), []
        for _ in range(40):
            ends.append(
                await asyncio.open_connection(
                    there.address.host, there.address.port, local_addr=(OTHER_HOST, 0)
                )
            )
            ends[-1][1].write(hello)
        why = "connections of one address to one peer"
        await until(lambda: there.relay.book.refused[why] == 40 - quotas.per_place_and_peer)

        connection = await there.caller.dial(there.address)
        assert await connection.call("ping", b"hi", timeout_s=5) == b"hi"
        await connection.aclose()

        # What it held comes back when it goes.
        for _, writer in ends:
            writer.close()
        await until(lambda: there.relay.book.status()["connections"] == 0)
        reader, writer = await asyncio.open_connection(
            there.address.host, there.address.port, local_addr=(OTHER_HOST, 0)
        )
        writer.write(hello)
        assert (await reader.read(1))[0] == 0x16  # the peer's own handshake
        writer.close()


async def test_a_listener_counts_relayed_callers_by_their_relay():
    async with relayed() as there:
        watch = PortWatch(there.listens[1], there.listens[0])
        _, writer = await asyncio.open_connection(there.address.host, there.address.port)
        writer.write(hello_for(there.address.peer_id))
        near = socket.create_connection(there.listens)

        def networks() -> set[str]:
            watch.look()
            return {each.network for each in watch._arrivals.values()}

        await until(lambda: networks() == {f"relay {there.address.relay}", "127.0.0.1"})
        near.close()
        writer.close()


def test_a_crowd_through_one_relay_pushes_out_nobody_who_comes_another_way():
    def arrival(n: int, by: str = "") -> Arrival:
        return Arrival(n, n, ("127.0.0.1", 1000 + n), n / 1000, by=by)

    others = [arrival(0), arrival(1, "relay b"), arrival(2, "tunnel c")]
    crowd = [arrival(10 + n, "relay a") for n in range(PER_ADDRESS + 5)]

    assert overdue([*others, *crowd], 1.0) == crowd[:5]


def test_who_brought_a_connection_is_forgotten_with_it():
    end = ("127.0.0.1", 1)
    over = brought("relay a", end)
    assert brought_by(end) == "relay a"

    over()

    assert brought_by(end) == ""


def test_one_caller_does_not_fill_a_relay_by_asking_for_many_peers():
    quotas = Quotas(connections=8, per_place=4, per_place_and_peer=2)
    book, peers = RelayBook(quotas), [new_identity().peer_id for _ in range(4)]

    let_in = [book.call(peer, "a", 0.0) is None for peer in peers for _ in range(3)]

    assert let_in == [True, True, False] * 2 + [False] * 6
    assert book.call(peers[0], "b", 0.0) is None
    book.called(peers[0])
    book.left(peers[0], "a")
    assert book.call(peers[3], "a", 0.0) is None
    assert book.call(peers[3], "a", 0.0) is Alert.ACCESS_DENIED


def test_many_identities_of_one_address_leave_places_at_a_relay_to_others():
    book = RelayBook(Quotas(reservations=4, reservations_per_place=2))
    a, b, c, d, e = (new_identity().peer_id for _ in range(5))
    book.reserve(a, place_of("198.51.100.7"))
    book.reserve(b, place_of("198.51.100.7"))

    with pytest.raises(PeerBusy, match="there"):
        book.reserve(c, place_of("198.51.100.7"))
    book.reserve(a, place_of("198.51.100.7"))  # renewed
    book.reserve(c, place_of("2001:db8::1"))
    book.reserve(d, place_of("2001:db8::2"))  # one household still
    book.release(a)
    with pytest.raises(PeerBusy):
        book.reserve(e, place_of("2001:db8::3"))
    book.reserve(e, place_of("198.51.100.7"))


async def test_a_relay_sees_where_who_reserves_comes_from():
    quotas = Quotas(reservations_per_place=2)
    async with relay_of(quotas) as (relay, gate), AsyncExitStack() as stack:
        for n in range(3):
            connection = await new_transport().dial(gate)
            stack.push_async_callback(connection.aclose)
            stream = await connection.open(METHOD)
            stream.send(to_bytes(Asked(60_000)))
            if n == 2:
                with pytest.raises(PeerBusy, match="there"):
                    await stream.receive()
            else:
                await stream.receive()

        assert relay.status()["reservations"] == 2
        assert relay.book.refused["reservations of one address"] == 1
