"""Who may tell a node what to do: mode 15."""

import json

import pytest

from protocol.codec import to_client_message, to_hop_bytes
from protocol.errors import PeerMisbehaved, PeerRefused
from protocol.identity import Identity
from protocol.messages import Close, Failure, Raise, Resume
from protocol.signing import OPEN_SWARM_ID, SigningKey
from protocol.transport.memory import MemoryNetwork
from scheduler import Token
from tests.failure_modes.conftest import ask
from tests.local_swarm import Swarm, whole


async def test_unauthenticated_control_endpoints_there_are_none(
    pair: Swarm, network: MemoryNetwork
):
    """exo: `DELETE /instance` needs no key (CWE-306): anybody ends anybody's model.

    Here a session obeys the peer that opened it and has proven its id, and nobody else: who knows
    a session's id and its hops can neither take its control stream over, nor close, cut or read it.
    """
    stranger = network.transport(Identity(SigningKey.generate()), OPEN_SWARM_ID)
    async with pair.client() as client:
        right = await whole(client.generate(ask(pair)))
        async with client.generate(ask(pair)) as run:
            told, answers = [], []
            async for event in run:
                if isinstance(event, Token):
                    told.append(event.token_id)
                if len(told) == 6 and not answers:
                    hops = [n for n in pair.nodes if len(n.node.sessions)]
                    answers = [
                        await _says(
                            stranger,
                            hop.address,
                            Resume(session=run.session.id, epoch=0, have=0),
                            word,
                        )
                        for hop in hops
                        for word in (Close(reason="mine now"), Raise(epoch=99))
                    ]

    assert tuple(told) == right.token_ids
    assert len(answers) == 6
    assert all(isinstance(answer, Failure) for answer in answers)


async def _says(transport, address, greeting, word):
    """What the node answers to a stranger who speaks for a session of somebody else."""
    connection = await transport.dial(address)
    stream = await connection.open("control")
    stream.send(to_hop_bytes(greeting))
    stream.send(to_hop_bytes(word))
    answer = to_client_message(await stream.receive())
    await connection.aclose()
    return answer


async def test_unauthenticated_control_endpoints_are_not_among_a_nodes_calls(
    pair: Swarm, network: MemoryNetwork
):
    """The same of single calls: they read; `spare` keeps rows in free room, for a signed note;
    `faults` keeps signed evidence that convinces by itself; `sent_rows` are their payer's."""
    node = pair.nodes[0].node
    stranger = network.transport(Identity(SigningKey.generate()), OPEN_SWARM_ID)
    connection = await stranger.dial(pair.nodes[0].address)
    before = (node.engine, node.sessions, node.state)

    for method in ("stop", "drain", "unload", "move", "delete", "instance", "config"):
        with pytest.raises(PeerRefused, match="does not offer"):
            await connection.call(method, b"{}", timeout_s=2)
    for method in ("spare", "faults", "fingerprints", "sent_rows"):
        with pytest.raises(PeerMisbehaved):
            await connection.call(method, b"\xa0", timeout_s=2)
    told = json.loads(await connection.call("status", b'{"draining": true}', timeout_s=2))

    assert told["draining"] is False
    assert (node.engine, node.sessions, node.state) == before
    assert set(node._calls()) == {
        *("gossip", "file", "weights", "handover", "spare", "status", "load", "ping"),
        *("faults", "fingerprints", "sent_rows"),
    }


def test_unauthenticated_control_endpoints_are_not_in_the_gateway_either():
    """The same of HTTP: it listens on loopback, and what it takes is questions, not orders."""
    from manyhands.gateway.app import PARTS
    from manyhands.gateway.command import gateway

    routes = [route for part in PARTS for route in part.router.routes]
    host = next(option for option in gateway.params if option.name == "host")

    assert {route.path for route in routes if route.methods - {"GET", "HEAD"}} == {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        *("/tokenize", "/detokenize", "/api/v1/explain", "/api/v1/route"),
    }
    assert host.default == "127.0.0.1"
