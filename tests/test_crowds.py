"""Many callers of one client at once, as a gateway has them."""

import asyncio
from pathlib import Path

import pytest

from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm, whole
from tests.test_failover import ask

N_CALLERS = 48


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


async def test_a_crowd_that_fits_is_not_refused_for_what_it_has_not_committed_to(model, tmp_path):
    network = MemoryNetwork(seed=3)

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory) as built:
        await built.start((0, 6))
        async with built.client() as client, client.generate(ask(built, max_tokens=50)) as run:
            async for event in run:
                if isinstance(event, Token):
                    break
            takes = built.nodes[0].node.sessions.reserved_bytes
        await built.stop(built.nodes[0])
        for span in (0, 3), (3, 6):
            await built.start(span, kv_cache_bytes=takes * N_CALLERS)
        async with built.client("crowd") as client:
            asked = [ask(built, max_tokens=50, wait_s=0.0) for _ in range(N_CALLERS)]
            told = await asyncio.gather(*(whole(client.generate(each)) for each in asked))

    assert {len(each.token_ids) for each in told} == {50}
