"""A swarm of real nodes on the memory transport, every span of the model on two of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import GenerationRequest
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

SPANS = [(0, 2), (2, 5), (5, 6)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


@pytest.fixture
async def pair(model: Path, tmp_path: Path, network: MemoryNetwork) -> AsyncIterator[Swarm]:
    def over_memory(identity: Any) -> Any:
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS, *SPANS) as built:
        yield built


def ask(swarm: Swarm, **what: Any) -> GenerationRequest:
    """A wandering answer of 24 tokens, the same each time."""
    prompt = swarm.tokenizer.encode("Tell me about hands.")
    sampling = SamplingParams(temperature=1.0, seed=7)
    return swarm.request(
        prompt, **({"max_tokens": 24, "sampling": sampling, "ignore_eos": True} | what)
    )
