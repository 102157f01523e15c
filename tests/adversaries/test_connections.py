"""Who comes to the port and means ill, before and after it has proven an identity.

Beside these, in `tests/protocol/transport/`: `test_grpc_port.py` (plaintext, junk),
`test_grpc_identity.py` (impostors, claims without proof), `test_private_swarm.py` (strangers of a
private swarm) and `test_libp2p.py` (the same at the other port).
"""

import asyncio
import os
import socket
from contextlib import suppress

import pytest

from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.transport import port_watch
from protocol.transport.port_watch import (
    IN_ALL,
    PER_ADDRESS,
    UNPROVEN_S,
    Arrival,
    PortWatch,
    overdue,
)
from tests.adversaries.raw_http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    RawPeer,
    call_headers,
    frame,
    literal,
    message,
)
from tests.adversaries.victim import LARGE_BYTES, victim
from tests.gossiping import until
from tests.protocol.transport.peers import call_service, listening, new_transport, who_am_i


def arrival(
    n: int, host: str = "10.0.0.1", since_s: float = 0.0, *, proven: bool = False
) -> Arrival:
    return Arrival(n, n, (host, 1000 + n), since_s, proven)


def test_a_connection_that_proves_nothing_goes_after_a_while_and_one_that_did_never():
    silent, member = arrival(1), arrival(2, proven=True)

    assert overdue([silent, member], UNPROVEN_S) == []
    assert overdue([silent, member], UNPROVEN_S + 0.1) == [silent]


def test_of_a_crowd_from_one_address_the_oldest_go_and_neighbours_keep_theirs():
    crowd = [arrival(n, since_s=n / 1000) for n in range(PER_ADDRESS + 10)]
    others = [arrival(1000 + n, f"10.0.1.{n}") for n in range(20)]

    assert overdue([*crowd, *others], 1.0) == crowd[:10]


def test_an_ipv6_network_counts_as_one_address():
    crowd = [arrival(n, f"2001:db8::{n:x}", n / 1000) for n in range(PER_ADDRESS + 3)]
    elsewhere = [arrival(1000 + n, f"2001:db8:{n:x}::1") for n in range(1, 50)]

    assert overdue([*crowd, *elsewhere], 1.0) == crowd[:3]


def test_a_crowd_from_everywhere_is_bounded_too():
    crowd = [arrival(n, f"10.{n // 250}.0.{n % 250}", n / 10_000) for n in range(IN_ALL + 40)]

    assert overdue(crowd, 1.0) == crowd[:40]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads its own descriptors")
def test_a_number_that_another_listener_saw_and_a_file_has_by_now_is_let_go_of(
    tmp_path, monkeypatch
):
    """Many listeners of a process look at its sockets once: what they saw may be closed since."""
    monkeypatch.setattr(port_watch, "_found", (float("-inf"), {}))
    monkeypatch.setattr(port_watch, "SHARED_S", 3600.0)
    sockets = [socket.socket() for _ in range(8)]
    numbers = {each.fileno() for each in sockets}
    PortWatch(1).look()
    for each in sockets:
        each.close()
    files = [(tmp_path / str(n)).open("wb") for n in range(4)]
    later = [socket.socket() for _ in range(4)]

    PortWatch(2).look()

    reused = {each.fileno() for each in (*files, *later)} & numbers
    copies = [n for n in os.listdir("/proc/self/fd") if _name(n).startswith(str(tmp_path))]
    for each in (*files, *later):
        each.close()
    assert reused, "the system gave out other numbers"
    assert len(copies) == len(files)


def _name(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # that of the list itself
        return ""


async def test_who_says_nothing_is_shut_out_and_who_was_admitted_is_not():
    now_s = 0.0
    async with listening(call_service(who_am_i)) as address:
        member, port = await new_transport().dial(address), address.port
        watch = PortWatch(port, "127.0.0.1", lambda: now_s)
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        await until(lambda: not watch.look() and len(watch) == 6, timeout_s=10)
        for each in watch._arrivals.values():  # the listener's own watch knows who was admitted
            if each.remote not in {one.getsockname() for one in silent}:
                watch.prove(each.remote)
        now_s = UNPROVEN_S + 1

        assert watch.look() == 5
        assert len(watch) == 1
        for each in silent:
            each.settimeout(5)
            with suppress(ConnectionError):
                assert each.recv(1) == b""
            each.close()
        assert await member.call("Test", b"", timeout_s=5)
        await member.aclose()


async def test_a_flood_of_half_open_connections_takes_few_descriptors_and_newcomers_are_served():
    async with victim() as node:
        at_rest = node.n_descriptors
        flood = []
        for _ in range(400):
            with suppress(OSError):
                flood.append(socket.create_connection((node.address.host, node.address.port), 5))
        for each in flood[::2]:
            with suppress(OSError):
                each.send(b"\x16\x03\x01\x02\x00")  # the beginning of a handshake

        assert await node.serves()
        await until(lambda: node.n_descriptors < at_rest + PER_ADDRESS + 5, timeout_s=10)
        assert await node.serves()
        for each in flood:
            each.close()


async def test_a_caller_made_by_hand_is_answered_like_any_other(tmp_path):
    """Else what follows would prove nothing."""
    async with victim() as node, RawPeer(node.address, tmp_path) as peer:
        await peer.send(frame(HEADERS, END_HEADERS, 1, call_headers("Test")))
        await peer.send(frame(DATA, END_STREAM, 1, message(b"hello")))
        told = b""
        async with asyncio.timeout(5):
            while b"hello" not in told:
                told += await peer.reader.read(65536)

    assert b"12D3Koo" in told  # it says who called


async def test_streams_reset_as_fast_as_they_are_opened_leave_a_listener_serving(tmp_path):
    """CVE-2023-44487: each reset frees a place for the next, so no limit of streams holds."""
    async with victim() as node:
        assert await node.serves()
        before = node.mib
        async with RawPeer(node.address, tmp_path) as peer:
            headers = call_headers("Echo")
            for first in range(1, 8_001, 400):
                burst = b"".join(
                    frame(HEADERS, END_HEADERS, n, headers) + frame(RST_STREAM, 0, n, CANCEL)
                    for n in range(first, first + 400, 2)
                )
                if not await peer.send(burst):
                    break
            assert await node.serves()
        assert node.mib - before < 64


@pytest.mark.parametrize(
    "what",
    [
        "headers without end",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("huge headers", "settings", "pings")
        ),
    ],
)
async def test_frames_without_end_leave_a_listener_serving(tmp_path, what):
    async with victim() as node:
        assert await node.serves()
        before = node.mib
        async with RawPeer(node.address, tmp_path) as peer:
            for n in range(200):
                match what:
                    case "headers without end":
                        piece = literal(f"x-{n}", "y" * 8_000)
                        kind = (HEADERS, 1) if n == 0 else (CONTINUATION, 1)
                        data = frame(kind[0], 0, kind[1], piece)
                    case "huge headers":
                        fields = call_headers("Test") + literal("x", "y" * 16_000)
                        data = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, fields)
                    case "settings":
                        data = frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\xff\xff" * 100) * 50
                    case _:
                        data = frame(PING, 0, 0, bytes(8)) * 100
                if not await peer.send(data):
                    break
            assert await node.serves()
        assert node.mib - before < 64


@pytest.mark.slow
async def test_who_asks_for_much_and_takes_no_answer_costs_bounded_memory(tmp_path):
    """Its window stays shut, so that answers wait with us."""
    async with victim() as node:
        assert await node.serves()
        before = node.mib
        shut = b"\x00\x04\x00\x00\x00\x00"  # SETTINGS_INITIAL_WINDOW_SIZE = 0
        async with RawPeer(node.address, tmp_path, settings=shut) as peer:
            headers, ask = call_headers("Large"), message(b"")
            for n in range(1, 81, 2):
                await peer.send(
                    frame(HEADERS, END_HEADERS, n, headers) + frame(DATA, END_STREAM, n, ask)
                )
            await asyncio.sleep(0.5)
            assert await node.serves()
            assert node.mib - before < 40 * LARGE_BYTES / 2**20 * 3 + 32


async def test_a_handshake_that_was_overheard_is_worth_nothing_when_it_is_said_again():
    async with victim() as node:
        heard: list[bytes] = []

        async def overhear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, here = await asyncio.open_connection(node.address.host, node.address.port)

            async def carry(one: asyncio.StreamReader, other: asyncio.StreamWriter, keep: bool):
                with suppress(OSError):
                    while data := await one.read(65536):
                        heard.extend([data] if keep else [])
                        other.write(data)

            await asyncio.gather(carry(reader, here, True), carry(there, writer, False))

        proxy = await asyncio.start_server(overhear, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        honest = new_transport()
        through = node.address.__class__("127.0.0.1", port, node.address.peer_id)
        connection = await honest.dial(through, timeout_s=5)
        assert await connection.call("Test", b"", timeout_s=5)
        await connection.aclose()

        reader, writer = await asyncio.open_connection(node.address.host, node.address.port)
        for data in heard:
            writer.write(data)
        with suppress(OSError):
            await writer.drain()
        answer = b""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(2):
                while part := await reader.read(65536):
                    answer += part
        writer.transport.abort()
        proxy.close()

        assert len(heard) >= 2
        assert honest.peer_id.encode() not in answer  # the call says to whom it answers
        assert await node.serves()


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00" * 4000,
        pytest.param(b"", marks=pytest.mark.slow),
    ],
)
async def test_a_peer_that_answers_the_handshake_and_serves_nothing_is_given_up_in_time(
    tmp_path, says
):
    """As one behind a tunnel or a relay that carries bytes and has no service behind it."""
    import ssl

    from protocol.address import Address
    from protocol.tls import issue_server_leaf
    from tests.protocol.transport.peers import new_identity

    identity = new_identity()
    leaf = issue_server_leaf(identity)
    (tmp_path / "pem").write_bytes(leaf.key_pem + leaf.certificate_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "pem")
    tls.set_alpn_protocols(["h2"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            writer.write(says)
            await reader.read()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1], identity.peer_id)

    with pytest.raises((PeerUnreachable, ManyhandsError)):
        await asyncio.wait_for(new_transport().dial(address, timeout_s=1.0), timeout=5)

    server.close()
