"""Prove, before a span serves anybody, that it computes what the family's own code computes.

Two sessions of unequal length live a small life on random rows: cut into chunks and single rows,
packed together, with drafts rolled back, through the whole span and through an inner part of it.

1. Run by the family's own forward over our slabs and our attention, they must come as close to
   each session by itself, in one piece, with the library's own attention, as the dtype allows.
2. Run by the blocks alone, they must then equal 1. to the last bit: what a family does beside
   its blocks may be small on random rows. If they do not, the slower forward serves.
"""

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
LENGTHS = (9, 6)  # rows of the two sessions
STEPS: tuple[tuple[tuple[int, int, int], ...], ...] = (  # (session, first row, row to stop before)
    ((0, 0, 8),),
    ((0, 5, 7), (1, 0, 4)),  # the first comes back to row 5: the rows behind it were refused
    ((0, 7, 8), (1, 4, 5)),
    ((1, 5, 6),),
    ((0, 8, 9),),
)
Life = list[Tensor]  # hidden states, and logits where the model ends, of each session's rows


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

        def engine_with(forward: Forward) -> ShardEngine:
            return ShardEngine(loaded, forward, layout, max_positions)

        try:
            layout = _kv_layout(loaded, family)
            sound = engine_with(family)
            parts = _parts(loaded)
            lives = [_life(sound, loaded, *part) for part in parts]
            truth = [_true_life(family, loaded, *part) for part in parts]
            error = _distance(lives, truth, loaded.dtype)
        except Exception as failure:  # whatever an unforeseen model raises, it cannot be served
            raise _refused(loaded, f"{type(failure).__name__}: {failure}") from failure
        if error > TOLERANCE[loaded.dtype]:
            raise _refused(loaded, f"packed sessions have a relative error of {error:.1e}")
        try:
            quick = engine_with(DirectForward(loaded.model, blocks, max_positions))
            if _equal([_life(quick, loaded, *part) for part in parts], lives):
                return quick
        except Exception:  # the attempt is the test: any failure means that it is not so simple
            return sound
        return sound


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


def _parts(loaded: LoadedSpan) -> list[tuple[int, int]]:
    """The span, and a part of it that starts behind its first block."""
    start, stop = loaded.span.start, loaded.span.stop
    inner = [(start + 1, max(stop - 1, start + 2))] if stop - start > 1 else []
    return [(start, stop), *inner]


def _life(engine: ShardEngine, loaded: LoadedSpan, entry: int, exit: int) -> Life:
    """The two sessions through blocks `[entry, exit)`, step by step."""
    heads = exit == engine.n_blocks
    rows = _sessions(loaded, entry)
    leases = [engine.open(max(LENGTHS), entry=entry, exit=exit) for _ in LENGTHS]
    hidden: list[dict[int, Tensor]] = [{} for _ in LENGTHS]  # by position; the last run counts
    logits: list[dict[int, Tensor]] = [{} for _ in LENGTHS]
    for step in STEPS:
        items = [
            StepItem(leases[s], first, rows[s][first:stop], stop - first if heads else 0)
            for s, first, stop in step
        ]
        for (s, first, stop), result in zip(step, engine.step(items), strict=True):
            hidden[s].update(zip(range(first, stop), result.hidden, strict=True))
            if result.logits is not None:
                logits[s].update(zip(range(first, stop), result.logits, strict=True))
    told = [*hidden, *logits] if heads else hidden
    return [torch.stack([rows_at[p] for p in sorted(rows_at)]) for rows_at in told]


def _true_life(family: FamilyForward, loaded: LoadedSpan, entry: int, exit: int) -> Life:
    """The same sessions, each by itself, in one piece."""
    heads = exit == loaded.n_blocks
    inner = entry - loaded.span.start, exit - loaded.span.start
    told = [_reference(family, rows, *inner, heads=heads) for rows in _sessions(loaded, entry)]
    hidden = [hidden for hidden, _ in told]
    return [*hidden, *(logits for _, logits in told if logits is not None)]


def _reference(
    family: FamilyForward,
    rows: Tensor,
    entry: int,
    exit: int,
    *,
    heads: bool,
    probe: ShapeProbe | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One session with the library's plainest attention."""
    family.model.set_attn_implementation("eager")
    try:
        wanted = ALL_ROWS if heads else None
        cache = ShapeProbe() if probe is None else probe  # an empty cache is false
        return family.run(rows, cache, range(rows.shape[0]), entry, exit, wanted)
    finally:
        family.model.set_attn_implementation(NAME)


def _sessions(loaded: LoadedSpan, entry: int) -> list[Tensor]:
    return [
        _random_rows(loaded, length, seed, embeds=entry == 0) for seed, length in enumerate(LENGTHS)
    ]


def _random_rows(loaded: LoadedSpan, count: int, seed: int, *, embeds: bool) -> Tensor:
    text, device = text_config(loaded.model), loaded.model.device
    chance = torch.Generator().manual_seed(seed)
    if embeds:
        return torch.randint(0, text.vocab_size, (count,), generator=chance).to(device)
    return torch.randn(count, text.hidden_size, generator=chance).to(device, loaded.dtype)


def _distance(lives: list[Life], truth: list[Life], dtype: torch.dtype) -> float:
    """Relative error of the rows: of the worst in float32, of three rows in four else.

    In half precision a near-tie between experts may fall either way, and that row is another.
    """
    errors = sorted(
        error
        for life, true_life in zip(lives, truth, strict=True)
        for got, expected in zip(life, true_life, strict=True)
        for error in _relative(got.float(), expected.float())
    )
    if dtype == torch.float32 or not isfinite(errors[-1]):
        return errors[-1]
    return errors[len(errors) * 3 // 4]


def _relative(got: Tensor, expected: Tensor) -> list[float]:
    """Of each row, by its length; what is no number is infinitely wrong."""
    errors = (got - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-30)
    return [error if isfinite(error) else inf for error in errors.tolist()]


def _equal(lives: list[Life], others: list[Life]) -> bool:
    return all(
        torch.equal(one, other)
        for life, other_life in zip(lives, others, strict=True)
        for one, other in zip(life, other_life, strict=True)
    )


def _refused(loaded: LoadedSpan, reason: str) -> BadModel:
    return BadModel(
        f"unsupported architecture {loaded.architecture}: {reason}",
        hint="Llama, Mistral, Qwen2, Qwen3 and their kin are served",
    )
