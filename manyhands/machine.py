"""What this machine can give: threads, memory, a device. And whose child this process is.

The environment that torch reads must stand before torch is imported, so `set_threads` comes first.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from protocol.errors import OutOfMemory, UsageError
from protocol.manifest import Manifest

PROCESS_BYTES = 500 * 2**20  # of a node before any weights
HEADROOM = 0.9
PR_SET_PDEATHSIG = 1  # prctl(2)
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}


def set_threads(n_threads: int | None) -> int:
    """Let torch use so many threads, by default half the cores, and let idle ones sleep."""
    assert "torch" not in sys.modules, "torch reads its environment when it is imported"
    chosen = n_threads or _from_environment() or max(1, (os.cpu_count() or 2) // 2)
    os.environ["OMP_NUM_THREADS"] = str(chosen)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else idle threads burn the other's core
    return chosen


def _from_environment() -> int | None:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else None


def choose_device(asked: str) -> str:
    if asked == "cpu":
        return asked
    import torch

    if asked != "auto":
        _check_device(asked)
        return asked
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(asked: str) -> None:
    """Raises UsageError when this machine, or this torch, has no such device."""
    import torch

    kind, _, index = asked.partition(":")
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if kind in count and (not index or index.isdecimal()) and int(index or 0) < count[kind]:
        return
    raise UsageError(
        f"there is no device {asked} here (torch {torch.__version__})",
        hint="--device auto takes what there is",
    )


def capacity_blocks(manifest: Manifest, *, dtype: str, device: str, kv_cache_bytes: int) -> int:
    """How many blocks fit beside the KV cache.

    Raises:
        OutOfMemory: not one.
    """
    block_bytes = max(1, _weights_bytes(manifest, dtype) // manifest.n_blocks)
    free = int(_available_bytes(device) * HEADROOM) - kv_cache_bytes
    fitting = (free - (PROCESS_BYTES if device == "cpu" else 0)) // block_bytes
    if fitting < 1:
        raise OutOfMemory(
            f"a block takes {block_bytes >> 20} MiB, and beside a KV cache of "
            f"{kv_cache_bytes >> 20} MiB there is no room for one",
            hint="make the cache smaller with --kv-cache, or say --span A:B to try anyway",
        )
    return min(fitting, manifest.n_blocks)


def _weights_bytes(manifest: Manifest, dtype: str) -> int:
    total = 0
    for place in manifest.tensors.values():
        stored = place.entry.stop - place.entry.start
        itemsize = STORED_BYTES.get(place.entry.dtype)
        scale = ITEM_BYTES[dtype] / itemsize if itemsize and dtype in ITEM_BYTES else 1
        total += int(stored * scale)
    return total


def _available_bytes(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def die_with(parent: int) -> None:
    """End this process when `parent` does, however that one ends: no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before we asked to be told
        os._exit(128 + signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(128 + signal.SIGKILL)
