"""A share of a machine's way: never more of it in the long run, equal parts, control beside it."""

import asyncio
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.bandwidth import Bandwidth
from node.neighbours import Neighbours
from node.pacing import BURST_S, Bucket, Pacer, Throttle
from protocol.codec import data_message
from protocol.frames import Frame, RowGroup
from protocol.messages import SessionId
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service, Stream
from protocol.transport.memory import MemoryNetwork
from tests.announcing import peer_of
from tests.gossiping import identity_of
from tests.node.test_neighbours import Told
from tests.virtual_time import VirtualLoop, run_in_virtual_time

MB = 1_000_000
SIZES = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 300_000)), min_size=1, max_size=40
)


def drain(pacer: Pacer[tuple[bytes, int]], rate: int) -> list[tuple[float, bytes, int]]:
    """All that waits, with the time at which it went."""
    now_s, gone = 0.0, []
    while True:
        gone += [(now_s, *item) for item in pacer.take(now_s)]
        wait_s = pacer.wait_s(now_s)
        if wait_s is None:
            return gone
        now_s += max(wait_s, 1e-6)


@given(sizes=SIZES, rate=st.integers(64 << 10, 10 * MB))
def test_everything_goes_in_its_sessions_order_and_never_faster_than_the_rate(sizes, rate):
    pacer: Pacer[tuple[bytes, int]] = Pacer(Bucket(rate, 0.0))
    for session, n_bytes in sizes:
        pacer.push(session, n_bytes, (session, n_bytes))

    gone = drain(pacer, rate)

    for name in (b"a", b"b", b"c"):
        assert [n for _, s, n in gone if s == name] == [n for s, n in sizes if s == name]
    total = 0
    for at_s, _, n_bytes in gone:
        total += n_bytes
        assert total <= rate * (at_s + BURST_S) + 1 + at_s * 1e-6
    assert pacer.wait_s(0.0) is None
    assert gone[-1][0] <= total / rate + 1.0  # and not much slower


def test_sessions_get_equal_parts_whatever_the_size_of_what_they_send():
    pacer: Pacer[tuple[bytes, int]] = Pacer(Bucket(MB, 0.0))
    for _ in range(4):
        pacer.push(b"long", 1_000_000, (b"long", 1_000_000))
    for _ in range(400):
        pacer.push(b"short", 10_000, (b"short", 10_000))

    gone = drain(pacer, MB)

    half = Counter()
    for at_s, session, n_bytes in gone:
        if at_s <= 4:
            half[session] += n_bytes
    assert half[b"short"] == pytest.approx(2 * MB, rel=0.1)
    assert half[b"long"] in (2 * MB, 1 * MB)  # whole ones


def test_an_idle_way_has_a_moments_bytes_in_store_and_no_more():
    bucket = Bucket(MB, 0.0)

    assert bucket.tokens(1000.0) == MB * BURST_S
    bucket.spend(MB, 1000.0)
    assert bucket.wait_s(1000.0) == pytest.approx(1 - BURST_S)
    assert bucket.wait_s(999.0) > 0  # a clock that steps back gives nothing


def test_what_comes_in_and_what_calls_answer_is_kept_to_the_rate():
    async def work(loop: VirtualLoop) -> float:
        throttle = Throttle(MB, loop.time)

        async def handler(peer: str, request: bytes) -> bytes:
            return bytes(MB)

        bounded, began_s = throttle.bounds(handler), loop.time()
        await asyncio.gather(*(bounded(peer_of(1), b"") for _ in range(3)), throttle.passed(MB))
        return loop.time() - began_s

    took_s = run_in_virtual_time(work)

    assert took_s == pytest.approx(4 - BURST_S, abs=0.01)


async def test_without_a_limit_nothing_waits():
    throttle = Throttle(0)

    async def handler(peer: str, request: bytes) -> bytes:
        return b""

    began_s = time.monotonic()
    await throttle.passed(10**12)

    assert throttle.bounds(handler) is handler
    assert time.monotonic() - began_s < 1


def test_a_limit_is_announced_before_anything_is_measured():
    assert Bandwidth(5 * MB).up_bytes_per_s == 5 * MB
    assert Bandwidth().up_bytes_per_s == 0
    wide = Bandwidth(5 * MB)
    wide.received(peer_of(1), 80 * MB)
    assert wide.down_bytes_per_s == 5 * MB


async def test_rows_for_a_peer_wait_their_turn_and_arrive_whole_and_in_order():
    network, received = MemoryNetwork(seed=1), []

    async def data(stream: Stream) -> None:
        while True:
            message = data_message(await stream.receive())
            assert isinstance(message, Frame)
            received.append((time.monotonic(), message))

    successor = network.transport(identity_of(2), OPEN_SWARM_ID)
    listener = await successor.listen("127.0.0.1", 0, Service(streams={"data": data}))
    ours = network.transport(identity_of(1), OPEN_SWARM_ID)
    rate, row_bytes = 400_000, 1000
    neighbours = Neighbours(ours, Told(), bucket=Bucket(rate, time.monotonic()))
    peer, sessions = peer_of(2), [SessionId(bytes([n]) * 16) for n in (1, 2)]
    neighbours.expect(peer, [str(address) for address in listener.addresses])

    began_s = time.monotonic()
    for step in range(20):
        for session in sessions:
            group = RowGroup(session, 0, 0, step, step * 5, 5)
            neighbours.push(peer, group, row_bytes, bytes([step]) * 5 * row_bytes)
        neighbours.flush()
    async with asyncio.timeout(10):
        while sum(len(frame.groups) for _, frame in received) < 40:  # noqa: ASYNC110 (a test)
            await asyncio.sleep(0.01)
    took_s = received[-1][0] - began_s
    await neighbours.aclose()
    await listener.aclose(grace_s=0)

    for session in sessions:
        steps = [g.step for _, frame in received for g in frame.groups if g.session == session]
        assert steps == list(range(20))
    n_bytes = sum(len(frame.body) for _, frame in received)
    assert n_bytes == 200_000
    assert took_s >= n_bytes / rate - BURST_S - 0.02
