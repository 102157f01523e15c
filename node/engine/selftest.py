"""Prove, before a span serves anybody, that it computes what the family's own code computes.

The reference is the model's own forward with its own attention, each session by itself in one
piece. Against it run packed sessions of unequal length, cut into chunks and single rows, with
drafts rolled back, through the whole span and through an inner part of it, on random rows. The
quick forward is tried first, then the family's own; a model that fails both is refused.
"""

from typing import Any

import torch
from torch import Tensor

from node.engine.attention import NAME
from node.engine.family import longest_context
from node.engine.forward import ALL_ROWS, DirectForward, FamilyForward, Forward
from node.engine.kv_cache import KVLayout, ShapeProbe
from node.engine.pruning import text_config
from node.engine.shard import ShardEngine, StepItem
from node.engine.weights import LoadedSpan, quiet
from protocol.errors import BadModel

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
LENGTHS = (9, 6)  # rows of the two test sessions
DRAFTED = 5  # where the first session runs off, and comes back to


def proved_engine(loaded: LoadedSpan) -> ShardEngine:
    """The fastest engine for this span that passes the test.

    Raises:
        BadModel: none does.
    """
    with quiet(), torch.inference_mode():
        plain = [block.forward for block in _blocks(loaded)]
        family = FamilyForward(loaded.model)
        max_positions = longest_context(text_config(loaded.model))
        try:
            layout = _kv_layout(loaded, family)
        except Exception as error:  # whatever an unforeseen model raises, it cannot be served
            raise _refused(loaded, f"its own forward fails: {error}") from error
        complaint = "its parts have other names"
        for make in (
            lambda: DirectForward(loaded.model, plain, max_positions),
            lambda: family,
        ):
            try:
                forward: Forward = make()
                engine = ShardEngine(loaded, forward, layout, max_positions)
                worst = _worst_error(engine, family, loaded)
            except Exception as failure:  # the attempt is the test: any failure means "not so"
                complaint = f"{type(failure).__name__}: {failure}"
                continue
            if worst <= TOLERANCE[loaded.dtype]:
                return engine
            complaint = f"a relative error of {worst:.1e}"
        raise _refused(loaded, f"packed sessions do not compute what the model does ({complaint})")


def _blocks(loaded: LoadedSpan) -> Any:
    from node.engine.pruning import find_blocks

    owner, attribute = find_blocks(loaded.model)
    return getattr(owner, attribute)


def _kv_layout(loaded: LoadedSpan, family: FamilyForward) -> KVLayout:
    probe = ShapeProbe()
    rows = _random_rows(loaded, 2, seed=0, embeds=loaded.embeds)
    _reference(family, rows, 0, len(loaded.span), heads=False, probe=probe)
    if len(probe.shapes) != 1:
        raise BadModel(f"its blocks cache {len(probe.shapes)} shapes of keys and values")
    key_heads, key_dim, value_heads, value_dim = probe.shapes.pop()
    text = text_config(loaded.model)
    return KVLayout(
        key_heads,
        key_dim,
        value_heads,
        value_dim,
        dtype=loaded.dtype,
        device=loaded.model.device,
        latent=getattr(text, "kv_lora_rank", None) is not None,
    )


def _worst_error(engine: ShardEngine, family: FamilyForward, loaded: LoadedSpan) -> float:
    start, stop = engine.span.start, engine.span.stop
    parts = [(start, stop)]
    if stop - start > 1:
        parts.append((start + 1, max(stop - 1, start + 2)))
    return max(_error_through(engine, family, loaded, *part) for part in parts)


def _error_through(
    engine: ShardEngine, family: FamilyForward, loaded: LoadedSpan, entry: int, exit: int
) -> float:
    """The worst relative error of blocks `[entry, exit)` over a small life of two sessions."""
    heads = exit == engine.n_blocks
    inner = entry - engine.span.start, exit - engine.span.start
    rows = [
        _random_rows(loaded, length, seed, embeds=entry == 0) for seed, length in enumerate(LENGTHS)
    ]
    expected = [_reference(family, session, *inner, heads=heads) for session in rows]
    leases = [engine.open(min(16, engine.max_positions), entry=entry, exit=exit) for _ in LENGTHS]
    worst = 0.0

    def step(*runs: tuple[int, int, int]) -> None:
        """Each run is (session, first row, row to stop before)."""
        nonlocal worst
        items = [
            StepItem(leases[s], first, rows[s][first:last], last - first if heads else 0)
            for s, first, last in runs
        ]
        for (s, first, last), result in zip(runs, engine.step(items), strict=True):
            hidden, logits = expected[s]
            worst = max(worst, _relative(result.hidden, hidden[first:last]))
            if heads:
                assert result.logits is not None
                assert logits is not None
                worst = max(worst, _relative(result.logits, logits[first:last]))

    step((0, 0, DRAFTED))
    engine.step([StepItem(leases[0], DRAFTED, rows[1][:3])])  # drafts that will be refused
    step((0, DRAFTED, 7), (1, 0, 4))
    step((0, 7, 8), (1, 4, 5))
    step((1, 5, 6))
    step((0, 8, 9))
    return worst


def _reference(
    family: FamilyForward,
    rows: Tensor,
    entry: int,
    exit: int,
    *,
    heads: bool,
    probe: ShapeProbe | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One session in one piece, with the library's plainest attention."""
    family.model.set_attn_implementation("eager")
    try:
        wanted = ALL_ROWS if heads else None
        cache = ShapeProbe() if probe is None else probe  # an empty cache is false
        return family.run(rows, cache, range(rows.shape[0]), entry, exit, wanted)
    finally:
        family.model.set_attn_implementation(NAME)


def _random_rows(loaded: LoadedSpan, count: int, seed: int, *, embeds: bool) -> Tensor:
    text, device = text_config(loaded.model), loaded.model.device
    chance = torch.Generator().manual_seed(seed)
    if embeds:
        return torch.randint(0, text.vocab_size, (count,), generator=chance).to(device)
    return torch.randn(count, text.hidden_size, generator=chance).to(device, loaded.dtype)


def _relative(got: Tensor, expected: Tensor) -> float:
    difference = (got.float() - expected.float()).abs().max()
    error = float(difference / expected.float().abs().max().clamp_min(1e-30))
    return error if error == error else float("inf")


def _refused(loaded: LoadedSpan, reason: str) -> BadModel:
    return BadModel(
        f"unsupported architecture {loaded.architecture}: {reason}",
        hint="Llama, Mistral, Qwen2, Qwen3 and their kin are served",
    )
