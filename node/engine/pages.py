"""Memory for what a session keeps: given page by page as it is written, had back at once.

An allocator keeps what was freed between pieces in use: of sixty slabs of 1 to 15 MB that came and
went, glibc's kept 65 MB when all were closed. Maps of our own leave nothing.
"""

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def pages(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of its own pages where the CPU computes, and of the device's allocator elsewhere.

    Raises:
        MemoryError, RuntimeError: there is no room.
    """
    n_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or not n_bytes or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.empty(*shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"no {n_bytes} bytes of memory: {error}") from error
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
