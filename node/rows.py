"""Hidden rows between tensors and the wire: what `protocol.wire` describes, in torch.

In: bytes as they came, or a tensor as the engine gave it. Out: the other. Where the wire's format
is the engine's dtype nothing is copied on the CPU: a tensor is a view of the received frame, and
what leaves is a view of the engine's output, which is not written again. Elsewhere the device gets
rows as the wire has them, which is fewer bytes, and does the conversion; ids are made wide before.
A row takes few calls of torch: each costs tens of microseconds after others have used the caches.
"""

import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from protocol.wire import BFLOAT16, BLOCK, FLOAT16, FLOAT32, LARGEST_SCALE, MOST, WireFormat

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def ids_from_wire(payload: bytes | memoryview, device: "torch.device") -> "Tensor":
    """Token ids [rows] as the embedding takes them."""
    import torch

    return torch.from_numpy(np.frombuffer(payload, "<u4").astype(np.int64)).to(device)


def from_wire(
    wire: WireFormat,
    payload: bytes | memoryview,
    hidden_size: int,
    dtype: "torch.dtype",
    device: "torch.device",
) -> "Tensor":
    """Rows [n, hidden_size] in `dtype` on `device`."""
    import torch

    if not wire.is_blockwise:
        wire_dtype = _wire_dtypes()[wire.name]
        rows = torch.frombuffer(payload, dtype=wire_dtype).view(-1, hidden_size)
        is_ready = wire_dtype is dtype and device.type == "cpu"
        return rows if is_ready else rows.to(device).to(dtype)
    _wire_dtypes()
    raw = torch.frombuffer(payload, dtype=torch.uint8).view(-1, wire.row_bytes(hidden_size))
    raw = raw.to(device)
    values = raw[:, :hidden_size].view(torch.int8).to(torch.float32)
    scales = raw[:, hidden_size:].contiguous().view(torch.float16).to(torch.float32)
    if hidden_size % BLOCK:
        return (values * scales.repeat_interleave(BLOCK, 1)[:, :hidden_size]).to(dtype)
    blocks = values.view(-1, hidden_size // BLOCK, BLOCK) * scales[:, :, None]
    return blocks.view(-1, hidden_size).to(dtype)


def to_wire(wire: WireFormat, hidden: "Tensor") -> memoryview:
    """Rows [n, hidden_size] as they travel."""
    import torch

    if not wire.is_blockwise:
        if wire is FLOAT32 and hidden.dtype is torch.float32 and hidden.device.type == "cpu":
            own: memoryview = hidden.contiguous().numpy().data
            return own.cast("B")
        return bytes_of(hidden.to(_wire_dtypes()[wire.name]))
    values, scales = _to_int8(hidden)
    raw = torch.cat([values.view(torch.uint8), scales.view(torch.uint8)], dim=1)
    return bytes_of(raw)


@cache
def _wire_dtypes() -> "dict[str, torch.dtype]":
    """Of formats that are torch's own. Called before the first buffer is lent to torch, which warns
    once in a process that it cannot know that nobody writes to a read-only one. Nobody does.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.frombuffer(bytes(1), dtype=torch.uint8)
    return {wire.name: getattr(torch, wire.name) for wire in (FLOAT32, BFLOAT16, FLOAT16)}


def joined(parts: "list[Tensor]") -> "Tensor":
    """Rows that came in several frames, as one run of them."""
    import torch

    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _to_int8(hidden: "Tensor") -> "tuple[Tensor, Tensor]":
    import torch
    import torch.nn.functional as F

    n, hidden_size = hidden.shape
    rows = hidden.to(torch.float32)
    padded = F.pad(rows, (0, -hidden_size % BLOCK)) if hidden_size % BLOCK else rows
    blocks = padded.view(n, -1, BLOCK)
    peaks = blocks.abs().amax(dim=2)
    scales = (peaks / MOST).clamp_max(LARGEST_SCALE).to(torch.float16)
    scales = torch.where(peaks.isfinite(), scales, torch.nan)
    divisors = scales.to(torch.float32)
    divisors = torch.where(divisors > 0, divisors, torch.inf)
    quotients = (blocks / divisors[:, :, None]).round_().clamp_(-MOST, MOST).nan_to_num_(0.0)
    return quotients.to(torch.int8).view(n, -1)[:, :hidden_size], scales


def bytes_of(tensor: "Tensor") -> memoryview:
    """A tensor's own memory, or a copy where it lies elsewhere or in pieces."""
    import torch

    flat = tensor.contiguous().view(-1).view(torch.uint8).cpu()
    view: memoryview = flat.numpy().data  # keeps the tensor's memory alive
    return view
