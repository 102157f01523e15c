"""Whether a span's weights fit this machine, asked before they are read.

A system that runs out of memory kills a process without a word; a refusal can say what to do.
"""

from collections.abc import Iterable
from math import prod
from pathlib import Path

import torch

from protocol.errors import OutOfMemory
from protocol.tensor_table import TensorEntry

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_room(tensors: Iterable[TensorEntry], dtype: torch.dtype, device: str) -> None:
    """Refuse weights that cannot fit, as far as the system tells what is free.

    Raises:
        OutOfMemory: with both figures.
    """
    needed = sum(prod(entry.shape) for entry in tensors) * dtype.itemsize
    free = free_bytes(device)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"the span's weights take {needed / 2**30:.1f} GiB, "
            f"{device} has {free / 2**30:.1f} GiB free",
            hint="serve a shorter --span, or a smaller --dtype",
        )


def free_bytes(device: str) -> int | None:
    """What new allocations on `device` may take; None where the system does not say."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [limit for limit in (_system(), _container()) if limit is not None]
    return min(limits, default=None)


def _system() -> int | None:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _container() -> int | None:
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" is no number
        used = int((CGROUP / "memory.current").read_text())
        kinds = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(kinds.get("file", 0)))  # cached files give way
    except (OSError, ValueError):
        return None
