"""How streams, connections and listeners end over real sockets."""

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from protocol.address import Address
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.transport import Service, Stream
from protocol.transport.grpc_connection import _ClientWire
from protocol.transport.interface import Counters
from protocol.transport.wire_stream import WireStream
from tests.protocol.transport.peers import connected, listening, new_transport, stream_service


async def test_what_was_queued_before_a_close_arrives_and_then_the_end():
    received: list[bytes] = []
    ended = asyncio.get_running_loop().create_future()

    async def collect(stream: Stream) -> None:
        try:
            while True:
                received.append(await stream.receive())
        except ManyhandsError as error:
            ended.set_result(error)

    async with connected(stream_service(collect)) as connection:
        stream = await connection.open("Test")
        for number in range(100):
            stream.send(b"%d" % number * 1000)
        await stream.aclose()
        error = await asyncio.wait_for(ended, timeout=5)

    assert received == [b"%d" % number * 1000 for number in range(100)]
    assert isinstance(error, PeerUnreachable)
    assert "closed the stream" in str(error)


async def test_the_error_of_a_caller_who_closes_reaches_the_handler_typed():
    ended = asyncio.get_running_loop().create_future()

    async def collect(stream: Stream) -> None:
        assert await stream.receive() == b"last words"
        try:
            await stream.receive()
        except ManyhandsError as error:
            ended.set_result(error)

    async with connected(stream_service(collect)) as connection:
        stream = await connection.open("Test")
        stream.send(b"last words")
        await stream.aclose(PeerMisbehaved("", "your frame is malformed"))
        error = await asyncio.wait_for(ended, timeout=5)

    assert isinstance(error, PeerMisbehaved)
    assert "malformed" in str(error)


async def test_a_stream_that_is_over_refuses_to_send_and_receive():
    async def leave(stream: Stream) -> None:
        stream.send(b"bye")

    async with connected(stream_service(leave)) as connection:
        stream = await connection.open("Test")
        assert await stream.receive() == b"bye"
        for _ in range(2):
            with pytest.raises(PeerUnreachable):
                await stream.receive()
        with pytest.raises(PeerUnreachable):
            stream.send(b"anyone?")
        await stream.aclose()
        await stream.aclose()


async def test_a_connection_that_was_closed_reaches_nobody():
    async with connected(stream_service(send_for_ever)) as connection:
        await connection.aclose()
        with pytest.raises(PeerUnreachable, match="closed here"):
            await connection.call("Test", b"", timeout_s=5)
        with pytest.raises(PeerUnreachable, match="closed here"):
            await connection.open("Test")


async def test_an_error_survives_while_the_caller_is_still_sending():
    async def refuse(stream: Stream) -> None:
        await stream.receive()
        raise PeerBusy("", "enough")

    async with connected(stream_service(refuse)) as connection:
        for _ in range(30):
            stream = await connection.open("Test")
            sending = asyncio.create_task(send_for_ever(stream))

            with pytest.raises(PeerBusy, match="enough"):
                await stream.receive()
            with pytest.raises(PeerUnreachable):
                await sending


async def test_a_listener_that_closes_ends_streams_on_both_sides():
    ended = asyncio.Event()

    async def wait(stream: Stream) -> None:
        try:
            await stream.receive()
        finally:
            ended.set()

    listener = await new_transport().listen("127.0.0.1", 0, stream_service(wait))
    connection = await new_transport().dial(listener.addresses[0])
    stream = await connection.open("Test")

    await listener.aclose()

    assert ended.is_set()
    with pytest.raises(PeerUnreachable):
        await asyncio.wait_for(stream.receive(), timeout=5)
    with pytest.raises(PeerUnreachable):
        await connection.call("Test", b"", timeout_s=1)
    await connection.aclose()


async def test_a_handler_that_hangs_does_not_keep_the_listener_from_closing():
    async def hang(stream: Stream) -> None:
        await asyncio.Event().wait()

    listener = await new_transport().listen("127.0.0.1", 0, stream_service(hang))
    connection = await new_transport().dial(listener.addresses[0])
    await connection.open("Test")

    await asyncio.wait_for(listener.aclose(grace_s=0.2), timeout=3)

    await connection.aclose()


async def send_for_ever(stream: Stream) -> None:
    while True:
        stream.send(bytes(1000))
        await asyncio.sleep(0)


async def test_a_killed_listener_is_noticed_at_once():
    async with other_process("listen") as (process, words):
        address = Address.parse(await words())
        connection = await new_transport().dial(address)
        stream = await connection.open("Echo")
        stream.send(b"alive")
        assert await stream.receive() == b"alive"
        receiving = asyncio.create_task(stream.receive())
        await asyncio.sleep(0.05)

        process.kill()

        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(receiving, timeout=5)  # no keepalive is as quick as that
        with pytest.raises(PeerUnreachable):
            stream.send(b"anyone?")
        with pytest.raises(PeerUnreachable):
            await connection.call("Test", b"", timeout_s=1)
        await connection.aclose()


async def test_a_killed_caller_is_noticed_at_once_and_its_handler_is_told_not_cancelled():
    ended = asyncio.get_running_loop().create_future()

    async def wait(stream: Stream) -> None:
        try:
            while True:
                await stream.receive()
        except PeerUnreachable as error:
            ended.set_result(error)

    async with (
        listening(stream_service(wait)) as address,
        other_process("dial", str(address)) as (process, words),
    ):
        assert await words() == "open"

        process.kill()

        error = await asyncio.wait_for(ended, timeout=0.5)
        assert "lost" in str(error)


@asynccontextmanager
async def other_process(
    *arguments: str,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable[[], Awaitable[str]]]]:
    """`tests.protocol.transport.peer_process`, and what reads its next line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.protocol.transport.peer_process", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    output = process.stdout

    async def words() -> str:
        return (await asyncio.wait_for(output.readline(), timeout=15)).decode().strip()

    try:
        yield process, words
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_who_answered_for_a_closed_listener_is_not_kept():
    """gRPC keeps a server's handlers when it has ended; they led to a node and its weights."""

    class Holder:
        async def answer(self, peer_id: str, request: bytes) -> bytes:
            return request

    holder = Holder()
    known = weakref.ref(holder)
    async with connected(Service(calls={"test": holder.answer})) as connection:
        assert await connection.call("test", b"here", timeout_s=5) == b"here"
    del holder, connection
    gc.collect()

    assert known() is None


async def test_giving_up_a_call_or_a_stream_cancels_nothing_that_waits_for_grpc():
    """What an operation took in gRPC's core is freed by the task that waits for it, or never."""
    asked = asyncio.Event()
    waits = {
        *("UnaryUnaryCall._invoke", "StreamStreamCall._prepare_rpc"),
        *("WireStream._read_ahead", "WireStream._write_queued"),
    }

    async def answer_never(caller: PeerId, request: bytes) -> bytes:
        asked.set()
        return await asyncio.get_running_loop().create_future()

    async def wait(stream: Stream) -> None:
        await stream.receive()

    service = Service(calls={"Ask": answer_never}, streams={"Test": wait})
    async with connected(service) as connection:
        call = asyncio.create_task(connection.call("Ask", b"", timeout_s=60))
        stream = await connection.open("Test")
        assert isinstance(stream, WireStream)
        await asked.wait()
        tasks = [task for task in asyncio.all_tasks() if _name(task) in waits]

        call.cancel()
        stream.abandon()
        await asyncio.wait_for(asyncio.wait(tasks), timeout=30)

    assert {_name(task) for task in tasks} >= waits - {"StreamStreamCall._prepare_rpc"}
    assert [_name(task) for task in tasks if task.cancelling()] == []


async def test_a_call_that_ends_well_without_an_answer_is_the_peers_fault():
    class Ended:
        """A unary call, as gRPC shows one whose server ended it properly and said nothing."""

        async def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.OK

        def __await__(self) -> Generator[None, None, None]:
            return
            yield

    with pytest.raises(PeerMisbehaved, match="no answer"):
        await _ClientWire(Ended(), PeerId("peer"), Counters()).result()


async def test_an_abandoned_stream_ends_though_its_call_does_not():
    class Stuck:
        """A wire that takes nothing, brings nothing, and does not hear that it is over."""

        async def read(self) -> bytes | None:
            return await asyncio.get_running_loop().create_future()

        async def write(self, message: bytes) -> None:
            await asyncio.get_running_loop().create_future()

        async def finish(self) -> None: ...

        def abandon(self) -> None: ...

    before = asyncio.all_tasks()
    stream = WireStream(Stuck(), PeerId("peer"), Counters())
    tasks = asyncio.all_tasks() - before

    stream.send(b"words")
    await asyncio.sleep(0)
    stream.abandon()
    await asyncio.wait_for(asyncio.wait(tasks), timeout=30)

    assert stream.over.is_set()


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", ""))
