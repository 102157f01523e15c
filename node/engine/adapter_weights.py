"""An adapter's weights for one span: which of them belong here, whether they fit, and the reading.

In: an adapter's files and a loaded span. Out: by module, the pair of matrices on its device, the
factor already in B; or a refusal that names the tensor and both shapes. Layers that others serve
are never read. Modules go by their path in the unsplit model, as PEFT writes them, and in the
span's own numbering here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from node.engine.adapter_files import HINT, AdapterFiles, LowRank
from node.engine.pruning import Hole, find_blocks
from node.engine.room import free_bytes
from node.engine.weights import LoadedSpan
from protocol.errors import BadAdapter, OutOfMemory

OTHER_BASE = "an adapter serves the base it was trained on, and no other"


@dataclass(frozen=True, slots=True)
class _Place:
    """A module of the span and the pair that adapts it; `key` is its path in the span."""

    key: str
    module: Any
    low_rank: LowRank

    @property
    def device(self) -> Any:
        held = next(chain(self.module.parameters(), self.module.buffers()), None)
        return torch.device("cpu") if held is None else held.device


def read_weights(files: AdapterFiles, loaded: LoadedSpan) -> dict[str, tuple[Tensor, Tensor]]:
    """A and the scaled B of each adapted module of this span, in the span's dtype.

    Raises:
        BadAdapter: it was made for another base, or its weights are damaged.
        OutOfMemory: it does not fit.
    """
    from safetensors import SafetensorError, safe_open

    places = list(_places(files, loaded))
    _check_room(places, loaded)
    stamp = files.stamp()
    pairs = {}
    try:
        with safe_open(files.weights, framework="pt") as tensors:
            for place in places:
                a, b = (_finite(tensors, name) for name in (place.low_rank.a, place.low_rank.b))
                pairs[place.key] = (
                    a.to(place.device, loaded.dtype),
                    (b * place.low_rank.scaling).to(place.device, loaded.dtype),
                )
    except (SafetensorError, OSError) as error:
        raise BadAdapter(f"{files.weights} cannot be read: {error}", hint=HINT) from error
    except (RuntimeError, MemoryError) as error:
        raise OutOfMemory(f"the adapter does not fit: {error}") from error
    if files.stamp() != stamp or stamp != files.read_at:
        raise BadAdapter(f"{files.weights} changed while it was read", hint="load it again")
    return pairs


def _finite(tensors: Any, name: str) -> Tensor:
    tensor: Tensor = tensors.get_tensor(name).float()
    if not bool(torch.isfinite(tensor).all()):
        raise BadAdapter(f"{name} holds NaN or infinity")
    return tensor


def _check_room(places: list[_Place], loaded: LoadedSpan) -> None:
    needed = sum(place.low_rank.n_elements for place in places) * loaded.dtype.itemsize
    free = free_bytes(str(loaded.model.device))
    if free is not None and needed > free:
        raise OutOfMemory(
            f"the adapter takes {needed / 2**20:.0f} MiB, {free / 2**20:.0f} MiB are free",
            hint="unload another one: manyhands adapters unload NAME",
        )


def _places(files: AdapterFiles, loaded: LoadedSpan) -> Iterator[_Place]:
    """Of the modules that the adapter knows, those that are here."""
    owner, attribute = find_blocks(loaded.model)
    blocks = getattr(owner, attribute)
    prefix = next(path for path, module in loaded.model.named_modules() if module is blocks)
    for path, low_rank in files.modules.items():
        key = _path_here(path, prefix, loaded)
        if key is None:
            continue
        try:
            module = loaded.model.get_submodule(key)
        except AttributeError:
            raise BadAdapter(
                f"{low_rank.a}: {loaded.architecture} has no module {path}", hint=OTHER_BASE
            ) from None
        if not isinstance(module, Hole):
            _check_fits(path, module, low_rank)
            yield _Place(key, module, low_rank)


def _path_here(path: str, prefix: str, loaded: LoadedSpan) -> str | None:
    """A path in the unsplit model as one in this span; None where other nodes have it."""
    if not path.startswith(f"{prefix}."):
        return path
    number, _, rest = path.removeprefix(f"{prefix}.").partition(".")
    block = int(number) if number.isdecimal() and len(number) < 7 else -1
    if not 0 <= block < loaded.n_blocks:
        raise BadAdapter(
            f"the adapter has weights for {path}, the model has blocks 0:{loaded.n_blocks}",
            hint=OTHER_BASE,
        )
    if not loaded.span.start <= block < loaded.span.stop:
        return None
    return f"{prefix}.{block - loaded.span.start}.{rest}"


def _check_fits(path: str, module: Any, low_rank: LowRank) -> None:
    sizes = _sizes(module)
    if sizes is None or "experts" in path.split("."):
        kind = type(module).__name__
        raise BadAdapter(f"not served: an adapter of {path}, a {kind} of its own kind", hint=HINT)
    if (low_rank.n_in, low_rank.n_out) != sizes:
        raise BadAdapter(
            f"{low_rank.a} [{low_rank.rank}, {low_rank.n_in}] and {low_rank.b} "
            f"[{low_rank.n_out}, {low_rank.rank}] do not fit {path}, which takes {sizes[0]} and "
            f"gives {sizes[1]}",
            hint=OTHER_BASE,
        )


def _sizes(module: Any) -> tuple[int, int] | None:
    """What a linear module takes and gives, quantized or not; None for any other module."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return int(module.nx), int(module.nf)
    match getattr(module, "in_features", None), getattr(module, "out_features", None):
        case int() as n_in, int() as n_out if _gives_rows(module, n_in, n_out):
            return n_in, n_out
    return None


@torch.inference_mode()
def _gives_rows(module: Any, n_in: int, n_out: int) -> bool:
    """Whether a family's own kind of linear module is one: a router gives scores beside rows."""
    if not type(module).__module__.startswith("transformers.models."):
        return True
    weight: Tensor = module.weight
    output = type(module).forward(
        module, torch.zeros(1, n_in, dtype=weight.dtype).to(weight.device)
    )
    return isinstance(output, Tensor) and output.shape == (1, n_out)
