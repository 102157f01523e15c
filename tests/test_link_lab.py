"""The link lab's proxies: real mutual TLS over links as long and as wide as one likes."""

import os
import time
from contextlib import asynccontextmanager
from typing import NamedTuple

from benchmarks.linklab.control import OUTSIDE
from benchmarks.linklab.proxy import LinkLab
from benchmarks.linklab.ways import HEADERS_BYTES, SEGMENT_BYTES, Way
from manyhands.local import HOST, free_ports
from protocol.address import Address
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Connection, Service
from protocol.transport.grpc import GrpcTransport


async def _size(peer, request):
    return bytes(int(request))


class Through(NamedTuple):
    connection: Connection
    lab: LinkLab

    async def call(self, *args, **how):
        return await self.connection.call(*args, **how)


@asynccontextmanager
async def calling(ways, pids=None):
    """A connection through a proxy, to a peer that answers with as many bytes as it is asked."""
    one, other = (GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID) for _ in range(2))
    listener = await one.listen(HOST, 0, Service(calls={"size": _size}))
    [port] = free_ports(1)
    lab = LinkLab(ways, pids)
    await lab.stand_before(0, port, listener.addresses[0].port)
    connection = await other.dial(Address(HOST, port, one.peer_id))
    try:
        yield Through(connection, lab)
    finally:
        await connection.aclose()
        await lab.aclose()
        await listener.aclose()


async def took_s(connection, n_bytes):
    began_s = time.monotonic()
    assert len(await connection.call("size", str(n_bytes).encode(), timeout_s=30)) == n_bytes
    return time.monotonic() - began_s


async def test_a_call_takes_the_way_there_and_the_way_back():
    there, back = Way(80), Way(40)
    ways = {(OUTSIDE, 0): there, (0, OUTSIDE): back}

    async with calling(ways) as connection:
        assert min([await took_s(connection, 1) for _ in range(3)]) > 0.119


async def test_who_dialled_decides_how_far_it_is():
    ways = {(1, 0): Way(60), (OUTSIDE, 0): Way(5_000)}

    async with calling(ways, {os.getpid(): 1}) as connection:
        assert 0.059 < min([await took_s(connection, 1) for _ in range(3)]) < 4


async def test_a_process_without_a_place_is_where_the_first_of_its_group_is():
    ways = {(1, 0): Way(60), (OUTSIDE, 0): Way(5_000)}

    async with calling(ways, {os.getpgid(0): 1}) as connection:
        assert 0.059 < min([await took_s(connection, 1) for _ in range(3)]) < 4


async def test_a_narrow_link_takes_its_time_for_many_bytes():
    ways = {(0, OUTSIDE): Way(0, bytes_per_s=1e6)}

    async with calling(ways) as connection:
        await took_s(connection, 1)
        assert await took_s(connection, 300_000) > 0.29


async def test_bytes_arrive_whole_and_in_order_over_an_unsteady_lossy_link():
    bad = Way(1, jitter_ms=2, loss=0.2)
    ways = {(OUTSIDE, 0): bad, (0, OUTSIDE): bad}

    async with calling(ways) as connection:  # TLS notices any byte that is lost or out of order
        await took_s(connection, 100_000)


async def test_ways_change_under_a_connection_that_stands():
    async with calling({}) as connection:
        await took_s(connection, 1)
        connection.lab.ground.lay({(OUTSIDE, 0): Way(70)}, {})

        assert await took_s(connection, 1) > 0.069


async def test_what_was_carried_is_counted_with_headers():
    async with calling({}) as connection:
        await took_s(connection, 50_000)

        sums = connection.lab.ground.carried()[0, OUTSIDE]
        assert sums.n_bytes > 50_000 * (1 + HEADERS_BYTES / SEGMENT_BYTES)
        assert sums.n_lost == 0
