"""What this machine draws, read from the counters that its processors and GPUs keep of energy.

In: nothing. Out: joules so far of each counter that can be read, and from two readings watts. RAPL
counts processor packages (Linux's powercap, since 2020 for root alone), NVML counts GPUs from Volta
on. Neither sees disks, fans or the power supply's loss: a meter at the plug says more.
"""

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True, slots=True)
class Counter:
    """One that only rises, but for where it begins again after `wraps_j`."""

    name: str
    read_j: Callable[[], float]
    wraps_j: float = 0.0


Reading = tuple[float, Mapping[str, float]]  # when, in seconds; joules by counter


def find_counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Those that can be read now."""
    return [*_packages(powercap), *_gpus()]


def read_all(counters: Sequence[Counter]) -> Reading:
    return time.monotonic(), {counter.name: counter.read_j() for counter in counters}


def watts_between(counters: Sequence[Counter], before: Reading, after: Reading) -> Decimal:
    """Mean power of all counters together."""
    elapsed_s = after[0] - before[0]
    if elapsed_s <= 0:
        return Decimal(0)
    joules = 0.0
    for counter in counters:
        spent = after[1][counter.name] - before[1][counter.name]
        joules += spent if spent >= 0 else spent + counter.wraps_j
    return round(Decimal(max(0.0, joules / elapsed_s)), 2)


def _packages(powercap: Path) -> list[Counter]:
    """Processor packages; what lies within one (cores, memory) is counted in it."""
    found = []
    for zone in sorted(powercap.glob("*-rapl:[0-9]*")):
        if zone.name.count(":") != 1:
            continue
        file, most = zone / "energy_uj", zone / "max_energy_range_uj"
        with suppress(OSError, ValueError):
            name = f"rapl {(zone / 'name').read_text().strip()} {zone.name}"
            counter = Counter(name, _in_file(file), int(most.read_text()) / 1e6)
            counter.read_j()
            found.append(counter)
    return found


def _in_file(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e6


def _gpus() -> list[Counter]:
    try:
        nvml = ctypes.CDLL(NVML)
        if nvml.nvmlInit_v2() != 0:
            return []
    except (OSError, AttributeError):
        return []
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        device = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            continue
        counter = Counter(f"nvml gpu {index}", _of_gpu(nvml, device))
        with suppress(OSError):
            counter.read_j()
            found.append(counter)
    return found


def _of_gpu(nvml: ctypes.CDLL, device: ctypes.c_void_p) -> Callable[[], float]:
    def read() -> float:
        millijoules = ctypes.c_ulonglong()
        if nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)) != 0:
            raise OSError("this GPU does not count its energy")
        return millijoules.value / 1e3

    return read
