"""Every family runs as its own code runs, by whichever forward was proved; others are refused."""

from typing import Any

import pytest
import torch

from node.engine import Lease, ShardEngine, StepItem, load_shard
from protocol.errors import BadModel
from protocol.messages import Span

IDS = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12, 5, 301, 99] * 2
OTHER = IDS[5:15]


@pytest.mark.parametrize(
    ("family", "forwards"),
    [
        ("qwen2", "DDD"),
        ("mixtral", "DDD"),  # experts, fused while loading
        ("qwen3_moe", "DDD"),
        ("gemma2", "DDF"),  # soft caps; the head caps its logits
        ("gemma3_text", "FFF"),  # two rotary tables
        ("gpt_oss", "DDD"),  # sinks beside the scores
        ("deepseek_v3", "DDD"),  # latents in the cache
        ("phi3", "DDD"),
        ("olmo2", "DDD"),
        ("gpt2", "FFF"),  # learned positions
        ("falcon", "SSS"),  # its own attention
        ("bloom", "SSS"),
        ("llama4_text", "SSS"),  # chunks, in its masks alone
        ("qwen3_next", "SSS"),  # recurrent states
    ],
)
def test_a_chain_of_sessions_gives_the_familys_logits(
    checkpoint: Any, family: str, forwards: str
) -> None:
    from transformers import AutoModelForCausalLM

    directory = checkpoint(family)
    whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = [whole(torch.tensor([ids])).logits[0] for ids in (IDS, OTHER)]
    engines = [load_shard(directory, Span(*s), dtype="float32") for s in ((0, 2), (2, 3), (3, 6))]
    leases = [[engine.open(32) for engine in engines] for _ in range(2)]

    def feed(*runs: tuple[int, int, list[int]]) -> list[torch.Tensor]:
        return step_through(engines, [(leases[s], start, ids) for s, start, ids in runs])

    first = feed((0, 0, IDS[:12]))
    feed((0, 12, OTHER[:3]))  # refused drafts
    second = feed((0, 12, IDS[12:13]), (1, 0, OTHER[:6]))
    third = feed((0, 13, IDS[13:]), (1, 6, OTHER[6:]))

    assert "".join(engine.forward_kind[0] for engine in engines) == forwards
    for got, whole_row in (
        (torch.cat([first[0], second[0], third[0]]), expected[0]),
        (torch.cat([second[1], third[1]]), expected[1]),
    ):
        assert (got - whole_row).abs().max() / whole_row.abs().max() <= 1e-5


def test_a_model_that_only_claims_to_use_our_attention_gets_its_own_per_session(
    checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import FalconForCausalLM

    monkeypatch.setattr(FalconForCausalLM, "_supports_attention_backend", True)

    engine = load_shard(checkpoint("falcon"), Span(0, 2), dtype="float32")

    assert engine.forward_kind == "SessionForward"


def step_through(
    engines: list[ShardEngine], runs: list[tuple[list[Lease], int, list[int]]]
) -> list[torch.Tensor]:
    """All runs through the whole chain, packed; logits of all their rows."""
    rows = [torch.tensor(ids) for _, _, ids in runs]
    results = []
    for number, engine in enumerate(engines):
        items = [
            StepItem(leases[number], start, row, len(row))
            for (leases, start, _), row in zip(runs, rows, strict=True)
        ]
        results = engine.step(items)
        rows = [result.hidden for result in results]
    logits = [result.logits for result in results]
    assert all(part is not None for part in logits)
    return [part for part in logits if part is not None]


def test_a_model_whose_blocks_share_keys_and_values_is_refused_with_the_reason(
    checkpoint: Any,
) -> None:
    with pytest.raises(BadModel, match="share keys and values"):
        load_shard(checkpoint("llama", num_kv_shared_layers=2), Span(0, 1))
