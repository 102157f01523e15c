"""The side that dials: a gRPC channel to one pinned peer.

In: a channel that can only reach its peer id (its TLS root is that peer alone). Out: calls and
streams, whose failures are our errors. A lost TCP connection ends all streams; later calls
connect again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakSet

import grpc

from protocol.errors import (
    ManyhandsError,
    MembershipEnded,
    PeerMisbehaved,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport.admission import Admission
from protocol.transport.control_plane import Tunnel
from protocol.transport.greeting import Greeting
from protocol.transport.grpc_listener import HELLO, SERVICE_NAME
from protocol.transport.grpc_status import CALL_ERRORS, failure_of
from protocol.transport.handlers import is_being_cancelled
from protocol.transport.interface import MAX_MESSAGE_BYTES, Counters
from protocol.transport.wire_stream import WireStream

T = TypeVar("T")


class GrpcConnection:
    """See `protocol.transport.Connection`."""

    def __init__(
        self,
        channel: Any,
        peer_id: PeerId,
        *,
        path: Path = Path.DIRECT,
        admission: Admission,
        counters: Counters,
    ) -> None:
        self.peer_id, self.path = peer_id, path
        self.features: frozenset[str] = frozenset()
        self._channel, self._admission, self._counters = channel, admission, counters
        self._credential: bytes | None = None  # that the other side showed, once it has
        self._streams: WeakSet[WireStream] = WeakSet()
        self._closing: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None

    def pass_through(self, tunnel: Tunnel) -> None:
        """What it was dialled through ends with it."""
        self._tunnel, self.path = tunnel, tunnel.path

    async def hello(self, *, timeout_s: float) -> None:
        """Prove reach, identity, version and swarm, in both directions."""
        wire = self._start_call(HELLO, b"", timeout_s)
        await wire.result()
        await self._check_greeting(wire, HELLO)

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        if len(request) > MAX_MESSAGE_BYTES:
            raise UsageError(f"a request of {len(request)} bytes, at most {MAX_MESSAGE_BYTES} fit")
        return await self._start_call(method, request, timeout_s).result()

    async def open(self, method: str, *, timeout_s: float = 5.0) -> WireStream:
        start = self._channel.stream_stream(_path(method))
        wire = self._begin(lambda: start(metadata=self._admission.greeting.metadata))
        try:
            async with asyncio.timeout(timeout_s):
                await self._check_greeting(wire, method)
        except TimeoutError as error:
            wire.abandon()
            raise PeerUnreachable(self.peer_id, f"no stream within {timeout_s:g} s") from error
        except BaseException:
            wire.abandon()
            raise
        stream = WireStream(wire, self.peer_id, self._counters)
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        """End the open streams properly, then the channel."""
        try:
            await asyncio.gather(*(stream.aclose() for stream in tuple(self._streams)))
        finally:
            await self._channel.close()
            if self._tunnel is not None:
                await self._tunnel.aclose()

    def sweep(self) -> None:
        """Leave a peer that we may not ask any more; its streams end with the reason."""
        gate = self._admission.gate
        if gate is None or self._credential is None or self._closing is not None:
            return
        try:
            gate.trust(self.peer_id, self._credential, HELLO)
        except ManyhandsError as error:
            for stream in tuple(self._streams):
                stream.lose(MembershipEnded(self.peer_id, f"we left it: {error}"))
            self._closing = asyncio.create_task(self._channel.close())

    def _start_call(self, method: str, request: bytes, timeout_s: float) -> "_ClientWire":
        start, greeting = self._channel.unary_unary(_path(method)), self._admission.greeting
        return self._begin(lambda: start(request, metadata=greeting.metadata, timeout=timeout_s))

    def _begin(self, start: Callable[[], Any]) -> "_ClientWire":
        """A call under way. Whoever shares this connection may have closed it meanwhile."""
        if self._closing is not None:
            raise MembershipEnded(self.peer_id, "we left it: it may not answer us any more")
        try:
            return _ClientWire(start(), self.peer_id, self._counters)
        except grpc.aio.UsageError as error:
            raise PeerUnreachable(self.peer_id, "closed here") from error

    async def _check_greeting(self, wire: "_ClientWire", method: str) -> None:
        """The listener greets a caller that it has accepted, and shows by what right it serves."""
        theirs = Greeting.read(await wire.initial_metadata())
        if theirs is None:
            raise await wire.failure()
        self._credential, self.features = theirs.credential, theirs.features
        distrust = self._admission.distrust(self.peer_id, theirs, method)
        if distrust is not None:
            raise distrust


class _ClientWire:
    """The caller's side of a call; every failure leaves it as one of our errors."""

    def __init__(self, call: Any, peer_id: PeerId, counters: Counters) -> None:
        self._call, self._peer_id, self._counters = call, peer_id, counters

    async def read(self) -> bytes | None:
        message = await self._ours(self._call.read())
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        await self._ours(self._call.write(message))

    async def finish(self) -> None:
        await self._ours(self._call.done_writing())

    def abandon(self) -> None:
        """End the call, and let gRPC's own tasks for it end by themselves.

        What an operation took is freed by who waits for it. `call.cancel()` cancels those tasks
        too, and then nobody does (grpcio 1.85): 1 KiB for each unary call.
        """
        below = getattr(self._call, "_cython_call", None)
        if below is None:
            self._call.cancel()
        elif not below.done():
            below.cancel("closed here")

    async def result(self) -> bytes:
        """The answer of a unary call; who is cancelled meanwhile has ended the call."""

        async def answer() -> bytes | None:
            found: bytes | None = await self._call
            return found

        try:
            await self._ours(self._call.code())  # to wait for the call itself may cancel its task
        except asyncio.CancelledError:
            self.abandon()
            raise
        if (found := await self._ours(answer())) is None:
            raise PeerMisbehaved(self._peer_id, "a call that ended well, and no answer")
        return found

    async def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return tuple(await self._ours(self._call.initial_metadata()))

    async def failure(self) -> Exception:
        return await failure_of(self._call, self._peer_id, self._counters)

    async def _ours(self, operation: Awaitable[T]) -> T:
        try:
            return await operation
        except CALL_ERRORS as error:
            raise await self.failure() from error
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                raise
            raise PeerUnreachable(self._peer_id, "closed here") from error


def _path(method: str) -> str:
    return f"/{SERVICE_NAME}/{method}"
