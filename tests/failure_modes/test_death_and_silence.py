"""Peers that die, hang, sleep or cannot be dialled: modes 1, 2, 11 and 12."""

import asyncio
import random
import socket
import threading
from pathlib import Path

import pytest

from protocol.identity import Identity
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import MemoryNetwork
from scheduler import Client, Finished, GenerationResult, Routed, Token
from tests.failure_modes.conftest import ask
from tests.local_swarm import Swarm, swarm, whole
from tests.node.relaying import until
from tests.protocol.hash_span import undisturbed
from tests.protocol.session_world import World


async def heard(swarm: Swarm, client: Client, at_token, happens) -> GenerationResult:
    """The answer, while at one of its tokens something happens to its chain."""
    route = None
    async with client.generate(ask(swarm)) as run:
        async for event in run:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and event.index == at_token:
                await happens([step.peer for step in route])
            if isinstance(event, Finished):
                return event.result
    raise AssertionError("no result")


async def test_coordinated_death_of_one_hop_leaves_all_others_serving_what_they_had_loaded(
    pair: Swarm, network: MemoryNetwork
):
    """exo, Parallax: one rank fails, all ranks are killed, and every one loads its weights again.

    Here nobody but the dead ends or loads anything: survivors go on with the spans in their
    memory, and sessions that did not run through the dead notice nothing.
    """
    before = {n.node.identity.peer_id: (n.node.engine, n.node.batcher) for n in pair.nodes}
    dead: list[str] = []

    async def one_dies(chain):
        dead.append(chain[1])
        network.kill(chain[1])

    async with pair.client("reference") as client:
        right = await whole(client.generate(ask(pair)))
    async with pair.client("a") as one, pair.client("b", seed=2) as other:
        disturbed, beside = await asyncio.gather(
            heard(pair, one, 6, one_dies), whole(other.generate(ask(pair)))
        )

    assert disturbed.token_ids == beside.token_ids == right.token_ids
    assert disturbed.failovers == 1
    for local in pair.nodes:
        if local.node.identity.peer_id not in dead:
            assert local.task is not None
            assert not local.task.done()
            peer_id = local.node.identity.peer_id
            assert (local.node.engine, local.node.batcher) == before[peer_id]


async def test_silent_hang_of_a_peer_is_noticed_and_routed_around(
    pair: Swarm, network: MemoryNetwork
):
    """exo: the control plane is healthy, the data plane is dead, and the stream hangs for ever.

    Here every hop reports on its control stream, so that silence has a length and an address:
    after a few seconds without a word a hop is given up, connections or not.
    """
    others = [n.node.identity.peer_id for n in pair.nodes]

    async def one_falls_silent(chain):
        rest = [peer for peer in others if peer != chain[2]]
        network.partition([chain[2]], [client.identity.peer_id, *rest])

    async with pair.client("reference") as client:
        right = await whole(client.generate(ask(pair)))
    async with pair.client() as client, asyncio.timeout(60):
        result = await heard(pair, client, 6, one_falls_silent)

    assert result.token_ids == right.token_ids
    assert result.failovers == 1


async def test_silent_hang_of_an_engine_costs_its_node_the_session(pair: Swarm, monkeypatch):
    """The same on real nodes: one's torch thread never comes back, while its loop reports."""
    monkeypatch.setattr("protocol.chain_session.STALL_S", 1.0)  # 30 s are long for a test
    comes_back, stuck = threading.Event(), []

    async def one_hangs(chain):
        stuck.append(chain[1])
        local = next(n for n in pair.nodes if n.node.identity.peer_id == chain[1])
        local.node.batcher.between_steps(comes_back.wait)

    async with pair.client("reference") as client:
        right = await whole(client.generate(ask(pair)))
    try:
        async with pair.client() as client, asyncio.timeout(60):
            result = await heard(pair, client, 6, one_hangs)
    finally:
        comes_back.set()

    assert result.token_ids == right.token_ids
    assert result.failovers >= 1
    assert stuck[0] not in [hop.peer for hop in result.route]


@pytest.mark.parametrize("seed", range(5))
def test_silent_hang_of_rows_while_all_report_is_blamed_on_whoever_lets_none_out(seed):
    """The same, with every hop alive and talking: rows go in and none come out.

    In simulated time, since patience with a slow hop is long on purpose.
    """
    spans = [Span(0, 2), Span(2, 5), Span(5, 6)]
    prompt = [11, 22, 33]

    world = World(random.Random(seed), spans, prompt=prompt, max_tokens=10, spares=3, stalls=1)
    world.run()

    assert world.ended is not None
    assert world.ended.finish_reason == "length"
    assert world.client.ids == undisturbed(prompt, spans, 10)


async def test_symmetric_nat_is_not_fatal_to_whoever_is_behind_it_nor_to_the_swarm(
    pair: Swarm, network: MemoryNetwork
):
    """Parallax: a node behind a symmetric NAT ends with exit code 1.

    Here a node that nobody can dial, and that no relay has taken yet, lives on, keeps its place in
    the table by its own exchanges, and costs the clients that draw it nothing but a detour. A
    client needs no port at all.
    """
    [hidden] = await pair.start((0, 6))
    assert hidden.node._listener is not None
    network.remove(hidden.node._listener)  # nobody can dial it; it dials others as before
    peer_id = hidden.node.identity.peer_id

    async with pair.client() as client, asyncio.timeout(60):
        while peer_id not in {peer.peer_id for peer in (await client.directory()).live()}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        answers = [await whole(client.generate(ask(pair))) for _ in range(4)]

    assert hidden.task is not None
    assert not hidden.task.done()
    assert all(len(answer.token_ids) == 24 for answer in answers)
    assert peer_id not in {step.peer for answer in answers for step in answer.route}


async def test_symmetric_nat_and_a_relay_make_a_node_that_serves(model: Path, tmp_path: Path):
    """The same node once a relay has taken it, over real sockets: it carries half of the model, of
    which there is no other host.
    """

    def over_sockets(identity: Identity) -> GrpcTransport:
        return GrpcTransport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_sockets) as built, asyncio.timeout(60):
        await built.start((0, 3), relay=("127.0.0.1", 0), look_s=0.02)
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
            [hidden] = await built.start((3, 6), announce=nobody.getsockname(), via_auto=True)
        await until(lambda: bool(hidden.node.carrying.addresses))
        async with built.client() as client:
            answer = await whole(client.generate(ask(built)))

    assert len(answer.token_ids) == 24
    assert answer.route[-1].peer == hidden.node.peer_id


async def test_idle_then_first_request_finds_every_connection_gone_and_is_answered(
    pair: Swarm, network: MemoryNetwork
):
    """exo: after hours of idling the first request crashes the runner.

    Here whatever was open while nothing was asked may be gone, between client and hops and between
    hops: the first request opens what it needs, without a failover.
    """
    async with pair.client() as client:
        before = await whole(client.generate(ask(pair)))
        everybody = [client.identity.peer_id, *(n.node.identity.peer_id for n in pair.nodes)]
        for index, one in enumerate(everybody):
            for other in everybody[index + 1 :]:
                network.break_streams(one, other)
        for local in pair.nodes:  # all that was kept for later was dropped meanwhile
            local.node.sessions.prefixes.clear()
        after = await whole(client.generate(ask(pair)))

    assert after.token_ids == before.token_ids
    assert after.failovers == 0
