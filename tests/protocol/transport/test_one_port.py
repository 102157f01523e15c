"""Several peers are dialled from one local port, and prove who they are as ever."""

import asyncio

import pytest

from protocol.address import Address
from protocol.errors import PeerMisbehaved, PeerUnreachable
from protocol.transport import Service
from protocol.transport.one_port import OnePort
from tests.announcing import peer_of
from tests.protocol.transport.peers import listening, new_transport


async def _where(caller, seen, request):
    return str(seen.port).encode()


SEEING = Service(seen_calls={"Test": _where})


async def seen_by(one_port, address):
    async with one_port.towards(address) as near:
        connection = await new_transport().dial(near)
        try:
            return int(await connection.call("Test", b"", timeout_s=5.0))
        finally:
            await connection.aclose()


async def test_several_peers_see_connections_from_the_same_port():
    one_port = OnePort()
    async with listening(SEEING) as alice, listening(SEEING) as bob:
        ports = await asyncio.gather(*(seen_by(one_port, peer) for peer in (alice, bob)))
        [other] = {await seen_by(OnePort(), alice)}

    assert len(set(ports)) == 1
    assert other != ports[0]


async def test_whoever_answers_there_still_has_to_be_the_peer_that_was_meant():
    async with listening(SEEING) as alice:
        mallory = Address(alice.host, alice.port, peer_of(9))

        with pytest.raises(PeerMisbehaved, match=str(alice.peer_id)):
            await seen_by(OnePort(), mallory)


async def test_where_nobody_listens_nobody_is_reached():
    async with listening(SEEING) as alice:
        pass

    with pytest.raises(PeerUnreachable):
        await seen_by(OnePort(), alice)
