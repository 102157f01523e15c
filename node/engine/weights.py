"""Loading one span of a checkpoint: its tensors, and no others, into the family's own modules.

In: a directory that holds at least the weights files of the span. Out: a `LoadedSpan`, or a typed
error that names the cause. Modelling code is the transformers library's; code in a checkpoint is
never run, the network never asked. What the span computes is proved in `selftest.py`.
"""

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from node.engine.checkpoint import INDEX, Checkpoint, open_checkpoint
from node.engine.family import check_family, packing_obstacle, span_class
from node.engine.pruning import compact, find_blocks, spanned
from node.engine.room import check_room
from protocol.errors import BadModel, OutOfMemory, UsageError
from protocol.messages import Span
from protocol.profile import Profile

Progress = Callable[[str, float], None]

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
    packing_obstacle: str = ""
    """Why its sessions cannot be packed, as far as its configuration tells."""

    @property
    def profile(self) -> Profile:
        return Profile.of(str(self.dtype).removeprefix("torch."))


def load_span(
    directory: Path,
    span: Span | None,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    progress: Progress | None = None,
) -> LoadedSpan:
    """Read `span` (the whole model when None), with the ends it touches.

    Raises:
        BadModel: the checkpoint is missing, damaged, incomplete, or of a kind we cannot serve.
        UsageError: the span lies outside the model; the dtype or device does not exist.
        OutOfMemory: the weights do not fit this machine or device.
    """
    report = progress or (lambda phase, fraction: None)
    report("configuration", 0.0)
    checkpoint = open_checkpoint(directory)
    with quiet():
        config = _read_config(checkpoint)
        architecture = span_class(config, checkpoint.architecture)
        n_blocks = int(config.get_text_config(decoder=True).num_hidden_layers)
        span = span or Span(0, n_blocks)
        if span.stop > n_blocks:
            raise UsageError(
                f"span {span} lies outside the model, which has blocks 0:{n_blocks}",
                hint=f"choose a span within 0:{n_blocks}",
            )
        ends = {"embeds": span.start == 0, "heads": span.stop == n_blocks}
        kind = _choose_dtype(dtype, config)
        _check_device(device)
        pruned = spanned(architecture, span, **ends)
        places = checkpoint.check_files(_selector(architecture, pruned, config, span))
        check_room((entry for _, entry in places.values()), kind, device)
        wanted = {tensor: file for tensor, (file, _) in places.items()}
        report("weights", 0.0)
        model = _read_weights(pruned, checkpoint, wanted, kind, device)
        compact(model, span)
    report("weights", 1.0)
    obstacle = packing_obstacle(config, architecture)
    return LoadedSpan(
        model,
        checkpoint.architecture,
        span,
        n_blocks,
        **ends,
        dtype=kind,
        packing_obstacle=obstacle,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers off stderr while it works for us; what matters we say ourselves."""
    from transformers.utils import logging

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


def _read_config(checkpoint: Checkpoint) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            checkpoint.directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises whatever its many config classes raise
        raise BadModel(
            f"config.json describes no model we can serve ({checkpoint.architecture}): "
            f"{_first_line(error)}",
            hint="only architectures of the transformers library are served, never remote code",
        ) from error
    check_family(config, checkpoint.architecture)
    return config


def _choose_dtype(dtype: str, config: Any) -> torch.dtype:
    if dtype == "auto":
        kind = config.get_text_config(decoder=True).dtype or config.dtype or torch.float32
        dtype = str(kind).removeprefix("torch.")
    if dtype not in DTYPES:
        raise UsageError(
            f"no dtype {dtype!r} to serve in", hint=f"one of auto, {', '.join(DTYPES)}"
        )
    return DTYPES[dtype]


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {device!r} cannot be used: {_first_line(error)}", hint="try --device cpu"
        ) from error


def _selector(
    architecture: type[Any], pruned: type[Any], config: Any, span: Span
) -> Callable[[str], bool]:
    """Which tensors of the checkpoint this span needs, by name.

    A block's tensors are told by its number. Of the others, those that the whole model has and
    the pruned one has not are left out; a name that neither knows stays, for the library to say.
    """
    with torch.device("meta"):
        whole, part = architecture(config), pruned(config)
    attribute = find_blocks(whole)[1]
    block = re.compile(rf"(?:^|\.){attribute}\.(\d+)\.")
    prefix = f"{whole.base_model_prefix}."
    left_out = {
        name.removeprefix(prefix) for name in whole.state_dict().keys() - part.state_dict().keys()
    }

    def keep(tensor: str) -> bool:
        numbered = block.search(tensor)
        if numbered:
            return span.start <= int(numbered[1]) < span.stop
        return tensor.removeprefix(prefix) not in left_out

    return keep


def _read_weights(
    pruned: type[Any],
    checkpoint: Checkpoint,
    wanted: dict[str, str],
    dtype: torch.dtype,
    device: str,
) -> Any:
    with _view(checkpoint, wanted) as directory, _translated(checkpoint, device):
        model, info = pruned.from_pretrained(
            directory,
            output_loading_info=True,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
        )
        # Names the library would fill with noise: to it a fresh start, to us a broken checkpoint.
        missing = sorted(info["missing_keys"])
        if missing:
            raise BadModel(
                f"the checkpoint of {checkpoint.architecture} lacks {missing[0]}"
                + (f" and {len(missing) - 1} more tensors" if len(missing) > 1 else ""),
                hint="fetch the checkpoint again, or choose a span whose files are here",
            )
        return model.eval().requires_grad_(False).to(device)


@contextmanager
def _view(checkpoint: Checkpoint, wanted: dict[str, str]) -> Iterator[Path]:
    """The directory as it would look if it held the span's files alone: links and a short index."""
    import json

    with tempfile.TemporaryDirectory(prefix="manyhands-span-") as name:
        view, source = Path(name), checkpoint.directory.resolve()
        for file in {"config.json", "generation_config.json", *wanted.values()}:
            if (source / file).exists():
                os.symlink(source / file, view / file)
        (view / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": wanted}))
        yield view


@contextmanager
def _translated(checkpoint: Checkpoint, device: str) -> Iterator[None]:
    """The library's errors while reading weights, as ours."""
    try:
        yield
    except BadModel:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _out_of_memory(device, error) from error
    except RuntimeError as error:
        if "allocate" in str(error) or "out of memory" in str(error):
            raise _out_of_memory(device, error) from error
        raise _unreadable(checkpoint, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, AssertionError) as error:
        raise _unreadable(checkpoint, error) from error


def _out_of_memory(device: str, error: BaseException) -> OutOfMemory:
    return OutOfMemory(
        f"the span's weights do not fit on {device}: {_first_line(error)}",
        hint="serve a shorter --span, or a smaller --dtype",
    )


def _unreadable(checkpoint: Checkpoint, error: BaseException) -> BadModel:
    return BadModel(
        f"the weights in {checkpoint.directory} do not fit {checkpoint.architecture}: "
        f"{_first_line(error)}",
        hint="config.json and the weights must come from the same checkpoint",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
