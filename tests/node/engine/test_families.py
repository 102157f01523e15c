"""Every family runs as its own code runs, by whichever engine was proved; others are refused."""

from pathlib import Path
from typing import Any

import pytest

from node.engine import load_shard
from protocol.errors import BadModel
from protocol.messages import Span
from tests.checkpoints import FAMILIES, seeing_model
from tests.family_check import check_family

IN_EVERY_RUN = {
    "llama3": "DDD",  # scaled rotary tables, tied ends
    "qwen3_moe": "DDD",  # experts, fused while loading
    "gemma2": "DDF",  # windows, soft caps; the head caps its logits
    "gemma3_text": "FFF",  # two rotary tables
    "gpt_oss": "DDD",  # sinks beside the scores
    "deepseek_v3": "DDD",  # latents in the cache
    "gpt2": "FFF",  # learned positions
    "opt": "FFF",  # lists its last norm before its blocks
    "falcon_alibi": "SSS",  # its own attention, biased by distance
    "llama4_text": "SSS",  # chunks, in its masks alone
    "qwen3_next": "SSS",  # recurrent states
}
THE_OTHERS = sorted(FAMILIES.keys() - IN_EVERY_RUN.keys())


@pytest.mark.parametrize(
    "family",
    [*IN_EVERY_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in THE_OTHERS)],
)
def test_a_chain_of_three_spans_is_the_unsplit_model(checkpoint: Any, family: str) -> None:
    report = check_family(checkpoint(family))

    assert report.is_exact, report
    assert report.n_distinct >= 30, "a text that repeats itself proves little"
    kinds = "".join(kind[0] for kind in report.forwards)
    assert kinds == IN_EVERY_RUN.get(family, kinds)


@pytest.mark.parametrize(
    "family", ["gemma3", *(pytest.param(f, marks=pytest.mark.slow) for f in ("llama4", "mistral3"))]
)
def test_of_a_model_that_sees_the_text_part_is_served(tmp_path: Path, family: str) -> None:
    whole = seeing_model(family)
    whole.save_pretrained(tmp_path)

    report = check_family(tmp_path, whole)

    assert report.is_exact, report


def test_a_model_that_only_claims_to_use_our_attention_gets_its_own_per_session(
    checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import FalconForCausalLM

    monkeypatch.setattr(FalconForCausalLM, "_supports_attention_backend", True)

    engine = load_shard(checkpoint("falcon"), Span(0, 2), dtype="float32")

    assert engine.forward_kind == "SessionForward"


def test_a_model_whose_blocks_share_keys_and_values_is_refused_with_the_reason(
    checkpoint: Any,
) -> None:
    with pytest.raises(BadModel, match="share keys and values"):
        load_shard(checkpoint("llama", num_kv_shared_layers=2), Span(0, 1))


def test_a_model_whose_blocks_need_more_than_hidden_states_is_refused(checkpoint: Any) -> None:
    sizes = {"num_kv_shared_layers": 0, "head_dim": 16, "hidden_size_per_layer_input": 16}

    with pytest.raises(BadModel, match="beside hidden states its blocks get"):
        load_shard(checkpoint("gemma4_text", **sizes), Span(1, 2))


def test_a_model_that_looks_ahead_is_refused_with_the_reason(checkpoint: Any) -> None:
    with pytest.raises(BadModel, match=r"BertLMHeadModel: sessions side by side .* error"):
        load_shard(checkpoint("bert"), None)
