"""The side that is dialled: a gRPC server that knows its callers.

In: a service of ours. Out: handlers run with a proven peer id, after the caller's greeting was
checked. A stream's handler runs in a task of its own: gRPC cancels the call's task when the caller
vanishes, and a handler should learn that from its stream instead.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, TypedDict

import grpc

from protocol.address import Address
from protocol.errors import IntegrityError, ManyhandsError, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.tls import verified_peer
from protocol.transport.greeting import Greeting
from protocol.transport.grpc_status import abort
from protocol.transport.handlers import run_call, run_stream
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    CallHandler,
    Counters,
    Service,
    StreamHandler,
)
from protocol.transport.wire_stream import WireStream

SERVICE_NAME = "manyhands.v1.Node"
HELLO = "Hello"


class _Ours(TypedDict):
    """What running a handler needs to know about us."""

    listener: PeerId
    counters: Counters


class GrpcListener:
    """See `protocol.transport.Listener`."""

    def __init__(
        self,
        server: Any,
        service: Service,
        *,
        peer_id: PeerId,
        greeting: Greeting,
        counters: Counters,
    ) -> None:
        self.addresses: tuple[Address, ...] = ()
        self._server, self._peer_id = server, peer_id
        self._greeting, self._counters = greeting, counters
        self._ours = _Ours(listener=peer_id, counters=counters)
        self._streams: dict[asyncio.Task[None], WireStream] = {}  # by their handlers' tasks
        self._is_closing = False
        self._stopping: asyncio.Task[None] | None = None
        self._rpcs: set[asyncio.Task[object]] = set()  # gRPC's own, which also send the answers
        handlers = {HELLO: self._unary(_hello)}
        handlers |= {name: self._unary(handler) for name, handler in service.calls.items()}
        handlers |= {name: self._bidi(handler) for name, handler in service.streams.items()}
        generic = grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
        server.add_generic_rpc_handlers((generic,))

    async def start(self, addresses: Iterable[Address]) -> None:
        await self._server.start()
        self.addresses = tuple(addresses)

    async def aclose(self, grace_s: float = 0.5) -> None:
        self._is_closing = True
        closing = [asyncio.create_task(stream.aclose()) for stream in self._streams.values()]
        tasks = (*closing, *self._streams)
        try:
            if ending := (*tasks, *self._rpcs):
                await asyncio.wait(ending, timeout=grace_s)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            # One stop, at the end: the core crashes when a second one meets a finished first.
            await self._stop()

    async def _stop(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._server.stop(None))
        await asyncio.shield(self._stopping)

    def _unary(self, handler: CallHandler) -> Any:
        async def serve(request: bytes, context: Any) -> bytes:
            peer_id = await self._admit(context)
            if len(request) > MAX_MESSAGE_BYTES:
                self._counters.oversize += 1
                await abort(context, PeerMisbehaved(peer_id, f"a request of {len(request)} bytes"))
            try:
                return await run_call(handler, peer_id, request, **self._ours)
            except ManyhandsError as error:
                await abort(context, error)

        return grpc.unary_unary_rpc_method_handler(serve)

    def _bidi(self, handler: StreamHandler) -> Any:
        async def serve(_: object, context: Any) -> None:
            peer_id = await self._admit(context)
            stream = WireStream(_ServerWire(context, peer_id), peer_id, self._counters)
            task = asyncio.create_task(run_stream(handler, stream, **self._ours))
            self._streams[task] = stream
            task.add_done_callback(lambda task: self._streams.pop(task, None))
            try:
                await stream.over.wait()
            except asyncio.CancelledError:  # gRPC's way of saying that the caller is gone
                stream.lose(PeerUnreachable(peer_id, "the connection is lost"))
                raise

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _admit(self, context: Any) -> PeerId:
        """Greet the caller, proven, of our version and swarm; or end the call."""
        if self._is_closing:
            await abort(context, PeerUnreachable(self._peer_id, "it is closing"))
        self._track_rpc()
        try:
            peer_id = verified_peer(context.auth_context()["x509_pem_cert"][0])
        except (IntegrityError, KeyError, IndexError) as error:
            self._counters.handshakes_failed += 1
            refusal: ManyhandsError = PeerMisbehaved("", f"the caller proved no identity: {error}")
            await abort(context, refusal, grpc.StatusCode.UNAUTHENTICATED)
        theirs = Greeting.read(context.invocation_metadata())
        mismatch = self._greeting.refusal(theirs, caller=peer_id, listener=self._peer_id)
        if mismatch is not None:
            self._counters.refused += 1
            await abort(context, mismatch)
        await context.send_initial_metadata(self._greeting.metadata)
        return peer_id

    def _track_rpc(self) -> None:
        if task := asyncio.current_task():
            self._rpcs.add(task)
            task.add_done_callback(self._rpcs.discard)


class _ServerWire:
    """The listener's side of a call, while gRPC's own task for it waits in `serve`."""

    def __init__(self, context: Any, peer_id: PeerId) -> None:
        self._context, self._peer_id = context, peer_id

    async def read(self) -> bytes | None:
        try:
            message = await self._context.read()
        except _LOST as error:
            raise self._lost() from error
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        try:
            await self._context.write(message)
        except _LOST as error:
            raise self._lost() from error

    async def finish(self) -> None:
        """The call ends when `serve` returns, which waits for the stream to be over."""

    def abandon(self) -> None:
        """As `finish`."""

    def _lost(self) -> ManyhandsError:
        return PeerUnreachable(self._peer_id, "the connection is lost")


# What an operation on a call that is over raises.
_LOST = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError)


async def _hello(caller: PeerId, request: bytes) -> bytes:
    return b""
