"""Checkpoints that are quantized already: spans of them compute what their weights mean."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from node.engine import load_shard, plan_shard, quantization
from protocol.errors import BadModel, UsageError
from protocol.messages import Span
from tests.node.engine.test_quantization import CHAIN, through
from tests.quantized_checkpoints import METHODS, quantized

pytest.importorskip("compressed_tensors")
IDS = [5, 9, 44, 17, 200, 31, 8, 99]
PAIRS = [
    *((method, "gpt_oss" if method == "mxfp4" else "llama") for method in METHODS),
    pytest.param("fp8", "deepseek_v3", marks=pytest.mark.slow),
    pytest.param("float8", "qwen3_moe", marks=pytest.mark.slow),
    pytest.param("int4", "gemma3_text", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_a_chain_over_small_weights_equals_the_model_they_stand_for(
    checkpoint: Any, tmp_path: Path, method: str, family: str
) -> None:
    small, plain = quantized(checkpoint(family), tmp_path, method)

    chain = [load_shard(small, span, dtype="float32") for span in CHAIN]
    whole = load_shard(plain, None, dtype="float32")

    assert torch.equal(through(chain, IDS), through([whole], IDS))
    assert {str(engine.profile) for engine in chain} == {"float32/none/float32"}


@pytest.mark.parametrize("kind", ["load_in_8bit", "load_in_4bit"])
def test_what_bitsandbytes_saved_stays_small(checkpoint: Any, tmp_path: Path, kind: str) -> None:
    bitsandbytes = pytest.importorskip("transformers").BitsAndBytesConfig
    from transformers import AutoModelForCausalLM

    settings = bitsandbytes(
        **{kind: True},
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    whole = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama"), dtype=torch.bfloat16, quantization_config=settings
    )
    whole.save_pretrained(tmp_path)

    chain = [load_shard(tmp_path, span) for span in CHAIN]

    with torch.inference_mode():
        expected = whole.eval()(torch.tensor([IDS])).logits[0].float()
    got = through(chain, IDS)
    assert float((got - expected).norm() / expected.norm()) < 2e-2
    form = "int8" if kind == "load_in_8bit" else "nf4"
    assert {engine.profile.quantization for engine in chain} == {form}
    planned = plan_shard(tmp_path, Span(1, 3)).weights_bytes
    assert planned < plan_shard(checkpoint("llama"), Span(1, 3), dtype="bfloat16").weights_bytes


def claim(source: Path, place: Path, **fields: Any) -> Path:
    directory = Path(shutil.copytree(source, place / "claim"))
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = fields
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize(
    ("method", "complaint", "hint"),
    [
        ("gptq", "need optimum and gptqmodel, which is not", "pip install optimum gptqmodel"),
        ("awq", "need gptqmodel, which is not installed", "pip install gptqmodel"),
        ("vptq", "quantized as 'vptq'", "served are awq, bitsandbytes, compressed-tensors"),
        ("eval(1)", "quantized as 'eval", "served are"),
    ],
)
def test_forms_that_cannot_be_read_here_are_refused_by_name(
    checkpoint: Any, tmp_path: Path, method: str, complaint: str, hint: str
) -> None:
    if "gptqmodel" in hint and not quantization.METHODS[method].missing():
        pytest.skip("its library is here")
    directory = claim(checkpoint("llama"), tmp_path, quant_method=method, bits=4)

    for ask in (load_shard, plan_shard):
        with pytest.raises(BadModel, match=complaint) as caught:
            ask(directory, Span(0, 1))
        assert hint in caught.value.hint


def test_small_weights_are_not_made_smaller(checkpoint: Any, tmp_path: Path) -> None:
    directory = claim(checkpoint("llama"), tmp_path, quant_method="fp8")

    with pytest.raises(UsageError, match="quantized already \\(fp8\\), it cannot be made nf4"):
        load_shard(directory, Span(0, 1), quantize="4bit")


@pytest.mark.parametrize("fields", [{"quant_method": "fp8", "weight_block_size": "x"}, {"a": 1}])
def test_a_claim_that_the_weights_do_not_keep_is_refused(
    checkpoint: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    directory = claim(checkpoint("llama"), tmp_path, **fields)

    with pytest.raises(BadModel):
        load_shard(directory, Span(0, 1))
