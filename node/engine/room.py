"""Whether a span fits this machine, asked before its weights are read, or are even here.

In: an `Outline`, and how the weights will be kept. Out: a `Plan`: what the span takes, whether it
fits beside what is set aside for sessions, and how much of it would. A system that runs out of
memory kills a process without a word; a plan can say what to do.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from node.engine.outline import Outline
from node.engine.quantization import Quantization, is_quantizable, small_bytes
from node.share import Share
from protocol.errors import OutOfMemory
from protocol.messages import Span
from protocol.profile import PLAIN

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a span takes, in bytes. `room_bytes` None: the system does not say what is free.

    A session takes `kv_bytes_per_position` and, unless the span ends the model,
    `journal_bytes_per_position`, out of what is set aside for sessions.
    """

    span: Span
    weights_bytes: int
    loading_bytes: int  # at the worst moment of loading
    kv_bytes_per_position: int
    journal_bytes_per_position: int
    kv_cache_bytes: int
    room_bytes: int | None
    n_blocks_that_fit: int  # from the span's start on
    small_share: float  # of the blocks' parameters that are kept small

    @property
    def fits(self) -> bool:
        return self.n_blocks_that_fit >= len(self.span)

    def require(self, device: str) -> None:
        """Return if the span fits.

        Raises:
            OutOfMemory: with both figures, and what would fit.
        """
        if self.fits or self.room_bytes is None:
            return
        start, n_fit = self.span.start, self.n_blocks_that_fit
        beside = f" beside {_size(self.kv_cache_bytes)} for sessions" if self.kv_cache_bytes else ""
        would = (
            f"blocks {start}:{start + n_fit} would fit: --span {start}:{start + n_fit}"
            if n_fit
            else "not one block would fit"
        )
        raise OutOfMemory(
            f"loading blocks {self.span} takes {_size(self.loading_bytes)}, {device} has "
            f"{_size(max(0, self.room_bytes))} free{beside}",
            hint=f"{would}; --quantize 4bit"
            + (" and a smaller --kv-cache need less" if self.kv_cache_bytes else " needs less"),
        )


def plan(
    outline: Outline,
    quantization: Quantization,
    dtype: torch.dtype,
    *,
    free_bytes: int | None,
    kv_cache_bytes: int = 0,
) -> Plan:
    """What the outlined span takes, and whether it fits into `free_bytes`."""
    span = outline.span
    blocks = dict.fromkeys((-1, *range(span.start, span.stop), outline.n_blocks), 0)
    largest = n_small = n_all = 0
    for block, module, parameter in outline.parameters():
        # While a tensor is made small or expanded, both of its forms exist.
        largest = max(largest, parameter.numel() * dtype.itemsize)
        in_block = block in range(outline.n_blocks)
        n_all += parameter.numel() * in_block
        if in_block and quantization.is_kept and _becomes_small(module, parameter):
            n_small += parameter.numel()
            blocks[block] += small_bytes(quantization.name, tuple(parameter.shape))
        else:
            blocks[block] += parameter.numel() * dtype.itemsize
    passing = largest if quantization.made != PLAIN or quantization.brought else 0
    room = None if free_bytes is None else free_bytes - kv_cache_bytes
    weights = sum(blocks.values())
    front, back = blocks.pop(-1), blocks.pop(outline.n_blocks)
    sizes = list(blocks.values())
    sizes[-1] += back  # the head is needed with the last block only
    text = outline.config.get_text_config(decoder=True)
    return Plan(
        span=span,
        weights_bytes=weights,
        loading_bytes=weights + passing,
        kv_bytes_per_position=len(span) * kv_bytes_per_block(text, dtype),
        journal_bytes_per_position=0 if outline.heads else int(text.hidden_size) * dtype.itemsize,
        kv_cache_bytes=kv_cache_bytes,
        room_bytes=room,
        n_blocks_that_fit=_fitting(sizes, front + passing, room),
        small_share=n_small / max(1, n_all),
    )


def _becomes_small(module: nn.Module, parameter: nn.Parameter) -> bool:
    is_weight = isinstance(module, nn.Linear | Conv1D) and parameter is module.weight
    return is_weight and is_quantizable(module)


def _fitting(blocks: list[int], beside: int, room: int | None) -> int:
    if room is None:
        return len(blocks)
    left = room - beside
    for count, n_bytes in enumerate(blocks):
        left -= n_bytes
        if left < 0:
            return count
    return len(blocks)


def kv_bytes_per_block(text: Any, dtype: torch.dtype) -> int:
    """One position's keys and values in one block, as far as a configuration tells."""
    if latent := getattr(text, "kv_lora_rank", None):
        return int(latent + (getattr(text, "qk_rope_head_dim", 0) or 0)) * dtype.itemsize
    heads = getattr(text, "num_attention_heads", None) or 1
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    return int(2 * key_heads * head_dim) * dtype.itemsize


def free_bytes(device: str, share: Share | None = None) -> int | None:
    """What new allocations on `device` (or on several, with commas) may take; None where the system
    does not say.

    share: what this process may take of the device, each of several, or of this machine's memory.
    """
    if device.startswith("cuda"):
        return sum(_free_on_gpu(each, share) for each in device.split(","))
    limits = [limit for limit in (_system(), _container(), _left(share)) if limit is not None]
    return min(limits, default=None)


def hold_to(device: str, share: Share | None) -> None:
    """Have torch refuse what goes beyond it: on GPUs alone it can."""
    if share is None or not device.startswith("cuda"):
        return
    for each in device.split(","):
        total = int(torch.cuda.mem_get_info(each)[1])
        torch.cuda.set_per_process_memory_fraction(share.of(total) / total, each)


def _free_on_gpu(device: str, share: Share | None) -> int:
    free, total = map(int, torch.cuda.mem_get_info(device))
    if share is None:
        return free
    return max(0, min(free, share.of(total) - int(torch.cuda.memory_reserved(device))))


def _left(share: Share | None) -> int | None:
    """Of this process's share of the memory that programs share."""
    if share is None:
        return None
    used = int(psutil.Process().memory_info().rss)
    return max(0, total_bytes(share) - used)


def total_bytes(share: Share | None) -> int:
    """Of the memory that programs share: all that there is here, or this process's share."""
    total = int(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):
        total = min(total, int((CGROUP / "memory.max").read_text()))
    return total if share is None else share.of(total)


def _system() -> int | None:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:  # elsewhere only what there is in all is known: count on half of it
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (OSError, ValueError, AttributeError):
        return None


def _container() -> int | None:
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" is no number
        used = int((CGROUP / "memory.current").read_text())
        kinds = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(kinds.get("file", 0)))  # cached files give way
    except (OSError, ValueError):
        return None


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
