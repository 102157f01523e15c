"""Which device a node computes on: chosen from what this machine has, and said aloud.

In: what was asked for, and what `look` sees. Out: a `Choice`, or an error that names the command
that helps. A machine with an NVIDIA GPU whose torch knows only CPUs is told so: it would serve
ten times slower without a word.
"""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError, UsageError

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """As CUDA numbers and names them."""

    name: str
    free_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.name}, {self.free_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB free"


@dataclass(frozen=True, slots=True)
class Seen:
    """What this machine and this torch have."""

    torch_version: str
    torch_cuda: str | None  # what torch was built for; None: for CPUs only
    gpus: tuple[Gpu, ...] = ()
    has_mps: bool = False
    has_nvidia: bool = False  # the driver's traces, whatever torch says


@dataclass(frozen=True, slots=True)
class Choice:
    """`device` is what torch calls it, several with commas; `told` are lines for people."""

    device: str
    told: tuple[str, ...]


def look() -> Seen:
    """Ask torch and the system; takes torch's import."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(torch.cuda.get_device_name(index), free, total))
    return Seen(
        torch_version=torch.__version__,
        torch_cuda=torch.version.cuda,
        gpus=tuple(gpus),
        has_mps=torch.backends.mps.is_available(),
        has_nvidia=Path("/proc/driver/nvidia").exists() or bool(shutil.which("nvidia-smi")),
    )


def choose_device(asked: str, seen: Seen, *, require_gpu: bool = False) -> Choice:
    """The device to run on: as asked, or with `auto` the best there is: CUDA, MPS, CPU.

    Raises:
        UsageError: there is no such device here.
        ConfigError: a GPU is required and none can be used.
    """
    devices = _best(seen) if asked == "auto" else _named(asked, seen)
    kind = devices[0].partition(":")[0]
    unused = idle_gpu(seen)
    if kind == "cpu" and require_gpu:
        reason, hint = unused or ("there is no GPU here that torch can use", "")
        raise ConfigError(reason, hint=hint or "serve without --require-gpu to use the CPU")
    told = [f"device: {_words(device, seen)}" for device in devices]
    if kind == "cpu" and asked == "auto" and unused:
        told.append(f"warning: {unused[0]}; {unused[1]}")
    if kind == "cuda" and asked == "auto" and len(seen.gpus) > 1:
        every = ",".join(f"cuda:{index}" for index in range(len(seen.gpus)))
        told.append(f"{len(seen.gpus)} GPUs are here: --device {every} uses them as one node")
    return Choice(",".join(devices), tuple(told))


def _best(seen: Seen) -> list[str]:
    if seen.gpus:
        freest = max(range(len(seen.gpus)), key=lambda index: seen.gpus[index].free_bytes)
        return [f"cuda:{freest}"]
    return ["mps" if seen.has_mps else "cpu"]


def _named(asked: str, seen: Seen) -> list[str]:
    """`cpu`, `mps`, `cuda`, `cuda:N`, or several of one kind with commas."""
    devices = asked.split(",")
    counts = {"cpu": 1, "cuda": len(seen.gpus), "mps": int(seen.has_mps)}
    for device in devices:
        kind, _, index = device.partition(":")
        is_named = kind in counts and (not index or (kind == "cuda" and index.isdecimal()))
        if is_named and int(index or 0) < counts[kind] and kind == devices[0].partition(":")[0]:
            continue
        reason, hint = (kind == "cuda" and idle_gpu(seen)) or ("", "")
        raise UsageError(
            f"there is no device {device} here (torch {seen.torch_version})"
            + (f": {reason}" if reason else ""),
            hint=hint or "--device auto takes what there is",
        )
    return devices


def idle_gpu(seen: Seen) -> tuple[str, str] | None:
    """(what is wrong, what to do) where an NVIDIA GPU is here that torch does not use."""
    if not seen.has_nvidia or seen.gpus:
        return None
    if seen.torch_cuda is not None:
        return (
            f"this machine has an NVIDIA GPU, but torch (for CUDA {seen.torch_cuda}) cannot use it",
            "nvidia-smi says whether the driver is well",
        )
    version = seen.torch_version.partition("+")[0]
    source = "https://pypi.org/simple"  # its Linux wheels are those with CUDA
    if sys.platform == "win32":
        source = "https://download.pytorch.org/whl/cu126"
    return (
        f"this machine has an NVIDIA GPU, but torch {seen.torch_version} is a build for CPUs only",
        f"pip install --force-reinstall --index-url {source} torch=={version}",
    )


def _words(device: str, seen: Seen) -> str:
    kind, _, index = device.partition(":")
    if kind == "cuda":
        return f"{device}, {seen.gpus[int(index or 0)]}"
    if kind == "mps":
        return f"mps, {platform.processor() or platform.machine()}"
    return f"cpu, {os.cpu_count()} cores"
