"""The transport for tests: many peers in one process, with scripted faults and a seed.

In: peers, and what should go wrong between them. Out: the same interface and the same errors as
over real sockets. What a stream meets on its way is in `memory_stream.py`; here are the links, the
ports, calls, and the death and partition of peers. Every call and stream draws its faults from a
generator of its own, seeded by the network's seed, the two peers and how many they opened before,
so that a run repeats whatever else happens beside it.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from random import Random
from weakref import WeakSet

from protocol.address import Address, Endpoint
from protocol.errors import (
    ConfigError,
    ManyhandsError,
    PeerMisbehaved,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import Identity, PeerId
from protocol.path import Path
from protocol.transport.admission import Admission, to_strangers
from protocol.transport.error_codec import decode_error, encode_error
from protocol.transport.greeting import FEATURES, Greeting
from protocol.transport.handlers import Ours, is_being_cancelled, run_call, run_stream
from protocol.transport.interface import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    CallHandler,
    Counters,
    Gate,
    Service,
)
from protocol.transport.memory_stream import Faults, MemoryStream, Pipe

__all__ = ["Faults", "MemoryConnection", "MemoryListener", "MemoryNetwork", "MemoryTransport"]

HELLO = "Hello"
_FIRST_PORT = 40_000
_CALLING_PORT = 50_000
_CONCRETE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class MemoryNetwork:
    """The links between some peers. `seed` makes every fault repeat."""

    def __init__(self, seed: int = 0, *, faults: Faults | None = None) -> None:
        self.seed = seed
        self._faults = faults or Faults()
        self._link_faults: dict[frozenset[PeerId], Faults] = {}
        self._groups: tuple[frozenset[PeerId], ...] = ()
        self._healed = asyncio.Event()
        self._dead: set[PeerId] = set()
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._pairs: list[tuple[MemoryStream, MemoryStream]] = []
        self._n_opened: Counter[tuple[PeerId, PeerId]] = Counter()
        self._next_port = _FIRST_PORT

    def transport(
        self,
        identity: Identity,
        swarm_id: bytes,
        *,
        version: int = PROTOCOL_VERSION,
        features: frozenset[str] = FEATURES,
        gate: Gate | None = None,
    ) -> "MemoryTransport":
        """A peer on this network; one that was killed is alive again."""
        self._dead.discard(identity.peer_id)
        greeting = Greeting(version, swarm_id, features=features)
        return MemoryTransport(self, identity.peer_id, greeting, gate)

    def set_faults(self, faults: Faults, *between: PeerId) -> None:
        """From now on: on every link, or on the one between two peers."""
        if between:
            self._link_faults[frozenset(between)] = faults
        else:
            self._faults = faults

    def kill(self, peer_id: PeerId) -> None:
        """The peer is gone, as by SIGKILL: its handlers stop, all its streams end at once."""
        self._dead.add(peer_id)
        for listener in [one for one in self._listeners.values() if one.peer_id == peer_id]:
            listener.vanish()
        for pair in self._pairs:
            if peer_id in {stream.peer_id for stream in pair}:
                _lose(pair)

    def break_streams(self, one: PeerId, other: PeerId) -> None:
        """The connection between two peers drops; they may open new streams."""
        for pair in self._pairs:
            if {stream.peer_id for stream in pair} == {one, other}:
                _lose(pair)

    def partition(self, *groups: Iterable[PeerId]) -> None:
        """Silence between the groups: nothing arrives, and nothing fails but by timeout."""
        self._groups = tuple(frozenset(group) for group in groups)

    def heal(self) -> None:
        """End the partition; what waited on the links arrives."""
        self._groups = ()
        self._healed.set()
        self._healed = asyncio.Event()
        for pair in self._pairs:
            for stream in pair:
                stream.outgoing.wake_up()

    # What the peers on this network ask it

    def faults_between(self, one: PeerId, other: PeerId) -> Faults:
        return self._link_faults.get(frozenset((one, other)), self._faults)

    def is_dead(self, peer_id: PeerId) -> bool:
        return peer_id in self._dead

    def is_parted(self, one: PeerId, other: PeerId) -> bool:
        """Whether a partition lies between them; peers in no group are together."""
        sides = [next((g for g in self._groups if p in g), None) for p in (one, other)]
        return sides[0] is not sides[1]

    async def cross(self, one: PeerId, other: PeerId, chance: Random) -> None:
        """The way of a request or an answer; it may be long, lost (for ever) or broken."""
        faults = self.faults_between(one, other)
        delay_s, lost, _, broken = faults.draw(chance)
        if delay_s:
            await asyncio.sleep(delay_s)
        while self.is_parted(one, other):
            await self._healed.wait()
        if lost:
            await asyncio.Event().wait()
        if broken or self.is_dead(one) or self.is_dead(other):
            raise PeerUnreachable(other, "the connection is lost")

    def chance(self, caller: PeerId, listener: PeerId) -> Random:
        """The faults of the next call or stream from `caller` to `listener`."""
        self._n_opened[caller, listener] += 1
        return Random(f"{self.seed}/{caller}/{listener}/{self._n_opened[caller, listener]}")

    def connect(
        self, caller: PeerId, listener: PeerId, chance: Random
    ) -> tuple[MemoryStream, MemoryStream]:
        """The two ends of a new stream, the caller's first."""

        def faults() -> Faults:
            return self.faults_between(caller, listener)

        def parted() -> bool:
            return self.is_parted(caller, listener)

        near = MemoryStream(listener, Pipe(Random(chance.random()), faults, parted))
        far = MemoryStream(caller, Pipe(Random(chance.random()), faults, parted))
        near.join(far)
        far.join(near)
        self._pairs = [pair for pair in self._pairs if not all(end.is_over for end in pair)]
        self._pairs.append((near, far))
        return near, far

    def add(self, listener: "MemoryListener", host: str, port: int) -> Address:
        host = _CONCRETE.get(host, host)
        if not port:
            port, self._next_port = self._next_port, self._next_port + 1
        if (host, port) in self._listeners:
            hint = "try another port, or port 0 to have one picked"
            raise ConfigError(f"port {port} on {host} is in use", hint=hint)
        self._listeners[host, port] = listener
        return Address(host, port, listener.peer_id)

    def remove(self, listener: "MemoryListener") -> None:
        self._listeners = {at: one for at, one in self._listeners.items() if one is not listener}

    def seen(self, caller: PeerId) -> Endpoint | None:
        """From where a peer's connections come: the host that it listens on, if it does."""
        hosts = (host for (host, _), one in self._listeners.items() if one.peer_id == caller)
        return next((Endpoint(host, _CALLING_PORT) for host in hosts), None)

    def find(self, address: Address) -> "MemoryListener | None":
        return self._listeners.get((address.host, address.port))


class MemoryTransport:
    """See `protocol.transport.Transport`."""

    def __init__(
        self, network: MemoryNetwork, peer_id: PeerId, greeting: Greeting, gate: Gate | None = None
    ) -> None:
        self.peer_id = peer_id
        self.counters, self.greeting = Counters(), greeting
        self.admission = Admission(greeting, gate, peer_id)
        self._network = network

    async def listen(self, host: str, port: int, service: Service) -> "MemoryListener":
        listener = MemoryListener(self._network, self, service, host, port)
        self.admission.opened(listener)
        return listener

    async def dial(
        self, address: Address, *, timeout_s: float = 5.0, path: Path | None = None
    ) -> "MemoryConnection":
        listener = self._network.find(address)
        if listener is None or self._network.is_dead(self.peer_id):
            raise PeerUnreachable(address.peer_id, f"nobody answers at {address.target}")
        if listener.peer_id != address.peer_id:
            raise PeerMisbehaved(address.peer_id, f"{address.target} is peer {listener.peer_id}")
        connection = MemoryConnection(self._network, self, address)
        await connection.hello(timeout_s=timeout_s)
        return connection

    def hole_to(self, peer_id: PeerId) -> int:
        return 0

    async def ask_openly(
        self, address: Address, method: str, request: bytes, *, timeout_s: float = 5.0
    ) -> bytes:
        connection = MemoryConnection(self._network, self, address)
        return await connection.call(method, request, timeout_s=timeout_s)


class MemoryListener:
    """See `protocol.transport.Listener`."""

    def __init__(
        self,
        network: MemoryNetwork,
        transport: MemoryTransport,
        service: Service,
        host: str,
        port: int,
    ) -> None:
        self.peer_id = transport.peer_id
        self.addresses = (network.add(self, host, port),)
        self._network, self._service = network, service
        self._admission, self._counters = transport.admission, transport.counters
        self._ours = Ours(listener=self.peer_id, counters=self._counters, guard=service.guard)
        self._streams: dict[asyncio.Task[None], MemoryStream] = {}
        self._shown: dict[MemoryStream, tuple[bytes, str]] = {}  # by what right it is open
        self._ending: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[bytes]] = set()

    def admit(self, caller: MemoryTransport, method: str | None) -> Greeting:
        """Check the caller's greeting, and that we offer `method` to it; greet back."""
        service = self._service
        refusal = self._admission.refusal(
            caller.peer_id,
            caller.admission.greeting,
            method or HELLO,
            self._counters,
            is_offered=method is None or service.offers(method),
            is_starting=service.is_starting,
            is_open=method in service.open_calls,
            n_streams=sum(stream.peer_id == caller.peer_id for stream in self._streams.values()),
            guard=service.guard if method is not None else None,
        )
        greeting = self._admission.greeting
        if refusal is None:
            refusal = caller.admission.distrust(self.peer_id, greeting, method or HELLO)
        if refusal is not None:
            raise refusal
        if (seen := self._network.seen(caller.peer_id)) is not None:
            service.came(caller.peer_id, seen)
        return greeting

    def sweep(self) -> None:
        """End the streams of those who may not go on."""
        for stream in self._streams.values():
            who = stream.peer_id, *self._shown[stream]
            if (ended := self._admission.ending(*who, self._service.guard)) is not None:
                task = asyncio.create_task(stream.aclose(ended))
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)

    async def answer(self, caller: PeerId, method: str, request: bytes) -> bytes:
        """Run a call's handler until it ends, the caller gives up, or this peer dies."""
        is_open = method in self._service.open_calls
        handler = self._handler(method)
        answering = run_call(handler, caller, request, method=method, **self._ours)
        task = asyncio.create_task(answering)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await task
        except ManyhandsError as failure:
            is_hidden = is_open and self._admission.is_private
            error = to_strangers(self.peer_id) if is_hidden else failure
            raise decode_error(encode_error(error), self.peer_id) from None
        except asyncio.CancelledError as error:
            if is_being_cancelled():
                task.cancel()
                raise
            raise PeerUnreachable(self.peer_id, "the connection is lost") from error

    def _handler(self, method: str) -> CallHandler:
        service = self._service
        if (seeing := service.seen_calls.get(method)) is not None:
            return lambda peer_id, request: seeing(peer_id, self._network.seen(peer_id), request)
        return service.open_calls.get(method) or service.calls[method]

    def accept(self, method: str, stream: MemoryStream, credential: bytes) -> None:
        """Run a stream's handler in a task of its own."""
        self._shown[stream] = (credential, method)
        handler = self._service.streams[method]
        running = run_stream(handler, stream, **self._ours)
        task = asyncio.create_task(running)
        self._streams[task] = stream
        task.add_done_callback(self._streamed)

    def _streamed(self, task: asyncio.Task[None]) -> None:
        if (stream := self._streams.pop(task, None)) is not None:
            self._shown.pop(stream, None)

    def vanish(self) -> None:
        """Stop as a killed process does: nobody is told, nothing is waited for."""
        self._network.remove(self)
        for task in (*self._streams, *self._calls):
            task.cancel()

    async def aclose(self, grace_s: float = 0.5) -> None:
        self._network.remove(self)
        closing = [asyncio.create_task(stream.aclose()) for stream in self._streams.values()]
        tasks = (*closing, *self._streams, *self._calls)
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class MemoryConnection:
    """See `protocol.transport.Connection`."""

    def __init__(
        self, network: MemoryNetwork, transport: MemoryTransport, address: Address
    ) -> None:
        self.peer_id, self.path = address.peer_id, address.path
        self.features: frozenset[str] = frozenset()
        self._network, self._transport, self._address = network, transport, address
        self._streams: WeakSet[MemoryStream] = WeakSet()
        self._is_open = True

    async def hello(self, *, timeout_s: float) -> None:
        async with self._round_trip(timeout_s) as (listener, _):
            self.features = listener.admit(self._transport, None).features

    async def call(self, method: str, request: bytes, *, timeout_s: float) -> bytes:
        if len(request) > MAX_MESSAGE_BYTES:
            raise UsageError(f"a request of {len(request)} bytes, at most {MAX_MESSAGE_BYTES} fit")
        async with self._round_trip(timeout_s) as (listener, _):
            listener.admit(self._transport, method)
            return await listener.answer(self._transport.peer_id, method, request)

    async def open(self, method: str, *, timeout_s: float = 5.0) -> MemoryStream:
        ends: tuple[MemoryStream, ...] = ()
        try:
            async with self._round_trip(timeout_s) as (listener, chance):
                listener.admit(self._transport, method)
                near, far = ends = self._network.connect(
                    self._transport.peer_id, self.peer_id, chance
                )
                listener.accept(method, far, self._transport.admission.greeting.credential)
        except BaseException:
            _lose(ends)
            raise
        self._streams.add(near)
        return near

    async def aclose(self) -> None:
        self._is_open = False
        await asyncio.gather(*(stream.aclose() for stream in tuple(self._streams)))

    @asynccontextmanager
    async def _round_trip(self, timeout_s: float) -> AsyncIterator[tuple[MemoryListener, Random]]:
        """The way to the listener before the block, and back after it."""
        caller = self._transport.peer_id
        chance = self._network.chance(caller, self.peer_id)
        try:
            async with asyncio.timeout(timeout_s):
                if not self._is_open:
                    raise PeerUnreachable(self.peer_id, "closed here")
                await self._network.cross(caller, self.peer_id, chance)
                listener = self._network.find(self._address)
                if listener is None or listener.peer_id != self.peer_id:
                    raise PeerUnreachable(self.peer_id, "no connection")
                try:
                    yield listener, chance
                except ManyhandsError:
                    await self._network.cross(caller, self.peer_id, chance)
                    raise
                await self._network.cross(caller, self.peer_id, chance)
        except TimeoutError as error:
            raise PeerUnreachable(self.peer_id, "no answer in time") from error


def _lose(pair: Iterable[MemoryStream]) -> None:
    for stream in pair:
        stream.lose()
