"""The link lab's packets between namespaces: the kernel's own TCP over ways that we make."""

import asyncio
import socket
import time

import pytest

from benchmarks.linklab.control import Orders
from benchmarks.linklab.tun import Cloud, address_of, why_not
from benchmarks.linklab.ways import Sums, Way

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is no reason"),
]

PATIENCE_S = 20.0


def listening(host):
    return host.inside(lambda: socket.create_server(("", 0)))


def calling(host, server, place):
    """A connection from a host to a server at a place."""
    to = (address_of(place), server.getsockname()[1])
    made = host.inside(lambda: socket.create_connection(to, timeout=PATIENCE_S))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def echoed_s(one, other, data=b"?"):
    """How long bytes take there and back."""
    began_s = time.monotonic()
    one.sendall(data)
    assert received(other, len(data)) == data
    other.sendall(data)
    assert received(one, len(data)) == data
    return time.monotonic() - began_s


def received(connection, n_bytes):
    connection.settimeout(PATIENCE_S)
    data = b""
    while len(data) < n_bytes:
        data += connection.recv(n_bytes - len(data))
    return data


async def test_real_tcp_takes_the_ways_time_and_survives_its_losses():
    with Cloud(2) as cloud:
        links = await cloud.open_links()
        try:
            await links.tell(Orders(ways={(0, 1): Way(30), (1, 0): Way(50)}))

            def converse():
                server = listening(cloud.hosts[1])
                one = calling(cloud.hosts[0], server, 1)
                other = server.accept()[0]
                return one, other, echoed_s(one, other)

            one, other, took_s = await asyncio.to_thread(converse)
            assert took_s > 0.079

            lossy = Way(1, loss=0.03)
            await links.tell(Orders(ways={(0, 1): lossy, (1, 0): lossy}))
            await asyncio.to_thread(echoed_s, one, other, b"x" * 20_000)  # whole, and in order
            assert (await links.sums())[0, 1].n_bytes > 20_000
            one.close()
            other.close()
        finally:
            await links.aclose()


async def test_packets_are_lost_as_often_as_was_said():
    with Cloud(2) as cloud:
        links = await cloud.open_links()
        try:
            await links.tell(Orders(ways={(0, 1): Way(loss=0.5)}))
            sender = cloud.hosts[0].inside(lambda: socket.socket(type=socket.SOCK_DGRAM))
            for _ in range(200):
                sender.sendto(b"!" * 72, (address_of(1), 9))
            sums = Sums()
            async with asyncio.timeout(PATIENCE_S):
                while sums.n_bytes < 200 * 100:  # with headers; nobody listens, which is no matter
                    await asyncio.sleep(0.05)
                    sums = (await links.sums()).get((0, 1), sums)
            assert 40 < sums.n_lost < 160
            sender.close()
        finally:
            await links.aclose()
