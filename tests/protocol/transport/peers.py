"""Peers for the tests of the transports: identities, services, and two that are connected."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from protocol.address import Address
from protocol.identity import Identity, PeerId
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.tls import anchor_of_peer, issue_client_leaf, tls_name
from protocol.transport import PROTOCOL_VERSION, Connection, Service, Stream
from protocol.transport.greeting import Greeting
from protocol.transport.grpc import GrpcTransport


def new_identity() -> Identity:
    return Identity(SigningKey.generate())


def new_transport(**options: object) -> GrpcTransport:
    given = {"identity": new_identity(), "swarm_id": OPEN_SWARM_ID} | options
    return GrpcTransport(**given)  # type: ignore[arg-type]


async def echo(stream: Stream) -> None:
    while True:
        stream.send(await stream.receive())


async def who_am_i(caller: PeerId, request: bytes) -> bytes:
    return caller.encode() + request


@asynccontextmanager
async def listening(
    service: Service, transport: GrpcTransport | None = None
) -> AsyncIterator[Address]:
    listener = await (transport or new_transport()).listen("127.0.0.1", 0, service)
    try:
        yield listener.addresses[0]
    finally:
        await listener.aclose()


@asynccontextmanager
async def connected(
    service: Service, *, caller: GrpcTransport | None = None, listener: GrpcTransport | None = None
) -> AsyncIterator[Connection]:
    async with listening(service, listener) as address:
        connection = await (caller or new_transport()).dial(address)
        try:
            yield connection
        finally:
            await connection.aclose()


def stream_service(handler: Callable[[Stream], Awaitable[None]]) -> Service:
    return Service(streams={"Test": handler})


def call_service(handler: Callable[[PeerId, bytes], Awaitable[bytes]]) -> Service:
    return Service(calls={"Test": handler})


def claiming(victim: Identity, key: SigningKey) -> Identity:
    """An identity with `victim`'s name and another key's signatures."""

    class Forged:
        seed, public_key, sign = key.seed, victim.public_key, staticmethod(key.sign)

    return Identity(Forged())  # type: ignore[arg-type]


async def raw_stream(address: Address) -> tuple[Any, Callable[[], Awaitable[bytes]]]:
    """A stream `Test` to `address` without our own code on the caller's side."""
    leaf = issue_client_leaf(new_identity())
    credentials = grpc.ssl_channel_credentials(
        anchor_of_peer(address.peer_id), leaf.key_pem, leaf.certificate_pem
    )
    options = (
        ("grpc.ssl_target_name_override", tls_name(address.peer_id)),
        ("grpc.max_send_message_length", -1),
    )
    channel = grpc.aio.secure_channel(address.target, credentials, options=options)
    greeting = Greeting(PROTOCOL_VERSION, OPEN_SWARM_ID)
    call = channel.stream_stream("/manyhands.v1.Node/Test")(metadata=greeting.metadata)
    await call.initial_metadata()
    return call, call.read
