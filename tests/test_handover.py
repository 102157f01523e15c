"""A hop leaves properly: who takes its place gets what it has run, and the text stands."""

import asyncio
from pathlib import Path

import pytest

from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, GenerationResult, Routed, Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole
from tests.test_failover import ask

SPANS = [(0, 2), (2, 5), (5, 6)]
N = 64
DELAY = Faults(delay_s=(0.01, 0.01))  # so that an answer is not over before anybody could leave


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


def node_of(swarm: Swarm, peer: str) -> LocalNode:
    return next(n for n in swarm.nodes if n.node.identity.peer_id == peer)


async def answer(swarm: Swarm) -> GenerationResult:
    async with swarm.client("undisturbed") as client:
        return await whole(client.generate(ask(swarm, max_tokens=N, reuse_prefix=False)))


async def left_at(swarm: Swarm, hop: int, token: int = 9, **what: object) -> GenerationResult:
    """The answer when the hop at this place begins to leave as this token arrives."""
    leaving: list[asyncio.Task[None]] = []
    async with swarm.client(f"leaver-{hop}-{token}") as client:
        asked = ask(swarm, max_tokens=N, reuse_prefix=False, **what)
        async with client.generate(asked) as run:
            route, events = None, []
            async for event in run:
                events.append(event)
                if isinstance(event, Routed):
                    route = event.route
                if isinstance(event, Token) and event.index == token:
                    assert route is not None
                    leaver = node_of(swarm, route[hop].peer)
                    leaving.append(asyncio.create_task(swarm.stop(leaver)))
        await asyncio.gather(*leaving)
    assert isinstance(events[-1], Finished)
    indices = [event.index for event in events if isinstance(event, Token)]
    assert indices == list(range(N)), "no token lost, none repeated"
    return events[-1].result


@pytest.mark.parametrize("hop", [0, 1, 2])
async def test_the_heir_of_a_hop_that_leaves_runs_nothing_of_it_again(
    model, tmp_path, network, hop
):
    async with swarm(model, tmp_path, over(network)) as built:
        await built.start(*SPANS, *SPANS, drain_s=20.0)
        undisturbed = await answer(built)
        network.set_faults(DELAY)
        before = {n.node.identity.peer_id: n.node.batcher.load.rows for n in built.nodes}

        result = await left_at(built, hop)

        assert result.token_ids == undisturbed.token_ids
        assert (result.failovers, result.handovers) == (0, 1)
        heir = node_of(built, result.route[hop].peer)
        rows = heir.node.batcher.load.rows - before[result.route[hop].peer]
        assert rows <= N - 9, "neither the prompt nor the tokens before it left"
