"""A bad adapter is refused by name, before it touches the model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from node.engine import ShardEngine, load_shard
from node.engine.adapter_files import read_adapter
from protocol.errors import BadAdapter, ManyhandsError, UsageError
from protocol.messages import Span
from tests.adapters import change_config, write_adapter

Tensors = dict[str, torch.Tensor]
Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def engine(checkpoint: Any) -> ShardEngine:
    return load_shard(checkpoint("llama"), Span(0, 2), dtype="float32")


@pytest.fixture(scope="module")
def sound(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter") / "sound", checkpoint("llama"))


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "adapter"))


def change_weights(adapter: Path, **changes: torch.Tensor | None) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors: Tensors = {name: part.clone() for name, part in load_file(path).items()}
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"peft_type": None}, "type 'None'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "changes biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "changes the base model"),
        ({"init_lora_weights": ["pissa"]}, "changes the base model"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"something_new": 3}, "something_new=3"),
        ({"r": 100_000}, "rank of 1 to 1024"),
        ({"r": 0}, "rank of 1 to 1024"),
        ({"r": True}, "is a number"),
        ({"r": 8}, "says rank 8"),
        ({"lora_alpha": "x"}, "lora_alpha is a number"),
        ({"lora_alpha": float("nan")}, "lora_alpha is a number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, r"regular expression '\(a\+\)\+\$'"),
        ({"rank_pattern": {"q_proj": 1e300}}, "rank of 1 to 1024"),
        ({"rank_pattern": [1]}, "table of numbers"),
    ],
)
def test_what_is_not_served_is_named(adapter: Path, changes: dict[str, Any], reason: str) -> None:
    change_config(adapter, **changes)

    with pytest.raises(BadAdapter, match=reason):
        read_adapter(adapter)


def test_target_modules_are_never_run_as_a_regular_expression(
    engine: ShardEngine, adapter: Path
) -> None:
    change_config(adapter, target_modules="(a+)+" * 1000 + "$", exclude_modules="(.*)*x")

    assert engine.adapters.load(adapter, "bomb").startswith("bomb@")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"base_model.model.lm_head.weight": torch.zeros(2, 2)}, "whole weight"),
        ({Q0.replace("lora_A.weight", "lora_magnitude_vector"): torch.zeros(4)}, "DoRA"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 9)}, "embedding"),
        ({Q0.replace("lora_A", "lora_B").replace("weight", "bias"): torch.zeros(4)}, "bias"),
        ({Q0: None}, "come in pairs"),
        ({Q0: torch.zeros(4, 64, 1)}, "no float matrix"),
        ({Q0: torch.zeros(4, 64, dtype=torch.int64)}, "no float matrix"),
        ({Q0: torch.zeros(5, 64)}, "says rank 4"),
        ({Q0: torch.full((4, 64), torch.nan)}, "NaN"),
        ({Q0: torch.full((4, 64), -torch.inf)}, "infinity"),
        ({Q0: torch.zeros(4, 96)}, r"lora_A.weight \[4, 96\] and .* takes 64 and gives 64"),
        ({"/etc/passwd": torch.zeros(1)}, "the tensor '/etc/passwd'"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    engine: ShardEngine, adapter: Path, tensors: dict[str, Any], reason: str
) -> None:
    change_weights(adapter, **tensors)
    before = engine.adapters.names

    with pytest.raises(BadAdapter, match=reason):
        engine.adapters.load(adapter, "bad")

    assert engine.adapters.names == before


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("model.layers.6.self_attn.q_proj", "the model has blocks 0:6"),
        ("model.layers.-1.self_attn.q_proj", "not served"),
        ("model.layers.0.self_attn.c_attn", "has no module model.layers.0.self_attn.c_attn"),
        ("transformer.h.0.attn.c_attn", "has no module"),
        ("model.layers.0.self_attn", "of its own kind"),
        ("model.layers.0.input_layernorm", "of its own kind"),
    ],
)
def test_modules_that_the_base_does_not_have_are_named(
    engine: ShardEngine, adapter: Path, path: str, reason: str
) -> None:
    pair = {
        f"base_model.model.{path}.lora_A.weight": torch.zeros(4, 64),
        f"base_model.model.{path}.lora_B.weight": torch.zeros(64, 4),
    }
    save_file(pair, adapter / "adapter_model.safetensors")

    with pytest.raises(BadAdapter, match=reason):
        engine.adapters.load(adapter, "other")


def test_an_adapter_of_another_base_is_refused_with_both_shapes(
    engine: ShardEngine, checkpoint: Any, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path / "other", checkpoint("llama", hidden_size=32, head_dim=16))

    with pytest.raises(BadAdapter, match=r"down_proj.lora_B.* \[32, 4\] .* gives 64"):
        engine.adapters.load(other, "other")


def test_fused_experts_are_refused_by_name(checkpoint: Any, tmp_path: Path) -> None:
    base = checkpoint("mixtral")
    adapter = write_adapter(tmp_path / "a", base)
    path = "model.layers.0.mlp.experts"
    pair = {
        f"base_model.model.{path}.lora_A.weight": torch.zeros(4, 64),
        f"base_model.model.{path}.lora_B.weight": torch.zeros(64, 4),
    }
    save_file(pair, adapter / "adapter_model.safetensors")
    engine = load_shard(base, Span(0, 1), dtype="float32")

    with pytest.raises(BadAdapter, match=r"an adapter of model\.layers\.0\.mlp\.experts"):
        engine.adapters.load(adapter, "experts")


def test_a_router_is_refused_by_name(checkpoint: Any, adapter: Path) -> None:
    path = "model.layers.0.feed_forward.router"
    pair = {
        f"base_model.model.{path}.lora_A.weight": torch.zeros(4, 64),
        f"base_model.model.{path}.lora_B.weight": torch.zeros(4, 4),
    }
    save_file(pair, adapter / "adapter_model.safetensors")
    engine = load_shard(checkpoint("llama4_text"), Span(0, 1), dtype="float32")

    with pytest.raises(BadAdapter, match=f"an adapter of {path}, a Llama4Router"):
        engine.adapters.load(adapter, "router")


def test_damaged_missing_and_pickled_files_are_refused(adapter: Path, tmp_path: Path) -> None:
    weights, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"

    def refused(reason: str) -> None:
        with pytest.raises(BadAdapter, match=reason):
            read_adapter(adapter)

    with pytest.raises(BadAdapter, match=r"no readable adapter_config\.json"):
        read_adapter(tmp_path / "nowhere")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    refused("truncated")
    weights.write_bytes(b"junk" * 10)
    refused("corrupt")
    weights.unlink()
    refused("cannot be read")
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04pickle")
    refused("pickled weights are never loaded")
    weights.write_bytes(whole)
    config.write_text("[" * 100_000)
    refused("not valid JSON")
    config.write_text(json.dumps([1]))
    refused("JSON object")
    config.write_text(" " * (1 << 21))
    refused("larger than")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a" * 65, "a b", "-a", "é"])
def test_a_name_is_plain(engine: ShardEngine, adapter: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        engine.adapters.load(adapter, name)


def test_a_node_loads_as_many_as_it_can_announce(engine: ShardEngine, adapter: Path) -> None:
    names = [engine.adapters.load(adapter, f"n{number}") for number in range(30)]
    loaded = len(engine.adapters.names)

    names += [engine.adapters.load(adapter, f"more{number}") for number in range(32 - loaded)]
    with pytest.raises(ManyhandsError, match="32 adapters are loaded"):
        engine.adapters.load(adapter, "one-too-many")

    assert engine.adapters.load(adapter, "n3") == names[3]  # loading again changes nothing
    for name in names:
        engine.adapters.unload(name)


def test_every_byte_of_both_files_is_in_the_digest(adapter: Path) -> None:
    first = read_adapter(adapter).sha256
    change_config(adapter, lora_dropout=0.5)
    second = read_adapter(adapter).sha256
    change_weights(adapter, **{Q0: torch.zeros(4, 64)})

    assert len({first, second, read_adapter(adapter).sha256}) == 3
