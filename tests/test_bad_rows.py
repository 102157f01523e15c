"""A node that sends what is no number is found out by its successor and routed around."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.codec import data_bytes, data_message
from protocol.errors import ManyhandsError
from protocol.frames import Frame
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm, whole


class Lying:
    """A transport, connection or stream of one whose rows all become NaN as they leave."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def dial(self, *args: Any, **kwargs: Any) -> "Lying":
        return Lying(await self._inner.dial(*args, **kwargs))

    async def open(self, method: str, **kwargs: Any) -> Any:
        stream = await self._inner.open(method, **kwargs)
        return Lying(stream) if method == "data" else stream

    def send(self, message: bytes) -> None:
        said = data_message(message)
        if isinstance(said, Frame):
            said = replace(said, body=np.full(len(said.body) // 4, np.nan, "<f4").tobytes())
        self._inner.send(data_bytes(said))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


async def test_a_sender_of_nan_is_named_by_its_successor_and_replaced(
    model: Path, tmp_path: Path
) -> None:
    network = MemoryNetwork(seed=3)
    liars = 1  # the first node to start

    def over_memory(identity: Any) -> Any:
        nonlocal liars
        transport = network.transport(identity, OPEN_SWARM_ID)
        liars -= 1
        return Lying(transport) if liars == 0 else transport

    async with swarm(model, tmp_path, over_memory, (0, 2), (2, 6)) as built:
        liar = str(built.nodes[0].node.identity.peer_id)
        prompt = built.tokenizer.encode("Tell me about hands.")
        async with built.client() as client:
            with pytest.raises(ManyhandsError) as caught:
                await whole(client.generate(built.request(prompt, max_tokens=4, wait_s=0.3)))
            was_counted = client.records.n_misbehaved > 0
        await built.start((0, 2))
        async with built.client("second") as client:
            for _ in range(4):  # whichever first hop it chooses to begin with
                result = await whole(client.generate(built.request(prompt, max_tokens=4)))
                assert len(result.token_ids) == 4

    assert was_counted
    assert liar in str(caught.value)
    assert "NaN" in str(caught.value)
