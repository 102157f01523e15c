"""Adapters run as PEFT runs them: alone, many in one batch, over chains, loaded and unloaded."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from node.engine import ShardEngine, StepItem, load_shard
from protocol.errors import PeerRefused
from protocol.messages import Span
from tests.adapters import merged, strip_whole_weights, write_adapter
from tests.checkpoints import FAMILIES

IDS = [1, 40, 77, 123, 9, 250, 33, 180, 66, 12, 5, 301, 99]
PROMPTS = [IDS, IDS[3:], IDS[:5] * 2, IDS[::-1]]
SPANS = (Span(0, 2), Span(2, 3), Span(3, 6))
CHOICES: tuple[dict[str, Any], ...] = (
    {"rank": 4, "lora_alpha": 16},
    {"rank": 8, "lora_alpha": 8, "use_rslora": True, "layers_to_transform": [0, 3, 5]},
    {
        "rank": 3,
        "lora_alpha": 6,
        "rank_pattern": {"3.self_attn.q_proj": 5, "v_proj": 2},
        "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 9, r"layers\.3\.mlp\.down_proj": 1},
        "target_modules": r".*\.(q_proj|v_proj|down_proj)",
    },
)


@dataclass
class World:
    """A checkpoint, three adapters of it and PEFT's logits of a prompt with each, and with none."""

    checkpoint: Path
    adapters: list[Path]
    models: list[Any]

    @torch.inference_mode()
    def logits(self, which: int, ids: list[int]) -> Tensor:
        logits: Tensor = self.models[which](torch.tensor([ids])).logits[0]
        return logits

    def chain(self) -> tuple[list[ShardEngine], list[str]]:
        engines = [load_shard(self.checkpoint, span, dtype="float32") for span in SPANS]
        names = [""]
        for number, directory in enumerate(self.adapters):
            told = {engine.adapters.load(directory, f"a{number}") for engine in engines}
            assert len(told) == 1, "every hop gives an adapter the same digest"
            names.append(told.pop())
        return engines, names


@pytest.fixture(scope="module")
def world(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., World]:
    made: dict[str, World] = {}

    def make(family: str, choices: tuple[dict[str, Any], ...] = CHOICES[:1] * 3) -> World:
        if family not in made:
            base, home = checkpoint(family), tmp_path_factory.mktemp("adapters")
            adapters = [
                write_adapter(home / str(seed), base, seed=seed, **dict(choice))
                for seed, choice in enumerate(choices)
            ]
            models = [merged(base, None), *(merged(base, adapter) for adapter in adapters)]
            made[family] = World(base, adapters, models)
        return made[family]

    return make


def feed(engines: list[ShardEngine], *runs: tuple[list[Any], int, list[int]]) -> list[Tensor]:
    """(leases, start, ids) of each session through the chain, packed; logits of all rows."""
    rows = [torch.tensor(ids) for _, _, ids in runs]
    results: list[Any] = []
    for number, engine in enumerate(engines):
        items = [
            StepItem(leases[number], start, row, len(row))
            for (leases, start, _), row in zip(runs, rows, strict=True)
        ]
        results = engine.step(items)
        rows = [result.hidden for result in results]
    return [result.logits for result in results]


def open_all(engines: list[ShardEngine], adapter: str) -> list[Any]:
    return [engine.open(96, adapter=adapter) for engine in engines]


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


QUICK = ("llama", "gemma2", "gpt2", "deepseek_v3", "falcon")


@pytest.mark.parametrize(
    "family",
    [*QUICK, *(pytest.param(f, marks=pytest.mark.slow) for f in sorted({*FAMILIES} - {*QUICK}))],
)
def test_mixed_sessions_over_a_chain_give_pefts_logits(world: Any, family: str) -> None:
    it = world(family, CHOICES if family == "llama" else CHOICES[:1] * 3)
    engines, names = it.chain()
    expected = [it.logits(which, ids) for which, ids in enumerate(PROMPTS)]
    for which in (1, 2, 3):
        assert error(expected[which], it.logits(0, PROMPTS[which])) > 0.01, "it changes nothing"
    leases = [open_all(engines, name) for name in names]

    first = feed(engines, *((leases[s], 0, ids[:4]) for s, ids in enumerate(PROMPTS)))
    feed(engines, (leases[1], 4, [7, 8]))  # refused drafts
    mixed = [(leases[s], 4, PROMPTS[s][4:5]) for s in (2, 0, 3, 1)]
    second = dict(zip((2, 0, 3, 1), feed(engines, *mixed), strict=True))
    for session, ids in enumerate(PROMPTS):
        third = feed(engines, (leases[session], 5, ids[5:]))[0]
        got = torch.cat([first[session], second[session], third])

        assert error(got, expected[session]) <= 1e-5


def test_sessions_that_share_an_adapter_and_lie_apart_in_a_batch_get_its_rows(world: Any) -> None:
    it = world("llama", CHOICES)
    engines, names = it.chain()
    order = (1, 0, 1, 2, 1)
    sessions = [(open_all(engines, names[which]), 0, IDS[n:]) for n, which in enumerate(order)]

    got = feed(engines, *sessions)

    for number, which in enumerate(order):
        assert error(got[number], it.logits(which, IDS[number:])) <= 1e-5


def test_logits_of_some_rows_are_adapted_at_an_adapted_head(
    checkpoint: Any, tmp_path: Path
) -> None:
    base = checkpoint("qwen3")
    adapter = write_adapter(tmp_path / "a", base, target_modules=["q_proj", "lm_head"], rank=2)
    strip_whole_weights(adapter)
    engine = load_shard(base, None, dtype="float32")
    name = engine.adapters.load(adapter, "head")
    plain, adapted = engine.open(32), engine.open(32, adapter=name)

    results = engine.step(
        [StepItem(plain, 0, torch.tensor(IDS), 2), StepItem(adapted, 0, torch.tensor(IDS), 3)]
    )

    for result, model, n in zip(
        results, (merged(base, None), merged(base, adapter)), (2, 3), strict=True
    ):
        with torch.inference_mode():
            expected = model(torch.tensor([IDS])).logits[0, -n:]
        assert result.logits is not None
        assert error(result.logits, expected) <= 1e-5


def test_a_chain_writes_pefts_greedy_text(world: Any) -> None:
    it = world("llama", CHOICES)
    engines, names = it.chain()
    n_tokens = 64
    expected = it.models[1].generate(
        torch.tensor([IDS]), max_new_tokens=n_tokens, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[0, len(IDS) :].tolist()  # fmt: skip
    assert len(set(expected)) >= 30, "a text that repeats itself proves little"
    leases = open_all(engines, names[1])

    token, ids = int(feed(engines, (leases, 0, IDS))[0][-1].argmax()), []
    for position in range(len(IDS), len(IDS) + n_tokens):
        ids.append(token)
        token = int(feed(engines, (leases, position, [token]))[0][-1].argmax())

    assert ids == expected


@pytest.mark.parametrize("quantize", ["4bit", "int8"])
def test_adapters_of_small_weights_are_qlora(world: Any, quantize: str) -> None:
    pytest.importorskip("bitsandbytes")
    it = world("llama", CHOICES)
    engine = load_shard(it.checkpoint, None, dtype="float32", quantize=quantize)
    small: dict[str, Any] = (
        {"quantization_config": in_4_bits()}
        if quantize == "4bit"
        else {"weights": in_8_bits(engine)}
    )
    name = engine.adapters.load(it.adapters[0], "a")
    plain, adapted = engine.open(32), engine.open(32, adapter=name)
    rows = torch.tensor(IDS)

    results = engine.step([StepItem(lease, 0, rows, len(IDS)) for lease in (plain, adapted)])

    for result, adapter in zip(results, (None, it.adapters[0]), strict=True):
        whole = merged(it.checkpoint, adapter, **small)
        with torch.inference_mode():
            expected = whole(rows[None]).logits[0].float()
        assert result.logits is not None
        assert error(result.logits, expected) <= 1e-4


@torch.inference_mode()
def in_8_bits(engine: ShardEngine) -> dict[str, Tensor]:
    """What the small weights of a whole model stand for: what they make of the unit vectors."""
    return {
        f"{path}.weight": module(torch.eye(module.in_features)).T.contiguous()
        for path, module in engine.adapters._loaded.model.named_modules()
        if ".layers." in path and isinstance(getattr(module, "in_features", None), int)
    }


def in_4_bits() -> Any:
    """The library's own quantization."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )


def test_an_unloaded_adapter_serves_its_sessions_to_the_end_and_then_leaves_no_trace(
    world: Any,
) -> None:
    it = world("llama", CHOICES)
    engine = load_shard(it.checkpoint, SPANS[0], dtype="float32")
    before = engine.step([StepItem(engine.open(16), 0, torch.tensor(IDS))])[0].hidden
    name = engine.adapters.load(it.adapters[0], "a")
    lease = engine.open(16, adapter=name)
    with_it = engine.step([StepItem(lease, 0, torch.tensor(IDS))])[0].hidden

    engine.adapters.unload(name)

    assert engine.adapters.names == ()
    with pytest.raises(PeerRefused, match="is not here"):
        engine.open(16, adapter=name)
    assert torch.equal(engine.step([StepItem(lease, 0, torch.tensor(IDS))])[0].hidden, with_it)
    assert not torch.equal(with_it, before)
    assert engine.adapters.n_wrapped == 2 * 4
    lease.close()
    gc.collect()
    assert (engine.adapters.n_bytes, engine.adapters.n_wrapped) == (0, 0)
    after = engine.step([StepItem(engine.open(16), 0, torch.tensor(IDS))])[0].hidden
    assert torch.equal(after, before)


def test_only_layers_of_the_span_are_read(world: Any) -> None:
    it = world("llama", CHOICES)
    engine = load_shard(it.checkpoint, SPANS[1], dtype="float32")

    engine.adapters.load(it.adapters[0], "all")
    all_layers = engine.adapters.n_bytes
    engine.adapters.load(it.adapters[1], "partial")  # of the layers 0, 3 and 5

    per_layer = 4 * 4 * (64 + 64 + 64 + 32 + 2 * (64 + 128))  # rank 4, float32; q, v, gate, down
    assert all_layers == per_layer
    assert engine.adapters.n_bytes == per_layer
