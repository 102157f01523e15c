"""Checkpoints of any family, in many files, are served by a swarm as they lie there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from protocol.describing import make_manifest
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, GenerationResult, Routed, Token
from tests.checkpoints import FAMILIES, SEEING, random_model, seeing_model
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

SPANS = [(0, 2), (2, 3), (3, 6)]
IN_EVERY_RUN = ["qwen3_next", "falcon_alibi", "gemma3"]
THE_OTHERS = sorted({*FAMILIES, *SEEING} - {*IN_EVERY_RUN})
N = 24
PROMPT = "Tell me about hands."


@pytest.mark.parametrize(
    "family",
    [*IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in THE_OTHERS)],
)
async def test_a_chain_that_loses_a_hop_writes_the_librarys_greedy_text(
    tmp_path: Path, family: str
) -> None:
    whole = seeing_model(family) if family in SEEING else random_model(family).eval()
    model = tmp_path / "model"
    whole.save_pretrained(model, max_shard_size="100KB")
    add_byte_tokenizer(model)
    assert len(list(model.glob("*.safetensors"))) > 2
    network = MemoryNetwork(seed=3)

    def over_memory(identity: Any) -> Any:
        return network.transport(identity, OPEN_SWARM_ID)

    async with swarm(model, tmp_path, over_memory, *SPANS, *SPANS) as nodes:
        result = await answer_and_kill(nodes, network)

    assert result.failovers == 1
    assert list(result.token_ids) == greedy(whole, nodes.tokenizer.encode(PROMPT))


async def answer_and_kill(nodes: Swarm, network: MemoryNetwork) -> GenerationResult:
    """The answer of a chain whose middle hop dies at the ninth token."""
    request = nodes.request(nodes.tokenizer.encode(PROMPT), max_tokens=N, ignore_eos=True)
    async with nodes.client() as client, client.generate(request) as run:
        middle, events = None, []
        async for event in run:
            events.append(event)
            if isinstance(event, Routed) and middle is None:
                middle = event.route[1].peer
            if isinstance(event, Token) and event.index == 9:
                network.kill(middle)
    assert isinstance(events[-1], Finished)
    return events[-1].result


def greedy(whole: Any, prompt: list[int]) -> list[int]:
    ids = whole.generate(
        torch.tensor([prompt]), max_new_tokens=N, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    drawn: list[int] = ids[0, len(prompt) :].tolist()
    return drawn


@pytest.mark.parametrize("family", sorted({*FAMILIES, *SEEING}))
def test_a_manifest_says_what_the_library_says(tmp_path: Path, family: str) -> None:
    whole = seeing_model(family) if family in SEEING else random_model(family)
    whole.save_pretrained(tmp_path)
    text = whole.config.get_text_config(decoder=True)

    manifest = make_manifest(tmp_path)

    assert (manifest.n_blocks, manifest.hidden_size) == (text.num_hidden_layers, text.hidden_size)
    assert manifest.vocab_size == text.vocab_size


@pytest.mark.parametrize("family", ["gemma3", "gpt_neox", "bloom", "gpt2", "llama"])
def test_what_a_configuration_leaves_to_its_class_the_tensors_tell(
    tmp_path: Path, family: str
) -> None:
    whole = seeing_model(family) if family in SEEING else random_model(family)
    whole.save_pretrained(tmp_path)
    stated = make_manifest(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    measures = {"num_hidden_layers", "n_layer", "hidden_size", "n_embd", "vocab_size"}
    for fields in (config, config.get("text_config", {})):
        for name in measures & fields.keys():
            del fields[name]
    (tmp_path / "config.json").write_text(json.dumps(config))

    told = make_manifest(tmp_path)

    assert (told.n_blocks, told.hidden_size, told.vocab_size) == (
        stated.n_blocks,
        stated.hidden_size,
        stated.vocab_size,
    )
