"""A relay, a peer behind it that nobody can dial, and callers, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from node.relay import Relay
from node.relay_book import Quotas
from node.reserving import Reservations
from protocol.address import Address
from protocol.identity import Identity
from protocol.relaying import METHOD
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service, Stream
from protocol.transport.grpc import GrpcTransport
from tests.protocol.transport.peers import new_identity


async def echo(stream: Stream) -> None:
    while True:
        stream.send(await stream.receive())


async def ping(caller: str, request: bytes) -> bytes:
    return request


ECHO = Service(streams={"echo": echo}, calls={"ping": ping})


@dataclass
class Relayed:
    """What `relayed` made."""

    relay: Relay
    reservations: Reservations
    caller: GrpcTransport
    listens: tuple[str, int]  # the peer
    gate: Address  # of the relay, where it takes reservations

    @property
    def address(self) -> Address:
        [address] = self.reservations.addresses
        return address


@asynccontextmanager
async def relay_of(
    quotas: Quotas | None = None, identity: Identity | None = None, **more: float
) -> AsyncIterator[tuple[Relay, Address]]:
    """A relay and where it takes reservations."""
    identity = identity or new_identity()
    relay = Relay(identity, OPEN_SWARM_ID, quotas, **more)
    transport = GrpcTransport(identity, OPEN_SWARM_ID)
    listener = await transport.listen("127.0.0.1", 0, Service(streams={METHOD: relay.handle}))
    try:
        async with relay.running("127.0.0.1", 0):
            yield relay, listener.addresses[0]
    finally:
        await listener.aclose()


@asynccontextmanager
async def reserving(
    *gates: Address, listens: list[Address] | None = None, **more: object
) -> AsyncIterator[Reservations]:
    """A peer that answers `ECHO`, and can be reached through these relays alone."""
    transport = GrpcTransport(new_identity(), OPEN_SWARM_ID)
    listener = await transport.listen("127.0.0.1", 0, ECHO)
    if listens is not None:
        listens.extend(listener.addresses)
    reservations = Reservations(
        transport,
        OPEN_SWARM_ID,
        given=gates,
        local=lambda: ("127.0.0.1", listener.addresses[0].port),
        changed=lambda: None,
        **more,  # type: ignore[arg-type]
    )
    running = asyncio.create_task(reservations.run())
    try:
        yield reservations
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await listener.aclose()


@asynccontextmanager
async def relayed(quotas: Quotas | None = None) -> AsyncIterator[Relayed]:
    async with AsyncExitStack() as stack:
        relay, gate = await stack.enter_async_context(relay_of(quotas))
        own: list[Address] = []
        reservations = await stack.enter_async_context(reserving(gate, listens=own))
        await until(lambda: bool(reservations.addresses))
        caller = GrpcTransport(new_identity(), OPEN_SWARM_ID)
        yield Relayed(relay, reservations, caller, (own[0].host, own[0].port), gate)


@asynccontextmanager
async def forwarding(
    port: int, local: tuple[str, int], delay_s: Sequence[float] = (0.0,)
) -> AsyncIterator[None]:
    """From now on this port leads to the peer itself: its router forwards it.

    delay_s: how long what comes waits each way; a list that the test changes.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if delay_s[0]:
                    await asyncio.sleep(delay_s[0])
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection(*local)
        for work in (copy(reader, onward[1]), copy(onward[0], writer)):
            tasks.add(asyncio.create_task(work))

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(is_so, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110  (it watches numbers, which set no event)
            await asyncio.sleep(0.01)
