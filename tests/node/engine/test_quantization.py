"""Small weights: spans of them equal the unsplit model, are kept on disk, and fit where said."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from node.engine import ShardEngine, StepItem, load_shard, plan_shard
from node.engine.outline import Outline
from node.engine.quantization import Quantization
from node.engine.room import plan
from node.engine.span_cache import NOTE, WEIGHTS
from protocol.errors import OutOfMemory, UsageError
from protocol.messages import Span
from tests.adapters import write_adapter

pytest.importorskip("bitsandbytes")
CHAIN = (Span(0, 2), Span(2, 3), Span(3, 6))


def through(engines: list[ShardEngine], ids: list[int]) -> torch.Tensor:
    """Logits of a prompt, prefilled in two parts through a chain."""
    leases = [engine.open(len(ids)) for engine in engines]
    logits = []
    for start, stop in ((0, 5), (5, len(ids))):
        rows = torch.tensor(ids[start:stop])
        for engine, lease in zip(engines, leases, strict=True):
            result = engine.step([StepItem(lease, start, rows, stop - start)])[0]
            rows = result.hidden
        assert result.logits is not None
        logits.append(result.logits)
    return torch.cat(logits)


@pytest.mark.parametrize("quantize", ["int8", "4bit"])
def test_a_chain_of_small_spans_equals_the_unsplit_small_model(
    checkpoint: Any, quantize: str
) -> None:
    directory = checkpoint("llama")
    ids = [5, 9, 44, 17, 200, 31, 8, 99]

    whole = load_shard(directory, None, quantize=quantize)
    chain = [load_shard(directory, span, quantize=quantize) for span in CHAIN]

    assert torch.equal(through(chain, ids), through([whole], ids))
    method = {"int8": "int8", "4bit": "nf4"}[quantize]
    assert {str(e.profile) for e in chain} == {f"bfloat16/{method}/bfloat16"}


def test_small_weights_are_close_to_the_published_ones(checkpoint: Any) -> None:
    directory, ids = checkpoint("llama"), list(range(3, 23))
    exact = through([load_shard(directory, None, dtype="float32")], ids)

    errors = [
        float((through([load_shard(directory, None, quantize=q)], ids) - exact).norm())
        for q in ("none", "int8", "4bit")
    ]

    assert errors[0] < errors[1] < errors[2] < float(exact.norm())


@pytest.mark.parametrize("family", ["gpt2", "qwen3_moe", "falcon"])
def test_families_of_every_shape_can_be_made_small(checkpoint: Any, family: str) -> None:
    """Weights stored the other way round, experts that stay as they are, sessions one by one."""
    directory = checkpoint(family)

    assert load_shard(directory, Span(1, 3), quantize="4bit").profile.quantization == "nf4"


@pytest.mark.parametrize("quantize", ["int8", "4bit"])
def test_rows_of_others_change_nothing(checkpoint: Any, quantize: str) -> None:
    """Not even those that stand out, to which the library's own int8 would bow."""
    engine = load_shard(checkpoint("llama"), Span(1, 3), quantize=quantize)
    rows = [torch.randn(count, 64).bfloat16() for count in (1, 3, 7)]
    rows[1][:, ::5] *= 100
    together = engine.step([StepItem(engine.open(8), 0, part) for part in rows])

    for part, result in zip(rows, together, strict=True):
        alone = engine.step([StepItem(engine.open(8), 0, part)])[0]
        assert float((alone.hidden - result.hidden).norm() / alone.hidden.norm()) < 2e-2


def test_adapters_run_on_small_weights(checkpoint: Any, tmp_path: Path) -> None:
    directory = checkpoint("llama")
    adapter = write_adapter(tmp_path / "adapter", directory)
    rows = torch.arange(5 * 64).reshape(5, 64).sin().bfloat16()

    def hidden(quantize: str) -> tuple[torch.Tensor, torch.Tensor]:
        engine = load_shard(directory, Span(1, 2), dtype="bfloat16", quantize=quantize)
        leases = [engine.open(8), engine.open(8, adapter=engine.adapters.load(adapter, "a"))]
        plain, adapted = engine.step([StepItem(lease, 0, rows) for lease in leases])
        return plain.hidden.float(), adapted.hidden.float()

    expected = hidden("none")
    change = float((expected[1] - expected[0]).norm())
    for quantize in ("int8", "4bit"):
        got = hidden(quantize)
        assert not torch.equal(*got)
        assert float((got[1] - expected[1]).norm()) < 0.5 * change


FETCHED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from node.engine import load_shard
from protocol.messages import Span
load_shard(Path(sys.argv[1]), Span(0, 1), quantize="4bit")
"""


@pytest.mark.slow
def test_no_kernel_is_fetched_from_a_hub(checkpoint: Any, tmp_path: Path) -> None:
    fetcher = "def get_kernel(*_, **__):\n    open('was-here', 'w').close()\n    raise OSError\n"
    (tmp_path / "kernels.py").write_text(fetcher)

    subprocess.run(
        [sys.executable, "-c", FETCHED, str(checkpoint("llama")), str(tmp_path)],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )

    assert not (tmp_path / "was-here").exists()


# Kept on disk


def hidden_of(engine: ShardEngine) -> torch.Tensor:
    rows = torch.arange(5 * 64).reshape(5, 64).sin().bfloat16()
    return engine.step([StepItem(engine.open(8), 0, rows)])[0].hidden


@pytest.mark.parametrize("quantize", ["int8", "4bit"])
def test_a_kept_span_is_the_one_that_was_made(
    checkpoint: Any, tmp_path: Path, quantize: str, caplog: pytest.LogCaptureFixture
) -> None:
    phases: list[str] = []

    def load() -> ShardEngine:
        return load_shard(
            checkpoint("llama"),
            Span(1, 3),
            quantize=quantize,
            cache=tmp_path,
            progress=lambda phase, _: phases.append(phase),
        )

    made = hidden_of(load())
    n_made = phases.count("making weights small")
    kept = hidden_of(load())

    assert (n_made, phases.count("making weights small")) == (1, 1)
    assert torch.equal(made, kept)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_both_ends_of_a_tied_model_are_kept_too(checkpoint: Any, tmp_path: Path) -> None:
    directory = checkpoint("llama", tie_word_embeddings=True)

    made, kept = (load_shard(directory, None, quantize="4bit", cache=tmp_path) for _ in range(2))

    ids = list(range(3, 12))
    assert torch.equal(through([made], ids), through([kept], ids))


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"\xff")


SPOILINGS: dict[str, Callable[[Path, Path], object]] = {
    "a bit flips": lambda entry, _: damage(entry / WEIGHTS),
    "it is cut": lambda entry, _: (entry / WEIGHTS).open("r+b").truncate(1000),
    "its note is nonsense": lambda entry, _: (entry / NOTE).write_text("[]"),
    "the checkpoint is another": lambda _, model: (model / "model.safetensors").touch(),
    "a library is another": lambda entry, _: (entry / NOTE).write_text(
        (entry / NOTE).read_text().replace('"torch": "', '"torch": "0.')
    ),
}


@pytest.mark.parametrize("spoil", SPOILINGS.values(), ids=SPOILINGS)
def test_a_kept_span_that_does_not_hold_is_made_again(
    checkpoint: Any, tmp_path: Path, spoil: Callable[[Path, Path], object]
) -> None:
    model = Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))
    phases: list[str] = []

    def load() -> ShardEngine:
        return load_shard(
            model,
            Span(1, 2),
            quantize="4bit",
            cache=tmp_path / "cache",
            progress=lambda phase, _: phases.append(phase),
        )

    made = hidden_of(load())
    [entry] = (tmp_path / "cache").iterdir()
    spoil(entry, model)
    again = hidden_of(load())
    load()

    assert phases.count("making weights small") == 2
    assert torch.equal(made, again)
    assert list((tmp_path / "cache").iterdir()) == [entry]


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond what a note takes; pytest's own output neither, so be brief."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_time_and_not_the_span(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = checkpoint("llama")

    with full_disk():
        engine = load_shard(directory, Span(1, 2), quantize="4bit", cache=tmp_path)

    assert hidden_of(engine).isfinite().all()
    assert "cannot be kept on disk" in caplog.text
    assert list(tmp_path.iterdir()) == []


# Plans and refusals


def test_a_plan_says_what_the_span_will_take(checkpoint: Any) -> None:
    directory = checkpoint("llama", hidden_size=128, intermediate_size=256)

    for quantize in ("none", "int8", "4bit"):
        planned = plan_shard(directory, Span(0, 4), quantize=quantize)
        engine = load_shard(directory, Span(0, 4), quantize=quantize)

        assert 0.95 <= engine.weights_bytes / planned.weights_bytes <= 1
        assert planned.kv_bytes_per_position == engine.kv_bytes_per_position
        assert planned.journal_bytes_per_position == engine.row_bytes
        assert planned.fits


def test_a_plan_needs_no_weights(checkpoint: Any, tmp_path: Path) -> None:
    shutil.copy(checkpoint("llama") / "config.json", tmp_path)

    planned = plan_shard(tmp_path, None, quantize="4bit")

    assert (planned.span, planned.n_blocks_that_fit) == (Span(0, 6), 6)


def test_what_does_not_fit_is_refused_with_what_would(checkpoint: Any) -> None:
    directory = checkpoint("llama")
    free = plan_shard(directory, Span(0, 6)).room_bytes
    assert free is not None
    block = (
        plan_shard(directory, Span(0, 2)).weights_bytes
        - plan_shard(directory, Span(0, 1)).weights_bytes
    )
    embedding = plan_shard(directory, Span(0, 1)).weights_bytes - block

    outline = Outline.of(AutoConfig.from_pretrained(directory), LlamaForCausalLM, Span(0, 6))
    for n_fit in (0, 1, 4):
        room = embedding + n_fit * block + block // 2
        tight = plan(
            outline, Quantization(), torch.float32, free_bytes=room + 100, kv_cache_bytes=100
        )
        assert (tight.n_blocks_that_fit, tight.fits) == (n_fit, False)
        would = f"blocks 0:{n_fit} would fit" if n_fit else "not one block"
        with pytest.raises(OutOfMemory) as caught:
            tight.require("cpu")
        assert would in caught.value.hint

    with pytest.raises(OutOfMemory, match="free beside"):
        load_shard(directory, Span(0, 6), kv_cache_bytes=2 * free)


def test_forms_that_cannot_be_had_are_refused(checkpoint: Any) -> None:
    directory = checkpoint("llama")
    with pytest.raises(UsageError, match="no way to quantize called '3bit'"):
        load_shard(directory, Span(0, 1), quantize="3bit")
    odd = checkpoint("llama", hidden_size=36, intermediate_size=36, num_attention_heads=2)
    with pytest.raises(UsageError, match="none of this model's weights can be made nf4"):
        load_shard(odd, Span(0, 1), quantize="4bit")


def test_without_the_extra_its_name_is_told(checkpoint: Any) -> None:
    script = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        is_hidden = name.partition(".")[0] == "bitsandbytes"
        return None if is_hidden else super().find_spec(name, path, target)

sys.meta_path[:] = [Without if found is PathFinder else found for found in sys.meta_path]
from node.engine import load_shard
from protocol.errors import ConfigError
from protocol.messages import Span
try:
    load_shard(Path(sys.argv[1]), Span(0, 1), quantize="4bit")
except ConfigError as error:
    print(error, error.hint)
"""
    told = subprocess.run(
        [sys.executable, "-c", script, str(checkpoint("llama"))],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    ).stdout

    assert "needs bitsandbytes, which is not installed" in told
    assert "pip install 'manyhands[quant]'" in told


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_halves_run_as_bfloat16_unless_told_otherwise(
    checkpoint: Any, tmp_path: Path, stored: str
) -> None:
    directory = Path(shutil.copytree(checkpoint("llama"), tmp_path / "half"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "dtype": stored}))

    assert load_shard(directory, Span(0, 1)).dtype == torch.bfloat16
    assert load_shard(directory, Span(0, 1), dtype="float16").dtype == torch.float16
