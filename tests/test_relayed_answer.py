"""Answers through a relay, between real nodes that can reach each other in no other way."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch

from node.relay import Relay
from protocol.identity import Identity, PeerId
from protocol.path import Path as Way
from protocol.path_book import PathBook
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from protocol.transport.paths import paths_of
from scheduler import Finished, HiddenRequest, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole
from tests.node.relaying import forwarding, relay_of, until

TRANSPORTS: dict[PeerId, GrpcTransport] = {}
WANDERING = SamplingParams(temperature=1.0, seed=7)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
async def first(model: Path, tmp_path: Path):
    """A swarm of one node, which relays."""

    def over_sockets(identity: Identity) -> GrpcTransport:
        transport = TRANSPORTS[identity.peer_id] = GrpcTransport(identity, OPEN_SWARM_ID)
        return transport

    async with swarm(model, tmp_path, over_sockets) as built:
        await built.start((0, 3), relay=("127.0.0.1", 0), look_s=0.02)
        yield built
    TRANSPORTS.clear()


async def hidden(built: Swarm, span: tuple[int, int], **more: object) -> LocalNode:
    """A node whose own address leads nowhere: a router forwards nothing to it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
        [local] = await built.start(span, announce=nobody.getsockname(), **more)
    await until(lambda: bool(local.node.carrying.addresses))
    return local


def ask(built: Swarm, n: int = 24):
    prompt = built.tokenizer.encode("Tell me about hands.")
    return built.request(prompt, max_tokens=n, sampling=WANDERING, ignore_eos=True)


def in_use(relay: Relay) -> tuple[bool, int]:
    """Whether it carries now, and how much it has."""
    told = relay.status()
    return bool(told["connections"]), int(told["bytes"])


async def test_an_answer_comes_from_a_node_that_nobody_can_dial(first: Swarm):
    relay = first.nodes[0]
    behind = await hidden(first, (3, 6), via_auto=True)

    assert [a.path for a in behind.node.addresses] == [Way.DIRECT, Way.RELAYED]
    async with first.client() as client:
        answer = await whole(client.generate(ask(first)))

    assert len(answer.token_ids) == 24
    assert [hop.peer for hop in answer.route] == [relay.node.peer_id, behind.node.peer_id]
    told = relay.node.status()["relay"]
    assert told["peers"][behind.node.peer_id]["to_peer_bytes"] > 10_000
    assert behind.node.status()["via"][0]["relay"] == relay.node.peer_id


async def test_a_relay_killed_in_mid_answer_costs_no_token(first: Swarm):
    async with AsyncExitStack() as lives:
        relays = {}
        for _ in range(2):
            life = await lives.enter_async_context(AsyncExitStack())
            relay, gate = await life.enter_async_context(relay_of())
            relays[gate] = relay, life
        behind = await hidden(first, (3, 6), via=tuple(relays))
        await until(lambda: len(behind.node.carrying.addresses) == 2)
        async with first.client() as client:
            right = await whole(client.generate(ask(first, 64)))
            tokens, killed, result = 0, False, None
            async with client.generate(ask(first, 64)) as run:
                async for event in run:
                    tokens += isinstance(event, Token)
                    if tokens == 5 and not killed:
                        # Client and first hop dial each for itself, and when the first relay
                        # is slow to answer one of them may have come by the other.
                        _, life = max(relays.values(), key=lambda each: in_use(each[0]))
                        await life.aclose()
                        killed = True
                    if isinstance(event, Finished):
                        result = event.result

    assert killed
    assert result is not None
    assert result.token_ids == right.token_ids


@pytest.mark.slow
async def test_an_answer_moves_to_the_direct_way_once_there_is_one_and_loses_no_token(first: Swarm):
    """A relay carries it until the node's router forwards the port that it announces."""
    node = first.nodes[0].node
    behind = await hidden(first, (3, 6), via_auto=True)
    async with first.client() as client, AsyncExitStack() as router:
        right = await whole(client.generate(ask(first, 96)))
        seen, tokens, result = set(), 0, None
        async with client.generate(ask(first, 96)) as run:
            async for event in run:
                tokens += isinstance(event, Token)
                seen.update(node.neighbours.paths().values())
                if tokens == 5 and Way.DIRECT not in seen:
                    port, local = behind.node.addresses[0].port, behind.node.whereabouts.own()[0]
                    await router.enter_async_context(forwarding(port, (local.host, local.port)))
                    # As if the last try were long ago.
                    paths_of(TRANSPORTS[node.peer_id]).book = PathBook()
                if isinstance(event, Finished):
                    result = event.result

    assert seen == {Way.RELAYED, Way.DIRECT}
    assert result is not None
    assert result.token_ids == right.token_ids


@pytest.mark.slow
async def test_rows_of_a_client_that_holds_the_ends_move_to_the_direct_way_too(first: Swarm):
    """Its data and control streams break and are back at once; no row is lost."""
    behind = await hidden(first, (3, 6), via_auto=True)
    rows = torch.randn(8, 64).numpy().tobytes()
    what = {"capacity": 32, "row_bytes": 256, "profile": "float32/none/float32", "stop": 6}
    async with first.client() as client, AsyncExitStack() as router:
        digest, n_blocks = first.manifest.digest, first.manifest.n_blocks
        session = client.hidden(HiddenRequest(manifest=digest, n_blocks=n_blocks, **what))
        right = await session.forward(0, rows)
        paths = paths_of(TRANSPORTS[client.identity.peer_id])
        assert paths.status() == {"direct": 1, "relayed": 1}

        port, local = behind.node.addresses[0].port, behind.node.whereabouts.own()[0]
        await router.enter_async_context(forwarding(port, (local.host, local.port)))
        paths.book = PathBook()  # as if the last try were long ago
        async with asyncio.timeout(20):
            while paths.status()["direct"] < 2:
                assert await session.forward(4, rows[4 * 256 :]) == right[4 * 256 :]
        last = await session.forward(4, rows[4 * 256 :])
        again = await session.forward(0, rows)
        await session.aclose()

    assert (last, again) == (right[4 * 256 :], right)
    assert session.failovers == 0
