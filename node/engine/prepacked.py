"""Linear layers whose weights lie in the order in which the processor's matrix kernels read them.

torch's own product takes a plain matrix and puts it in that order again for every product of more
than one row: the weights cross the memory bus, are copied, and only then multiplied. oneDNN, which
torch carries, can keep them in that order, and reads them while it multiplies. Measured on one core
with AVX-512 and 300 MB of weights, in ms for 1 / 4 / 16 / 64 rows: float32 24 / 45 / 52 / 160
plain, 19 / 19 / 36 / 105 here; bfloat16 22 / 28 / 32 / 73 plain, 11 / 11 / 20 / 55 here.

And a row's product does not depend on the rows beside it: of at least `LEAST_ROWS` rows each is
computed alike, so fewer are filled up to that number, which is faster too. What a session is told
alone and in a batch, or when it is replayed, is the same to the bit as far as these layers go.

In: a model in the processor's memory. Out: the same model with its `nn.Linear` layers replaced,
each after a trial. Quantized layers, tied heads, other devices and a family's own kinds of layers
stay. The ops are those that torch's compiler generates for a frozen model (torch/_inductor).
"""

import ctypes
import mmap
import platform
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from node.engine.heap import trim_heap

LEAST_ROWS = 4
STEPS = ((8, 4), (32, 8), (64, 16), (128, 32), (256, 64), (512, 128))  # above so many rows
USUAL_ROWS = 64  # what the order is chosen for; orders for 16 to 256 were equally fast at all sizes
LEAST_ELEMENTS = 1 << 12
TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 2e-2,
}  # of the largest output: another order of sums
LARGE = 2 << 20
TRIM_BYTES = 8 << 20  # of weights replaced: both copies of so many may be in memory at once
MADV_COLLAPSE = 25  # Linux 6.1; `mmap` does not name it


class PrepackedLinear(nn.Module):
    """`linear` for inference. [..., in_features] to [..., out_features]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data, USUAL_ROWS)
        self._product = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        n = rows.shape[0]
        if n == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        size = padded_rows(n)
        if n == 1:
            rows = rows.expand(size, -1)
        elif n < size:
            rows = F.pad(rows, (0, 0, 0, size - n))
        product = self._product(rows, self._packed, self.bias, "none", [], "")[:n]
        shaped: Tensor = product.reshape(*x.shape[:-1], self.out_features)
        return shaped

    @property
    def weight(self) -> Tensor:
        """A plain copy of the weights, for the rare family that reads them itself."""
        plain: Tensor = self._packed.to_dense()
        return plain

    @property
    def n_bytes(self) -> int:
        return int(torch.ops.mkldnn._nbytes(self._packed))

    @property
    def address(self) -> int:
        return int(torch.ops.mkldnn.data_ptr(self._packed))


def padded_rows(n: int) -> int:
    """How many rows a product of `n` rows is filled up to: at most a third more.

    oneDNN makes code for every number of rows that it meets, and keeps half a megabyte of it, for
    up to a thousand products: without this a node grows by hundreds of megabytes as prompts of
    ever other lengths come, whatever `plan` has said.
    """
    step = max((step for least, step in STEPS if n > least), default=1)
    return max(LEAST_ROWS, -(-n // step) * step)


@torch.inference_mode()
def prepack(model: nn.Module) -> int:
    """Replace what can be; how many layers. The plain weights are freed one by one."""
    if not _is_possible():
        return 0
    n_uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            n_uses[id(parameter)] = n_uses.get(id(parameter), 0) + 1
    packed, untrimmed = [], 0
    # Nothing here may hold a plain layer for longer than it takes to replace it.
    for parent in [module for module in model.modules() if type(module) is not nn.Linear]:
        for name in [name for name, child in parent.named_children() if type(child) is nn.Linear]:
            linear = getattr(parent, name)
            if n_uses[id(linear.weight)] == 1 and _suits(linear):
                layer = PrepackedLinear(linear)
                if _agrees(layer, linear):
                    setattr(parent, name, layer)
                    packed.append(layer)
                    untrimmed += layer.n_bytes
            del linear
            if untrimmed >= TRIM_BYTES:
                trim_heap()
                untrimmed = 0
    _ask_for_large_pages(packed)
    return len(packed)


def plain_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All weights by name, the prepacked ones as copies made one by one."""
    yield from model.named_parameters()
    for name, module in model.named_modules():
        if isinstance(module, PrepackedLinear):
            yield f"{name}.weight", module.weight


def _is_possible() -> bool:
    return (
        platform.machine() in ("x86_64", "AMD64")
        and torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _suits(linear: nn.Linear) -> bool:
    weight = linear.weight
    if weight.device.type != "cpu" or weight.numel() < LEAST_ELEMENTS or linear._forward_hooks:
        return False
    if weight.dtype == torch.bfloat16:  # elsewhere the product is made in float32, which is slow
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _agrees(layer: PrepackedLinear, linear: nn.Linear) -> bool:
    """One row through both. NaN and infinity agree with themselves: they are found elsewhere."""
    row = torch.linspace(-1, 1, linear.in_features, dtype=linear.weight.dtype)[None]
    expected = linear(row).float()
    if not bool(expected.isfinite().all()):
        return False
    scale = expected.abs().max().clamp(min=1e-6)
    return bool(
        (layer(row).float() - expected).abs().max() <= TOLERANCE[linear.weight.dtype] * scale
    )


def _ask_for_large_pages(layers: list[PrepackedLinear]) -> None:
    """Measured: a product of one row takes a twentieth less. Elsewhere nothing changes."""
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return
    try:
        madvise: Any = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    for start, stop in _stretches(layers):
        first, last = -(-start // LARGE) * LARGE, stop // LARGE * LARGE
        if first < last:
            place, size = ctypes.c_void_p(first), ctypes.c_size_t(last - first)
            madvise(place, size, advice)
            madvise(place, size, MADV_COLLAPSE)


def _stretches(layers: list[PrepackedLinear]) -> list[tuple[int, int]]:
    """The memory of the layers, neighbours joined."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted((layer.address, layer.address + layer.n_bytes) for layer in layers):
        if joined and start - joined[-1][1] <= mmap.PAGESIZE:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((start, stop))
    return joined
