"""Chains whose rows travel in another format, or packed: asked for by name, the books in order."""

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from ledger.verify import verify_ledger
from protocol.errors import SwarmIncomplete
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm, whole

SPANS = [(0, 3), (3, 6)]
PRICED = Rates(prefill_tl=1_000_000, decode_tl=5_000_000, act_kib=1_000_000)
N = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"max_position_embeddings": 1024}
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model"), **sizes))


@pytest.fixture
async def nobody(model: Path, tmp_path: Path):
    """A swarm without nodes yet."""
    network = MemoryNetwork(seed=3)

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory) as built:
        yield built


async def answer(swarm: Swarm, prompt: list[int], **what: object) -> tuple[int, ...]:
    async with swarm.client(f"client {len(list(swarm.home.iterdir()))}") as client:
        request = swarm.request(prompt, max_tokens=N, ignore_eos=True)
        result = await whole(client.generate(replace(request, **what)))
    return tuple(result.token_ids)


@pytest.mark.parametrize(("wire", "row_bytes"), [("bfloat16", 128), ("int8-64", 66)])
async def test_a_wire_that_rounds_serves_those_who_ask_for_it_and_its_bytes_are_billed(
    nobody, wire, row_bytes
):
    nodes = await nobody.start(*SPANS, rates=PRICED, wire=wire)
    prompt = nobody.tokenizer.encode("Many hands make light work.")

    with pytest.raises(SwarmIncomplete) as refused:
        await answer(nobody, prompt, wait_s=0.5)
    tokens = await answer(nobody, prompt, profile=f"float32/none/{wire}")

    assert f"--profile float32/none/{wire}" in refused.value.hint
    assert len(tokens) == N
    assert nodes[0].node.sessions.served.row_bytes == row_bytes
    await nobody.aclose()
    for local in nodes:
        report = verify_ledger(local.home)
        assert report.holds, report.failures


async def test_a_wire_that_rounds_nothing_needs_no_asking(nobody):
    await nobody.start(*SPANS, wire="float32")

    assert len(await answer(nobody, [5, 6, 7])) == N


async def test_packed_frames_change_no_token(nobody):
    prompt = [5 + i % 200 for i in range(700)]
    plain = await nobody.start(*SPANS, pack="never")
    expected = await answer(nobody, prompt)
    for local in plain:
        await nobody.stop(local)
    packing = await nobody.start(*SPANS, pack="always")

    assert await answer(nobody, prompt) == expected
    assert [local.node.neighbours.bytes_saved for local in plain] == [0, 0]
    first, last = (local.node.neighbours.bytes_saved for local in packing)
    assert first > 10_000
    assert last == 0, "token ids are too few to pack"
