"""What a span needs from a checkpoint, and what a checkpoint that lacks it gets."""

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.utils import logging

from node.engine import StepItem, load_shard, plan_shard
from protocol.errors import BadModel, OutOfMemory, UsageError
from protocol.messages import Span
from protocol.tensor_table import read_tensor_table
from tests.checkpoints import write_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def copy(checkpoint: Any, tmp_path: Path) -> Path:
    """A checkpoint in one file, to be damaged."""
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "copy"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "sharded", "llama", max_shard_size="100KB")


def test_a_span_loads_without_the_files_of_the_others(sharded: Path) -> None:
    whole = load_shard(sharded, Span(2, 4))
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    needed = {file for name, file in weight_map.items() if ".2." in name or ".3." in name}
    for file in set(weight_map.values()) - needed:
        (sharded / file).unlink()

    partial = load_shard(sharded, Span(2, 4))

    rows = torch.randn(5, 64)
    hidden = [e.step([StepItem(e.open(8), 0, rows)])[0].hidden for e in (whole, partial)]
    assert torch.equal(hidden[0], hidden[1])


def test_spans_that_load_at_once_leave_the_library_as_it_was(checkpoint: Any) -> None:
    """A process may hold several nodes; what the library replaces meanwhile is the process's."""
    directory = checkpoint("llama")

    def found() -> list[Any]:
        tie = vars(PreTrainedModel)["tie_weights"]
        return [tie, torch.linspace, torch.get_default_dtype(), logging.get_verbosity()]

    before = found()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: load_shard(directory, Span(2, 4), dtype="bfloat16"), range(6)))

    assert found() == before


def test_an_end_needs_its_own_tensors_only(sharded: Path) -> None:
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    shared = {weight_map["model.embed_tokens.weight"]}
    head_only = {weight_map["lm_head.weight"]} - shared
    assert head_only, "the head should lie in a file of its own"
    for file in head_only:
        (sharded / file).unlink()

    assert load_shard(sharded, Span(0, 1)).embeds
    with pytest.raises(BadModel, match="cannot be read"):
        load_shard(sharded, Span(5, 6))


def test_phases_of_loading_are_reported(checkpoint: Any) -> None:
    phases: list[str] = []

    load_shard(checkpoint("llama"), Span(0, 1), progress=lambda phase, _: phases.append(phase))

    assert list(dict.fromkeys(phases)) == ["configuration", "weights", "self-test"]


def truncate(directory: Path) -> None:
    whole = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(whole[:-1000])


def truncate_header(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes((directory / WEIGHTS).read_bytes()[:100])


def empty(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"")


def scribble(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", 50) + b"{]" * 100)


def grow(directory: Path) -> None:
    with (directory / WEIGHTS).open("ab") as file:
        file.write(b"more")


def drop_tensor(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def reshape_tensor(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 64)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def drop_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def break_config(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": ')


def drop_weights(directory: Path) -> None:
    (directory / WEIGHTS).unlink()


def configure(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))

    return change


def reach_outside(directory: Path) -> None:
    index = {"weight_map": {"model.layers.1.mlp.up_proj.weight": "../copy/model.safetensors"}}
    (directory / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (shutil.rmtree, "no model directory"),
        (drop_config, r"no readable config\.json"),
        (break_config, "not valid JSON"),
        (drop_weights, "no safetensors weights"),
        (truncate, r"model\.safetensors is corrupt: it is truncated"),
        (truncate_header, "corrupt: its header should take"),
        (empty, "corrupt: its header should take"),
        (scribble, "corrupt: its header is not a table"),
        (grow, "followed by bytes that belong to no tensor"),
        (drop_tensor, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        (reshape_tensor, "do not fit LlamaForCausalLM"),
        (reach_outside, "no plain file name"),
        (configure(model_type="martian", architectures=["MartianForCausalLM"]), "Martian"),
        (configure(model_type=7), "describes no model"),
        (configure(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"), "evil"),
        (configure(model_type="bert", architectures=["BertModel"]), "BertModel"),
        (configure(model_type="bloom", architectures=["BloomForCausalLM"]), "lacks transformer"),
        (configure(layer_types=["linear_attention"] * 6), "linear_attention blocks"),
        (configure(num_hidden_layers=0), "names no number of blocks"),
        (configure(quantization_config={"quant_method": "gptq", "bits": 4}), "quantized"),
        (configure(num_attention_heads=3), "LlamaForCausalLM"),
    ],
)
def test_a_bad_checkpoint_is_refused_by_name_and_reason(
    copy: Path, damage: Callable[[Path], None], complaint: str, capfd: Any
) -> None:
    damage(copy)

    with pytest.raises(BadModel, match=complaint):
        load_shard(copy, Span(0, 2))

    assert capfd.readouterr().err == ""


def test_damage_to_another_span_is_none_of_ours(copy: Path) -> None:
    drop_tensor(copy)

    assert load_shard(copy, Span(2, 4)).span == Span(2, 4)


def test_spans_and_dtypes_that_do_not_exist_are_refused(checkpoint: Any) -> None:
    directory = checkpoint("llama")
    with pytest.raises(UsageError, match="span 4:7 lies outside the model, which has blocks 0:6"):
        load_shard(directory, Span(4, 7))
    with pytest.raises(UsageError, match="no dtype 'float3'"):
        load_shard(directory, Span(0, 1), dtype="float3")
    with pytest.raises(UsageError, match="device"):
        load_shard(directory, Span(0, 1), device="cuda:99")


def test_weights_that_cannot_fit_are_refused_before_they_are_read(copy: Path) -> None:
    shape = [2**20, 2**16]
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**38]}
    header = json.dumps({"model.layers.1.mlp.up_proj.weight": entry}).encode()
    with (copy / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 2**38)  # sparse: takes no room

    with pytest.raises(OutOfMemory, match=r"take 256\.0 GiB, cpu has"):
        load_shard(copy, Span(1, 2))
    with pytest.raises(OutOfMemory, match=r"take 128\.0 GiB, cpu has"):
        load_shard(copy, Span(1, 2), dtype="bfloat16")


def test_a_checkpoints_own_dtype_is_the_default(checkpoint: Any, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(checkpoint("llama"), tmp_path / "half"))
    tensors = {name: t.bfloat16() for name, t in load_file(directory / WEIGHTS).items()}
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    configure(dtype="bfloat16")(directory)

    assert load_shard(directory, Span(0, 1)).dtype == torch.bfloat16
    assert load_shard(directory, Span(0, 1), dtype="float32").dtype == torch.float32


def test_a_tensor_table_is_what_the_library_reads(checkpoint: Any) -> None:
    path = checkpoint("llama") / WEIGHTS

    table = read_tensor_table(path)

    data = path.read_bytes()
    for name, tensor in load_file(path).items():
        entry = table[name]
        assert entry.shape == tuple(tensor.shape)
        assert data[entry.start : entry.stop] == tensor.numpy().tobytes()


PEAK = """
import sys, threading, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from node.engine import load_shard
from protocol.messages import Span

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

small, large = Path(sys.argv[1]), Path(sys.argv[2])
load_shard(small, None)
base = peak = resident()
done = threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, resident())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
engine = load_shard(large, Span(1, 3))
done.set()
watcher.join()
print((peak - base) / engine.weights_bytes, engine.weights_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_never_holds_much_more_than_the_span(checkpoint: Any, tmp_path: Path) -> None:
    large = write_checkpoint(
        tmp_path / "large",
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=3,
        vocab_size=1024,
    )

    output = subprocess.run(
        [sys.executable, "-c", PEAK, str(checkpoint("llama")), str(large)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    ).stdout.split()

    assert float(output[0]) <= 1.3
    assert int(output[1]) > 60e6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"num_hidden_layers": 10**9}, "no model has more"), ({"num_attention_heads": 0}, "config")],
)
def test_a_configuration_that_would_build_what_no_model_is_is_refused(
    copy: Path, wrong: dict[str, int], words: str
) -> None:
    config = json.loads((copy / "config.json").read_text()) | wrong
    (copy / "config.json").write_text(json.dumps(config))

    for ask in (load_shard, plan_shard):
        with pytest.raises(BadModel, match=words):
            ask(copy, Span(0, 1))
