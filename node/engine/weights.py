"""Loading one span of a checkpoint: its tensors, and no others, into the family's own modules.

In: a directory that holds at least the weights files of the span, and the form its weights are to
be kept in. Out: a `LoadedSpan`, or a typed error that names the cause. Modelling code is the
transformers library's; code in a checkpoint is never run, the network never asked. Tensors are
read one by one into memory of their own, never mapped: a file that changes later changes nothing.
What the span computes is proved in `selftest.py`.
"""

import logging
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from node.engine import room
from node.engine.checkpoint import Checkpoint, open_checkpoint
from node.engine.family import check_family, packing_obstacle, span_class
from node.engine.outline import Outline
from node.engine.pruning import compact
from node.engine.quantization import Quantization, choose
from node.engine.reading import Progress, Reader, first_line
from node.engine.text_part import text_config, text_names
from node.share import Share
from protocol.errors import BadModel, OutOfMemory, UsageError
from protocol.messages import Span
from protocol.profile import PLAIN, Profile
from protocol.tensor_table import TensorEntry

log = logging.getLogger(__name__)
_TRANSFORMERS = threading.RLock()

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class LoadedSpan:
    """A pruned and compacted model, and what it was cut from."""

    model: Any
    architecture: str
    span: Span
    n_blocks: int
    embeds: bool
    heads: bool
    dtype: torch.dtype
    quantization: str = PLAIN
    packing_obstacle: str = ""
    """Why its sessions cannot be packed, as far as its configuration tells."""

    @property
    def profile(self) -> Profile:
        return Profile.of(str(self.dtype).removeprefix("torch."), self.quantization)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a span is to be loaded. `cache`: where small weights are kept, None for nowhere;
    `kv_cache_bytes`: what must stay free beside it, for sessions; `share`: of the device, at most.
    """

    dtype: str = "auto"
    device: str = "cpu"
    quantize: str = "none"
    cache: Path | None = None
    kv_cache_bytes: int = 0
    share: Share | None = None


def load_span(
    directory: Path, span: Span | None, wanted: Wanted, *, progress: Progress | None = None
) -> LoadedSpan:
    """Read `span` (the whole model when None), with the ends it touches.

    Raises:
        BadModel: the checkpoint is missing, damaged, incomplete, or of a kind we cannot serve.
        UsageError: the span lies outside the model; the dtype or device does not exist.
        ConfigError: the extra that makes weights small is not installed.
        OutOfMemory: the span does not fit this machine or device; says what would.
    """
    report = progress or (lambda phase, fraction: None)
    report("configuration", 0.0)
    with alone_with_transformers():
        checkpoint = open_checkpoint(directory)
        outline, quantization, dtype = _outlined(checkpoint, span, wanted)
        _check_device(wanted.device)
        selection = checkpoint.select(outline)
        _check_room(selection.entries, outline, quantization, dtype, wanted)
        report("weights", 0.0)
        reader = Reader(checkpoint, outline, quantization, dtype, wanted.device)
        model = reader.read(selection, wanted.cache, report)
        compact(model, outline.span)
    report("weights", 1.0)
    return LoadedSpan(
        model,
        checkpoint.architecture,
        outline.span,
        outline.n_blocks,
        embeds=outline.embeds,
        heads=outline.heads,
        dtype=dtype,
        quantization=quantization.name,
        packing_obstacle=packing_obstacle(outline.config, type(outline.whole)),
    )


def plan_span(
    directory: Path, span: Span | None, wanted: Wanted, headroom: float = 1.0
) -> room.Plan:
    """What a span would take here, from config.json alone: no weights need to have been fetched.

    `headroom` is the part of the free memory to count on.

    Raises:
        BadModel, UsageError, ConfigError: as for loading it.
    """
    with alone_with_transformers():
        checkpoint = open_checkpoint(directory, weights=False)
        outline, quantization, dtype = _outlined(checkpoint, span, wanted)
        return _plan(outline, quantization, dtype, wanted, headroom)


def span_tensors(directory: Path, span: Span, stored: Iterable[str]) -> frozenset[str]:
    """Which of a checkpoint's tensors a span needs, by the names they are stored under.

    Raises:
        BadModel, UsageError: as for loading it.
    """
    with alone_with_transformers():
        bare = open_checkpoint(directory, weights=False)
        checkpoint = replace(bare, files=dict.fromkeys(stored, ""))
        config = read_config(checkpoint)
        outline = Outline.of(config, span_class(config, checkpoint.architecture), span)
        names = text_names(checkpoint.files)
        return frozenset(at for name, at in names.items() if outline.needs(name))


def _outlined(
    checkpoint: Checkpoint, span: Span | None, wanted: Wanted
) -> tuple[Outline, Quantization, torch.dtype]:
    config = read_config(checkpoint)
    quantization = choose(config, checkpoint.architecture, wanted.quantize)
    architecture = span_class(config, checkpoint.architecture)
    dtype = _choose_dtype(wanted, config, quantization)
    return Outline.of(config, architecture, span), quantization, dtype


@contextmanager
def alone_with_transformers() -> Iterator[None]:
    """The library to this thread alone, and off stderr; what matters we say ourselves.

    While it makes a model it replaces functions of its own and of torch and puts back what it
    found: of two threads the later one leaves the other's replacements behind for good, such as
    a `tie_weights` that does nothing. Its verbosity and Python's warnings are no better.
    """
    from transformers.utils import logging

    with _TRANSFORMERS, _off_stderr(logging):
        yield


@contextmanager
def _off_stderr(logging: Any) -> Iterator[None]:
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            checkpoint.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises whatever its many config classes raise
        raise BadModel(
            f"config.json describes no model we can serve ({checkpoint.architecture}): "
            f"{first_line(error)}",
            hint="only architectures of the transformers library are served, never remote code",
        ) from error
    config = text_config(config, text_names(checkpoint.files))
    check_family(config, checkpoint.architecture)
    return config


def _choose_dtype(wanted: Wanted, config: Any, quantization: Quantization) -> torch.dtype:
    """As stored, unless a half is wanted and the stored one is not the one this device is good at.

    What is made small computes in a half: nobody who asks for 4 bits wants rows of 32.
    """
    if wanted.dtype != "auto":
        if wanted.dtype not in DTYPES:
            raise UsageError(
                f"no dtype {wanted.dtype!r} to serve in", hint=f"one of auto, {', '.join(DTYPES)}"
            )
        return DTYPES[wanted.dtype]
    stored = config.get_text_config(decoder=True).dtype or config.dtype or torch.float32
    stored = DTYPES.get(str(stored).removeprefix("torch."), torch.bfloat16)
    if stored == torch.float32 and quantization == Quantization():
        return stored
    return _half(wanted.device)


def _half(device: str) -> torch.dtype:
    """bfloat16, but on graphics cards that are older than it."""
    is_old = device.startswith("cuda") and not torch.cuda.is_bf16_supported(False)
    return torch.float16 if is_old else torch.bfloat16


def _check_device(device: str) -> None:
    try:
        for each in device.split(","):
            torch.empty(1, device=each)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {device!r} cannot be used: {first_line(error)}", hint="try --device cpu"
        ) from error


def _plan(
    outline: Outline,
    quantization: Quantization,
    dtype: torch.dtype,
    wanted: Wanted,
    headroom: float = 1.0,
) -> room.Plan:
    free = room.free_bytes(wanted.device, wanted.share)
    return room.plan(
        outline,
        quantization,
        dtype,
        free_bytes=None if free is None else int(free * headroom),
        kv_cache_bytes=wanted.kv_cache_bytes,
    )


def _check_room(
    entries: Iterable[TensorEntry],
    outline: Outline,
    quantization: Quantization,
    dtype: torch.dtype,
    wanted: Wanted,
) -> None:
    """Refuse a span that does not fit, by its configuration or by what its files really hold.

    Raises:
        OutOfMemory: with both figures.
    """
    planned = _plan(outline, quantization, dtype, wanted)
    if quantization.made != PLAIN:
        _tell_share(planned.small_share, quantization.made)
    planned.require(wanted.device)
    sizes = [prod(entry.shape) * dtype.itemsize for entry in entries]
    held = max(sizes, default=0) if quantization.made != PLAIN else sum(sizes)
    if planned.room_bytes is not None and held > planned.room_bytes:
        raise OutOfMemory(
            f"the span's weights take {held / 2**30:.1f} GiB, "
            f"{wanted.device} has {planned.room_bytes / 2**30:.1f} GiB free",
            hint="serve a shorter --span, or a smaller --dtype",
        )


def _tell_share(share: float, made: str) -> None:
    """Experts that the library keeps in one tensor, and odd sizes, stay as they are: say so.

    Raises:
        UsageError: nothing at all would become small.
    """
    if not share:
        raise UsageError(
            f"none of this model's weights can be made {made}: no linear map in its blocks fits",
            hint="serve it with --quantize none",
        )
    if share < 0.5:
        log.warning(
            "most weights stay as they are: only plain linear maps are quantized, not experts",
            extra={"quantized": f"{share:.0%}", "form": made},
        )
