"""Prove, before a span serves anybody, that it computes what the family's own code computes.

The reference is the model's own forward with its own attention, each session by itself in one
piece. Against it run packed sessions of unequal length, cut into chunks and single rows, with
drafts rolled back, through the whole span and through an inner part of it, on random rows. The
quick forward is tried first, then the family's own; a model that fails both is refused.
"""

from collections.abc import Callable
from math import inf, isfinite

import torch
from torch import Tensor

from node.engine.attention import NAME
from node.engine.family import longest_context
from node.engine.forward import ALL_ROWS, DirectForward, FamilyForward, Forward
from node.engine.kv_cache import KVLayout, ShapeProbe
from node.engine.pruning import find_blocks, text_config
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
        owner, attribute = find_blocks(loaded.model)
        blocks = [block.forward for block in getattr(owner, attribute)]
        family = FamilyForward(loaded.model)
        max_positions = longest_context(text_config(loaded.model))
        try:
            layout = _kv_layout(loaded, family)
        except Exception as error:  # whatever an unforeseen model raises, it cannot be served
            raise _refused(loaded, f"its own forward fails: {error}") from error
        candidates: tuple[Callable[[], Forward], ...] = (
            lambda: DirectForward(loaded.model, blocks, max_positions),
            lambda: family,
        )
        complaint = ""
        for candidate in candidates:
            try:
                engine = ShardEngine(loaded, candidate(), layout, max_positions)
                distance = _distance(engine, family, loaded)
            except Exception as error:  # the attempt is the test: any failure means "not so"
                complaint = f"{type(error).__name__}: {error}"
                continue
            if distance <= TOLERANCE[loaded.dtype]:
                return engine
            complaint = f"a relative error of {distance:.1e}"
        raise _refused(loaded, f"packed sessions do not compute what the model does ({complaint})")


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


def _distance(engine: ShardEngine, family: FamilyForward, loaded: LoadedSpan) -> float:
    """How far the engine is from the family: in float32 its worst row, else three rows of four.

    In half precision a near-tie between experts may fall either way, and that row is another.
    """
    start, stop = engine.span.start, engine.span.stop
    parts = [(start, stop)]
    if stop - start > 1:
        parts.append((start + 1, max(stop - 1, start + 2)))
    errors = sorted(
        error for part in parts for error in _errors_through(engine, family, loaded, *part)
    )
    if loaded.dtype == torch.float32 or not isfinite(errors[-1]):
        return errors[-1]
    return errors[len(errors) * 3 // 4]


def _errors_through(
    engine: ShardEngine, family: FamilyForward, loaded: LoadedSpan, entry: int, exit: int
) -> list[float]:
    """Relative errors of the rows of blocks `[entry, exit)` in a small life of two sessions."""
    heads = exit == engine.n_blocks
    inner = entry - engine.span.start, exit - engine.span.start
    rows = [
        _random_rows(loaded, length, seed, embeds=entry == 0) for seed, length in enumerate(LENGTHS)
    ]
    expected = [_reference(family, session, *inner, heads=heads) for session in rows]
    leases = [engine.open(min(16, engine.max_positions), entry=entry, exit=exit) for _ in LENGTHS]
    errors: list[float] = []

    def step(*runs: tuple[int, int, int]) -> None:
        """Each run is (session, first row, row to stop before)."""
        items = [
            StepItem(leases[s], first, rows[s][first:last], last - first if heads else 0)
            for s, first, last in runs
        ]
        for (s, first, last), result in zip(runs, engine.step(items), strict=True):
            hidden, logits = expected[s]
            errors.extend(_relative(result.hidden, hidden[first:last]))
            if heads:
                assert result.logits is not None
                assert logits is not None
                errors.extend(_relative(result.logits, logits[first:last]))

    step((0, 0, DRAFTED))
    engine.step([StepItem(leases[0], DRAFTED, rows[1][:3])])  # drafts that will be refused
    step((0, DRAFTED, 7), (1, 0, 4))
    step((0, 7, 8), (1, 4, 5))
    step((1, 5, 6))
    step((0, 8, 9))
    return errors


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


def _relative(got: Tensor, expected: Tensor) -> list[float]:
    """Of each row, by its length; what is no number is infinitely wrong."""
    got, expected = got.float(), expected.float()
    errors = (got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    return [error if isfinite(error) else inf for error in errors.tolist()]


def _refused(loaded: LoadedSpan, reason: str) -> BadModel:
    return BadModel(
        f"unsupported architecture {loaded.architecture}: {reason}",
        hint="Llama, Mistral, Qwen2, Qwen3 and their kin are served",
    )
