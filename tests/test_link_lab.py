"""The link lab's proxies: real mutual TLS over links as long and as wide as one likes."""

import os
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from manyhands.local import HOST, free_ports
from protocol.address import Address
from protocol.identity import Identity
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def link_lab(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import link_lab

    yield link_lab
    del sys.modules["link_lab"]


async def _size(peer, request):
    return bytes(int(request))


@asynccontextmanager
async def calling(link_lab, ways, pids=None):
    """A connection through a proxy, to a peer that answers with as many bytes as it is asked."""
    one, other = (GrpcTransport(Identity(SigningKey.generate()), OPEN_SWARM_ID) for _ in range(2))
    listener = await one.listen(HOST, 0, Service(calls={"size": _size}))
    [port] = free_ports(1)
    lab = link_lab.LinkLab(ways, pids)
    await lab.stand_before(0, port, listener.addresses[0].port)
    connection = await other.dial(Address(HOST, port, one.peer_id))
    try:
        yield connection
    finally:
        await connection.aclose()
        await lab.aclose()
        await listener.aclose()


async def took_s(connection, n_bytes):
    began_s = time.monotonic()
    assert len(await connection.call("size", str(n_bytes).encode(), timeout_s=30)) == n_bytes
    return time.monotonic() - began_s


async def test_a_call_takes_the_way_there_and_the_way_back(link_lab):
    there, back = link_lab.Way(80), link_lab.Way(40)
    ways = {(link_lab.OUTSIDE, 0): there, (0, link_lab.OUTSIDE): back}

    async with calling(link_lab, ways) as connection:
        assert min([await took_s(connection, 1) for _ in range(3)]) > 0.119


async def test_who_dialled_decides_how_far_it_is(link_lab):
    ways = {(1, 0): link_lab.Way(60), (link_lab.OUTSIDE, 0): link_lab.Way(5_000)}

    async with calling(link_lab, ways, {os.getpid(): 1}) as connection:
        assert 0.059 < min([await took_s(connection, 1) for _ in range(3)]) < 4


async def test_a_narrow_link_takes_its_time_for_many_bytes(link_lab):
    ways = {(0, link_lab.OUTSIDE): link_lab.Way(0, bytes_per_s=1e6)}

    async with calling(link_lab, ways) as connection:
        await took_s(connection, 1)
        assert await took_s(connection, 300_000) > 0.29
