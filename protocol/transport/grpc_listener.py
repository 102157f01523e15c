"""The side that is dialled: a gRPC server that knows its callers.

In: a service of ours. Out: handlers run with a proven peer id, after the caller's greeting was
checked, before a byte of what it sends is read. When the gate's verdicts change, streams of those
who may not go on are ended. A stream's handler runs in a task of its own: gRPC cancels the call's
task when the caller vanishes, and a handler should learn that from its stream instead.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc

from protocol.address import Address, Endpoint
from protocol.errors import (
    IntegrityError,
    ManyhandsError,
    NotAMember,
    PeerMisbehaved,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import PeerId
from protocol.tls import verified_peer
from protocol.transport.admission import REFUSAL_S, Admission, to_strangers
from protocol.transport.greeting import Greeting
from protocol.transport.grpc_status import abort
from protocol.transport.handlers import Ours, run_call, run_stream
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    CallHandler,
    Counters,
    SeenCallHandler,
    Service,
    StreamHandler,
)
from protocol.transport.port_watch import PortWatch
from protocol.transport.wire_stream import WireStream

SERVICE_NAME = "manyhands.v1.Node"
HELLO = "Hello"
REQUEST_S = 10.0  # for the one message of a call to come
ANSWER_S, SLOWEST_BYTES_PER_S = 10.0, 32 * 2**10  # for an answer to be taken
MAX_WAITING = 1024  # refusals to strangers that are held back at a time; the rest leave at once


@dataclass(frozen=True, slots=True)
class _Guest:
    """Who has a stream open here, and by what right."""

    stream: WireStream
    credential: bytes
    method: str


class GrpcListener:
    """See `protocol.transport.Listener`."""

    def __init__(
        self,
        server: Any,
        service: Service,
        *,
        peer_id: PeerId,
        admission: Admission,
        counters: Counters,
    ) -> None:
        self._addresses: Callable[[], tuple[Address, ...]] = tuple
        self._server, self._peer_id = server, peer_id
        self._admission, self._counters = admission, counters
        self._guard, self._came = service.guard, service.came
        self._is_starting = service.is_starting
        self._ours = Ours(listener=peer_id, counters=counters, guard=service.guard)
        self._streams: dict[asyncio.Task[None], _Guest] = {}  # by their handlers' tasks
        self._n_streams: Counter[PeerId] = Counter()
        self._ending: set[asyncio.Task[None]] = set()
        self._watch: PortWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._n_waiting = 0
        self._is_closing = False
        self._stopping: asyncio.Task[None] | None = None
        self._rpcs: set[asyncio.Task[object]] = set()  # gRPC's own, which also send the answers
        handlers = {HELLO: self._unary(HELLO, _hello)}
        handlers |= {name: self._unary(name, handler) for name, handler in service.calls.items()}
        handlers |= {name: self._seeing(name, h) for name, h in service.seen_calls.items()}
        handlers |= {name: self._bidi(name, handler) for name, handler in service.streams.items()}
        handlers |= {
            name: self._unary(name, h, is_open=True) for name, h in service.open_calls.items()
        }
        self._handlers = _Handlers(handlers, self._not_offered)
        server.add_generic_rpc_handlers((self._handlers,))

    @property
    def addresses(self) -> tuple[Address, ...]:
        """As they are now: a machine that moves has others afterwards."""
        return self._addresses()

    async def start(self, addresses: Callable[[], tuple[Address, ...]], watch: PortWatch) -> None:
        await self._server.start()
        self._addresses, self._watch = addresses, watch
        self._watching = asyncio.create_task(watch.run())

    async def aclose(self, grace_s: float = 0.5) -> None:
        self._is_closing = True
        if self._watching is not None:
            self._watching.cancel()
        closing = [asyncio.create_task(guest.stream.aclose()) for guest in self._streams.values()]
        tasks = (*closing, *self._streams, *self._ending)
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
            self._stopping = asyncio.create_task(self._end())
        await asyncio.shield(self._stopping)

    async def _end(self) -> None:
        await self._server.stop(None)
        self._handlers.forget()
        self._came = lambda *_: None  # whoever holds on to this holds no node

    def sweep(self) -> None:
        """End the streams of those who may not go on."""
        for guest in self._streams.values():
            who = guest.stream.peer_id, guest.credential, guest.method
            if (ended := self._admission.ending(*who, self._guard)) is not None:
                task = asyncio.create_task(guest.stream.aclose(ended))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    def _unary(self, method: str, handler: CallHandler, *, is_open: bool = False) -> Any:
        return self._answering(method, lambda _: handler, is_open=is_open)

    def _seeing(self, method: str, handler: SeenCallHandler) -> Any:
        def bound(context: Any) -> CallHandler:
            seen = seen_endpoint(context.peer())
            return lambda peer_id, request: handler(peer_id, seen, request)

        return self._answering(method, bound, is_open=False)

    def _answering(
        self, method: str, handler_for: Callable[[Any], CallHandler], *, is_open: bool
    ) -> Any:
        async def serve(_: object, context: Any) -> None:
            began_s = _now_s()
            peer_id, _greeting = await self._admit(context, method, began_s, is_open=is_open)
            request = await _request(context, peer_id)
            try:
                if len(request) > MAX_MESSAGE_BYTES:
                    self._counters.oversize += 1
                    raise PeerMisbehaved(peer_id, f"a request of {len(request)} bytes")
                answer = await run_call(
                    handler_for(context), peer_id, request, method=method, **self._ours
                )
            except ManyhandsError as error:
                if is_open and self._admission.is_private:
                    await self._refuse_stranger(context, began_s)
                await abort(context, error)
            await _answer(context, peer_id, answer)

        return grpc.stream_stream_rpc_method_handler(serve)

    def _bidi(self, method: str, handler: StreamHandler) -> Any:
        async def serve(_: object, context: Any) -> None:
            peer_id, greeting = await self._admit(context, method, _now_s(), opens=True)
            stream = WireStream(
                _ServerWire(context, peer_id),
                peer_id,
                self._counters,
                seen_endpoint(context.peer()),
            )
            task = asyncio.create_task(run_stream(handler, stream, **self._ours))
            self._streams[task] = _Guest(stream, greeting.credential, method)
            task.add_done_callback(self._streamed)
            try:
                await stream.over.wait()
            except asyncio.CancelledError:  # gRPC's way of saying that the caller is gone
                stream.lose(PeerUnreachable(peer_id, "the connection is lost"))
                raise

        return grpc.stream_stream_rpc_method_handler(serve)

    def _streamed(self, task: asyncio.Task[None]) -> None:
        if (guest := self._streams.pop(task, None)) is not None:
            self._ended(guest.stream.peer_id)

    def _ended(self, peer_id: PeerId) -> None:
        self._n_streams[peer_id] -= 1
        if not self._n_streams[peer_id]:
            del self._n_streams[peer_id]

    def _not_offered(self, method: str) -> Any:
        async def serve(_: object, context: Any) -> None:
            await self._admit(context, method, _now_s(), is_offered=False)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _admit(
        self,
        context: Any,
        method: str,
        began_s: float,
        *,
        is_open: bool = False,
        is_offered: bool = True,
        opens: bool = False,
    ) -> tuple[PeerId, Greeting]:
        """Greet the caller, proven, of our version and swarm, and allowed this; or end the call."""
        admission = self._admission
        if self._is_closing:
            await abort(context, PeerUnreachable(self._peer_id, "it is closing"))
        self._track_rpc()
        try:
            peer_id = verified_peer(context.auth_context()["x509_pem_cert"][0])
        except (IntegrityError, KeyError, IndexError) as error:
            self._counters.handshakes_failed += 1
            if admission.is_private:
                await self._refuse_stranger(context, began_s)
            refusal: ManyhandsError = PeerMisbehaved("", f"the caller proved no identity: {error}")
            await abort(context, refusal, grpc.StatusCode.UNAUTHENTICATED)
        theirs = Greeting.read(context.invocation_metadata())
        no = admission.refusal(
            peer_id,
            theirs,
            method,
            self._counters,
            is_open=is_open,
            is_offered=is_offered,
            is_starting=self._is_starting,
            n_streams=self._n_streams[peer_id],
            guard=self._guard,
        )
        if isinstance(no, NotAMember) and admission.is_private:
            await self._refuse_stranger(context, began_s)
        if no is not None:
            await abort(context, no)
        assert theirs is not None, "who does not greet is refused"
        if (seen := seen_endpoint(context.peer())) is not None:
            self._came(peer_id, seen)
            if self._watch is not None:
                self._watch.prove((seen.host, seen.port))
        self._n_streams.update([peer_id] if opens else [])  # before others of it are asked about
        try:
            await context.send_initial_metadata(admission.greeting.metadata)
        except BaseException:
            if opens:
                self._ended(peer_id)
            raise
        return peer_id, theirs

    async def _refuse_stranger(self, context: Any, began_s: float) -> NoReturn:
        """The same answer at the same time after the call began, whatever was wrong with it."""
        if self._n_waiting < MAX_WAITING:
            self._n_waiting += 1
            try:
                await asyncio.sleep(began_s + REFUSAL_S - _now_s())
            finally:
                self._n_waiting -= 1
        await abort(context, to_strangers(self._peer_id))

    def _track_rpc(self) -> None:
        if task := asyncio.current_task():
            self._rpcs.add(task)
            task.add_done_callback(self._rpcs.discard)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # gRPC has no types here
    """Our methods by name; whoever asks for another is admitted, or not, like anybody."""

    def __init__(self, ours: dict[str, Any], not_offered: Callable[[str], Any]) -> None:
        self._ours, self._not_offered = ours, not_offered

    def service(self, handler_call_details: Any) -> Any:
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        found = self._ours.get(method) if service == SERVICE_NAME else None
        return found or self._not_offered(method)

    def forget(self) -> None:
        """gRPC's core keeps this object after a server's end; nothing of ours shall stay with it.

        Its methods lead to a node, and from there to the weights it has loaded.
        """
        self._ours, self._not_offered = {}, lambda _: None


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


async def _request(context: Any, peer_id: PeerId) -> bytes:
    """The one message of a call."""
    try:
        async with asyncio.timeout(REQUEST_S):
            message = await context.read()
    except TimeoutError:
        await abort(context, PeerMisbehaved(peer_id, "a call that never says what it asks"))
    except _LOST as error:
        raise asyncio.CancelledError from error  # nobody is left to answer
    if message is grpc.aio.EOF:
        await abort(context, PeerMisbehaved(peer_id, "a call without a request"))
    return bytes(message)


async def _answer(context: Any, peer_id: PeerId, answer: bytes) -> None:
    """Send it, or give up on who takes nothing: what waits for that is our memory."""
    try:
        async with asyncio.timeout(ANSWER_S + len(answer) / SLOWEST_BYTES_PER_S):
            await context.write(answer)
    except TimeoutError:
        await abort(context, PeerMisbehaved(peer_id, "it asked, and takes no answer"))


@lru_cache(maxsize=4096)
def seen_endpoint(peer: str) -> Endpoint | None:
    """What gRPC says of where a call comes from; None where that is no address of a network."""
    family, _, target = unquote(peer).partition(":")
    host, _, port = target.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    try:
        return Endpoint(host.removeprefix("[").removesuffix("]").partition("%")[0], int(port))
    except UsageError:
        return None


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def _hello(caller: PeerId, request: bytes) -> bytes:
    return b""
