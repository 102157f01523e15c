"""Rows that cannot be computed, results that are no numbers, memory that is not there: each is
said by name, and no session but the guilty one notices.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from node.engine import ShardEngine, StepItem, load_shard
from protocol.errors import BadModel, BadResult, BadRows, OutOfMemory
from protocol.messages import Span


@pytest.fixture(scope="module")
def inner(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> ShardEngine:
    """Its last block adds some thousands: a float16 at its brim runs over."""
    directory = tmp_path_factory.mktemp("loud") / "model"
    shutil.copytree(checkpoint("llama"), directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"] *= 1000
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return load_shard(directory, Span(1, 3), dtype="float16")


def rows(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(seed)).half()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_no_numbers_are_refused_and_nothing_is_run(
    inner: ShardEngine, wrong: float
) -> None:
    good, bad = inner.open(16), inner.open(16)
    inner.step([StepItem(good, 0, rows(3)), StepItem(bad, 0, rows(3))])
    poisoned = rows(4)
    poisoned[2, 63] = wrong

    with pytest.raises(BadRows, match="from 3 on hold NaN or infinite"):
        inner.step([StepItem(good, 3, rows(2)), StepItem(bad, 3, poisoned)])

    assert (good.length, bad.length) == (3, 3)


def test_what_overflows_here_is_not_the_senders_fault(inner: ShardEngine) -> None:
    good, bad, alone = (inner.open(16) for _ in range(3))
    inner.step([StepItem(alone, 0, rows(2))])
    expected = inner.step([StepItem(alone, 2, rows(2, seed=2))])[0].hidden
    inner.step([StepItem(good, 0, rows(2))])
    brim = torch.full((2, 64), torch.finfo(torch.float16).max, dtype=torch.float16)

    with pytest.raises(BadResult, match="blocks 1:3 in float16 made"):
        inner.step([StepItem(good, 2, rows(2, seed=2)), StepItem(bad, 0, brim)])

    assert (good.length, bad.length) == (2, 0)
    assert torch.equal(inner.step([StepItem(good, 2, rows(2, seed=2))])[0].hidden, expected)


@pytest.mark.parametrize(
    "tensor", ["model.layers.4.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_weights_that_are_no_numbers_are_named(
    checkpoint: Any, tmp_path: Path, tensor: str
) -> None:
    directory = Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))
    tensors = load_file(directory / "model.safetensors")
    tensors[tensor].view(-1)[3] = float("nan")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(BadModel, match=f"hold NaN or infinity in {tensor}") as caught:
        load_shard(directory, Span(3, 6))
    assert "fetch the checkpoint again" in caught.value.hint


def test_a_lease_that_no_machine_can_hold_is_refused(checkpoint: Any) -> None:
    engine = load_shard(checkpoint("llama", max_position_embeddings=2**40), Span(0, 1))

    with pytest.raises(OutOfMemory, match="no room for the KV cache"):
        engine.open(2**40)

    assert engine.step([StepItem(engine.open(8), 0, torch.tensor([1]))])


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from node.engine import StepItem, load_shard
from protocol.errors import OutOfMemory

def pages(index):
    return int(Path("/proc/self/statm").read_text().split()[index]) * 4096

engine = load_shard(Path(sys.argv[1]), None)
good, alone, bad = (engine.open(2048) for _ in range(3))
prompt = torch.arange(40)
for lease in (good, alone):
    engine.step([StepItem(lease, 0, prompt, 1)])
engine.step([StepItem(bad, 0, prompt, 1)])
token = torch.tensor([7])
expected = engine.step([StepItem(alone, 40, token, 1)])[0].logits
before = pages(1)
resource.setrlimit(resource.RLIMIT_AS, (pages(0) + (96 << 20), resource.RLIM_INFINITY))
big = torch.arange(2000) % 300
try:  # logits of 2,000 rows take 256 MB
    engine.step([StepItem(good, 40, token, 1), StepItem(bad, 40, big, 2000)])
except OutOfMemory as error:
    print("typed:", error)
print("lengths", good.length, bad.length)
print("kept", pages(1) - before)
print("equal", torch.allclose(engine.step([StepItem(good, 40, token, 1)])[0].logits, expected))
print("smaller", engine.step([StepItem(bad, 40, big[:40], 1)])[0].logits.shape[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits its address space")
def test_memory_that_ends_in_a_step_ends_that_step_alone(checkpoint: Any) -> None:
    directory = checkpoint("llama", vocab_size=32000, max_position_embeddings=2048)

    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(directory)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )

    told = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert told["typed:"] == "the device ran out of memory in a step", run.stderr
    assert told["lengths"] == "40 40"
    assert int(told["kept"]) < 32 << 20
    assert told["equal"] == "True"
    assert told["smaller"] == "1"
