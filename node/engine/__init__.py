"""The shard engine: one span of a model, loaded and proved, running rows of many sessions.

`load_shard` reads a span and answers a `ShardEngine`; `engine.open` gives a session room,
`engine.step` runs rows. Importing this window loads no torch; calling `load_shard` does.
"""

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.engine.heap import trim_heap
from node.share import Share
from protocol.errors import UsageError
from protocol.messages import Span

if TYPE_CHECKING:
    from node.engine.lease import KVRows, Lease
    from node.engine.room import Plan
    from node.engine.shard import ShardEngine, StepItem, StepResult

_HOMES = {
    "KVRows": "node.engine.lease",
    "Lease": "node.engine.lease",
    "Plan": "node.engine.room",
    "ShardEngine": "node.engine.shard",
    "StepItem": "node.engine.shard",
    "StepResult": "node.engine.shard",
}


def load_shard(
    directory: Path,
    span: Span | None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    quantize: str = "none",
    cache: Path | None = None,
    kv_cache_bytes: int = 0,
    share: Share | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> "ShardEngine":
    """Load `span` of the checkpoint in `directory` (all of it when None) and prove it right.

    The ends come with it: the embedding when it starts the model, norm and head when it ends it.
    Args:
        dtype: what to compute in; `auto` is as stored, or the half this device is good at.
        device: what torch calls it; several with commas, then the blocks are laid out over them.
        quantize: `none`, `int8` or `4bit`, for the linear maps of the blocks.
        cache: a directory where quantized spans are kept for the next time.
        kv_cache_bytes: what must stay free beside the weights, for sessions.
        share: what this process may take of the device, each of several; None: what is free.
        progress: called with a phase (configuration, weights, self-test) and a fraction of it.

    Raises:
        BadModel: the checkpoint is missing, damaged, incomplete, or of a kind we cannot serve.
        UsageError: the span lies outside the model; the dtype or device does not exist.
        ConfigError: the extra that quantizes is not installed.
        OutOfMemory: the span does not fit this machine or device.
    """
    with _no_garbage_collection():
        from node.engine.devices import spread
        from node.engine.large_pages import into_large_pages
        from node.engine.room import hold_to
        from node.engine.selftest import proved_engine
        from node.engine.weights import Wanted, load_span

        devices = device.split(",")
        if len(devices) > 1 and quantize != "none":
            raise UsageError(
                "small weights are served on one device", hint="--device cuda:N names it"
            )
        hold_to(device, share)
        wanted = Wanted(
            dtype=dtype,
            device=device if len(devices) == 1 else "cpu",  # whence they are laid out
            share=share if len(devices) == 1 else None,
            quantize=quantize,
            cache=cache,
            kv_cache_bytes=kv_cache_bytes,
        )
        loaded = load_span(directory, span, wanted, progress=progress)
        if len(devices) > 1:
            spread(loaded.model, devices, share)
        if progress:
            progress("self-test", 0.0)
        engine = proved_engine(loaded)
        into_large_pages(loaded.model)
        trim_heap()
        if progress:
            progress("self-test", 1.0)
    return engine


def plan_shard(
    directory: Path,
    span: Span | None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    quantize: str = "none",
    kv_cache_bytes: int = 0,
    headroom: float = 1.0,
    share: Share | None = None,
) -> "Plan":
    """What `load_shard` would take, and whether it fits; needs config.json and no weights.

    `headroom` is the part of the free memory to count on, `share` what may be taken of all.

    Raises:
        BadModel: the configuration is missing, or of a kind we cannot serve.
        UsageError, ConfigError: as for `load_shard`.
    """
    with _no_garbage_collection():
        from node.engine.weights import Wanted, plan_span

        wanted = Wanted(
            dtype=dtype,
            device=device,
            quantize=quantize,
            kv_cache_bytes=kv_cache_bytes,
            share=share,
        )
        return plan_span(directory, span, wanted, headroom)


def span_tensors(directory: Path, span: Span, stored: Iterable[str]) -> frozenset[str]:
    """Which of a checkpoint's `stored` tensors `span` needs; needs config.json and no weights.

    Raises:
        BadModel, UsageError: as for `load_shard`.
    """
    with _no_garbage_collection():
        from node.engine import weights

        return weights.span_tensors(directory, span, stored)


def release_memory() -> None:
    """Give back what an engine took that nobody holds any more.

    What surrounds an engine refers to itself here and there, and whoever loads the next one freezes
    all of that: it would stay for ever.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim_heap()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Importing torch and transformers makes a million objects that stay: collecting among them
    took a fifth of a node's start (5.4 s of CPU to 4.1 s). Frozen, they cost later rounds nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


__all__ = [
    "KVRows",
    "Lease",
    "Plan",
    "ShardEngine",
    "Span",
    "StepItem",
    "StepResult",
    "load_shard",
    "plan_shard",
    "release_memory",
    "span_tensors",
]
