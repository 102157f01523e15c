"""Prove, before a span serves anybody, that it computes what the family's own code computes.

Two sessions of unequal length live a small life on random rows: cut into chunks and single rows,
side by side, with drafts rolled back, through the whole span and through an inner part of it.

1. Packed, by the family's own forward over our slabs and our attention, they must come as close
   to each session by itself, in one piece, with the library's own attention, as the dtype allows.
2. Run by the blocks alone, they must then equal 1. to the last bit: what a family does beside
   its blocks may be small on random rows. If they do not, the slower forward serves.
3. Where packing is out of the question, or failed 1., each session gets the library's own
   attention over a cache of its own, and must pass the same test. A family that fails this too
   is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf, isfinite

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from node.engine.attention import NAME, PROBE
from node.engine.family import longest_context
from node.engine.forward import ALL_ROWS, DirectForward, FamilyForward, GatedModel
from node.engine.kv_cache import LayoutProbe
from node.engine.kv_layout import KVLayout
from node.engine.packed_engine import PackedEngine
from node.engine.prepacked import plain_weights, prepack
from node.engine.pruning import find_blocks, text_config
from node.engine.session_cache import EmptyCache, SessionLayout
from node.engine.session_engine import SessionEngine
from node.engine.shard import ShardEngine, StepItem
from node.engine.weights import LoadedSpan, alone_with_transformers
from protocol.errors import BadModel, OutOfMemory
from protocol.profile import PLAIN

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
PROBE_ROWS = 2
LENGTHS = (9, 6)  # rows of the two sessions
STEPS: tuple[tuple[tuple[int, int, int], ...], ...] = (  # (session, first row, row to stop before)
    ((0, 0, 8),),
    ((0, 5, 7), (1, 0, 4)),  # the first comes back to row 5: the rows behind it were refused
    ((0, 7, 8), (1, 4, 5)),
    ((1, 5, 6),),
    ((0, 8, 9),),
)
Life = list[Tensor]  # hidden states, and logits where the model ends, of each session's rows


class _Unfit(Exception):
    """One way to run this span is wrong; another may be right."""


def proved_engine(loaded: LoadedSpan) -> ShardEngine:
    """The fastest engine for this span that passes the test.

    Raises:
        BadModel: none does.
        OutOfMemory: not even the test's few rows fit.
    """
    with alone_with_transformers(), torch.inference_mode():
        gated = GatedModel(loaded.model)
        try:
            return _proved_packed(loaded, gated)
        except _Unfit as failure:
            packed_failure = failure
        try:
            return _proved_per_session(loaded, gated)
        except _Unfit as failure:
            if wrong := _not_finite(loaded):
                raise BadModel(
                    f"the weights hold NaN or infinity in {wrong}, as {loaded.profile.dtype}",
                    hint="fetch the checkpoint again, or serve with another --dtype",
                ) from failure
            raise BadModel(
                f"unsupported architecture {loaded.architecture}: {failure}; "
                f"its sessions cannot be packed either: {packed_failure}",
                hint="docs/models.md lists the families that are served",
            ) from failure


def _not_finite(loaded: LoadedSpan) -> str:
    """The first tensor that holds NaN or infinity, by its name in the unsplit model; "" if none."""
    owner, attribute = find_blocks(loaded.model)
    path = next(name for name, module in loaded.model.named_modules() if module is owner)
    prefix = f"{path}.{attribute}." if path else f"{attribute}."
    for name, tensor in plain_weights(loaded.model):
        if not tensor.is_floating_point() or bool(tensor.float().isfinite().all()):
            continue
        if name.startswith(prefix):
            number, dot, rest = name.removeprefix(prefix).partition(".")
            return f"{prefix}{int(number) + loaded.span.start}{dot}{rest}"
        return str(name)
    return ""


def _proved_packed(loaded: LoadedSpan, gated: GatedModel) -> ShardEngine:
    if loaded.packing_obstacle:
        raise _Unfit(loaded.packing_obstacle)
    max_positions = longest_context(text_config(loaded.model))
    with _unfit_if_it_fails():
        truth = _true_lives(loaded, gated, attention="eager")
        prepack(loaded.model)
        layout = _kv_layout(loaded, gated)
        gated.attend(NAME)
        sound = PackedEngine(loaded, FamilyForward(gated), layout, max_positions)
        lives = _lives(sound, loaded)
        _compare(lives, truth, _exactness(loaded))
    try:
        direct = DirectForward(loaded.model, gated.block_forwards, max_positions)
        quick = PackedEngine(loaded, direct, layout, max_positions)
        return quick if _equal(_lives(quick, loaded), lives) else sound
    except Exception:  # the attempt is the test: any failure means that it is not so simple
        return sound


def _proved_per_session(loaded: LoadedSpan, gated: GatedModel) -> ShardEngine:
    max_positions = longest_context(text_config(loaded.model))
    with _unfit_if_it_fails():
        truth = _true_lives(loaded, gated, attention=gated.library_attention)
        prepack(loaded.model)
        probe = EmptyCache(config=loaded.model.config)
        _run_rows_once(loaded, gated, probe)
        layout = SessionLayout.read(probe, loaded.dtype, loaded.model.device)
        engine = SessionEngine(loaded, gated, layout, max_positions)
        _compare(_lives(engine, loaded), truth, _exactness(loaded))
    return engine


@contextmanager
def _unfit_if_it_fails() -> Iterator[None]:
    """Whatever an unforeseen model raises, it cannot be served this way."""
    try:
        yield
    except (_Unfit, OutOfMemory, torch.OutOfMemoryError):
        raise
    except Exception as failure:
        told = str(failure).strip().splitlines()
        raise _Unfit(f"{type(failure).__name__}: {told[0] if told else ''}") from failure


def _kv_layout(loaded: LoadedSpan, gated: GatedModel) -> KVLayout:
    probe = LayoutProbe(len(loaded.span), PROBE_ROWS)
    gated.attend(PROBE)
    _run_rows_once(loaded, gated, probe, packed=probe)
    latent = getattr(text_config(loaded.model), "kv_lora_rank", None) is not None
    return probe.layout(loaded.dtype, latent=latent)


def _run_rows_once(loaded: LoadedSpan, gated: GatedModel, cache: Cache, **kwargs: Cache) -> None:
    """A few rows through all blocks of the span, for what they leave in `cache`."""
    rows = _random_rows(loaded, PROBE_ROWS, seed=0, embeds=loaded.embeds)
    gated.run(
        rows,
        range(PROBE_ROWS),
        0,
        len(loaded.span),
        None,
        past_key_values=cache,
        use_cache=True,
        **kwargs,
    )


def _parts(loaded: LoadedSpan) -> list[tuple[int, int]]:
    """The span, and a part of it that starts behind its first block."""
    start, stop = loaded.span.start, loaded.span.stop
    inner = [(start + 1, max(stop - 1, start + 2))] if stop - start > 1 else []
    return [(start, stop), *inner]


def _lives(engine: ShardEngine, loaded: LoadedSpan) -> list[Life]:
    return [_life(engine, loaded, *part) for part in _parts(loaded)]


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


def _true_lives(loaded: LoadedSpan, gated: GatedModel, *, attention: str) -> list[Life]:
    """The same sessions, each by itself, in one piece, with the library's `attention`."""
    gated.attend(attention)
    lives = []
    for entry, exit in _parts(loaded):
        wanted = ALL_ROWS if exit == loaded.n_blocks else None
        inner = entry - loaded.span.start, exit - loaded.span.start
        told = [
            gated.run(rows, range(rows.shape[0]), *inner, wanted, use_cache=False)
            for rows in _sessions(loaded, entry)
        ]
        logits = [logits for _, logits in told if logits is not None]
        lives.append([*(hidden for hidden, _ in told), *logits])
    return lives


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


def _exactness(loaded: LoadedSpan) -> torch.dtype:
    """What may be expected of sums in another order: small weights are multiplied in a half."""
    return loaded.dtype if loaded.quantization == PLAIN else torch.bfloat16


def _compare(lives: list[Life], truth: list[Life], dtype: torch.dtype) -> None:
    """Relative error of the rows: of the worst in float32, of three rows in four else.

    In half precision a near-tie between experts may fall either way, and that row is another.

    Raises:
        _Unfit: it is too large.
    """
    errors = sorted(
        error
        for life, true_life in zip(lives, truth, strict=True)
        for got, expected in zip(life, true_life, strict=True)
        for error in _relative(got.float(), expected.float())
    )
    is_strict = dtype == torch.float32 or not isfinite(errors[-1])
    error = errors[-1] if is_strict else errors[len(errors) * 3 // 4]
    if error > TOLERANCE[dtype]:
        raise _Unfit(f"sessions side by side have a relative error of {error:.1e}")


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
