"""Peers for tests of the doctor: real listeners on loopback that answer, gossip and do no work."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from manyhands.local import free_ports
from node.dialling_back import DiallingBack
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable, Merged
from protocol.announcements import seal_announcement
from protocol.anti_entropy import Record
from protocol.clock import wall_ms
from protocol.dialling_back import METHOD as DIAL_BACK
from protocol.gossip_rules import METHOD, answer
from protocol.identity import Identity, PeerId
from protocol.load import METHOD as LOAD_METHOD
from protocol.load import Load
from protocol.measured import NOT_MEASURED
from protocol.signing import OPEN_SWARM_ID
from protocol.transport import Service
from protocol.transport.grpc import GrpcTransport
from protocol.transport.interface import PROTOCOL_VERSION
from tests.announcing import announce, key_of, peer_of


def announced(who: Identity, address: Address, now_ms: int, **more: Any) -> bytes:
    said = announce(
        1,
        peer_id=who.peer_id,
        addresses=(address,),
        issued_ms=now_ms,
        expires_ms=now_ms + 30_000,
        sequence=now_ms,
        **more,
    )
    return seal_announcement(said, OPEN_SWARM_ID, who.key)


@asynccontextmanager
async def peer(
    n: int,
    *others: bytes,
    ahead_ms: int = 0,
    version: int = PROTOCOL_VERSION,
    dials_back: bool = False,
    **more: Any,
) -> AsyncIterator[Address]:
    """A peer that answers and gossips, whose clock is so far ahead of ours; it tells of others
    what they sealed, of itself `more`."""

    def now_ms() -> int:
        return wall_ms() + ahead_ms

    table = AnnouncementTable(OPEN_SWARM_ID)

    async def gossip(caller: PeerId, request: bytes) -> bytes:
        return answer(table, request, sender=caller, now_ms=now_ms()).reply

    async def ping(caller: PeerId, request: bytes) -> bytes:
        return b""

    async def load(caller: PeerId, request: bytes) -> bytes:
        state = more.get("measured", NOT_MEASURED).state
        told = Load(n_sessions=0, queue_us=0, kv_free_bytes=2**30, state=state, ticket=1)
        return told.encode()

    transport = GrpcTransport(Identity(key_of(n)), OPEN_SWARM_ID, version=version)
    dialling = DiallingBack(transport, lambda: listener.addresses)
    service = Service(
        calls={METHOD: gossip, "ping": ping, LOAD_METHOD: load},
        seen_calls={DIAL_BACK: dialling.handle} if dials_back else {},
    )
    listener = await transport.listen("127.0.0.1", 0, service)
    [address] = listener.addresses
    ours = announced(Identity(key_of(n)), address, now_ms(), **more)
    for sealed in (ours, *others):
        assert table.merge(Record(30_000, sealed), sender="", now_ms=now_ms()) is Merged.NEW
    try:
        yield address
    finally:
        await listener.aclose(grace_s=0)


def nobody(n: int) -> Address:
    """Where nobody answers."""
    return Address("127.0.0.1", free_ports(1)[0], peer_of(n))
