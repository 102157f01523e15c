"""Nodes that keep to a share of their way: the same answers, later, and nobody is starved."""

import asyncio
import time
from pathlib import Path

import pytest

from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm, whole

PROMPT = [5 + n % 200 for n in range(200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


async def test_answers_are_the_same_and_take_as_long_as_their_rows(model, tmp_path):
    network = MemoryNetwork()

    def over(who):
        return network.transport(who, OPEN_SWARM_ID)

    async with swarm(model, tmp_path / "free", over, (0, 3), (3, 6)) as pair, pair.client() as one:
        free = await whole(one.generate(pair.request(PROMPT, max_tokens=8, ignore_eos=True)))
        rate = len(PROMPT) * pair.nodes[0].node.sessions.served.row_bytes
    async with swarm(model, tmp_path / "bound", over) as pair:
        await pair.start((0, 3), (3, 6), max_bytes_per_s=rate)
        requests = [
            pair.request(prompt, max_tokens=8, ignore_eos=True) for prompt in (PROMPT, [7, 8])
        ]
        async with pair.client() as client:
            began_s = time.monotonic()
            long, short = await asyncio.gather(*(whole(client.generate(r)) for r in requests))
            took_s = time.monotonic() - began_s
        announced = pair.nodes[0].node.draft().measured.up_bytes_per_s

    assert long.token_ids == free.token_ids
    assert took_s > 0.5  # a second's rows, less what was in store
    assert short.total_ms < long.total_ms
    assert announced == rate
