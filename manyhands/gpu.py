"""What this machine's NVIDIA GPUs do at the moment, by `nvidia-smi`, which comes with their driver.

In: nothing. Out: a value for each, with None for what a card does not say; none where there is no
driver. A call takes tens of milliseconds: make it on a thread.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

ASKED = "index,utilization.gpu,memory.used,temperature.gpu,power.draw"
ASK_S = 3.0
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNow:
    """busy: the share of the last moments in which it computed, 0 to 1."""

    index: int
    busy: float | None = None
    used_bytes: float | None = None
    celsius: float | None = None
    watts: float | None = None


def look() -> list[GpuNow]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return list(parse(done.stdout)) if done.returncode == 0 else []


def parse(table: str) -> Iterator[GpuNow]:
    """Of what it prints; lines of another form are passed over."""
    for line in table.splitlines():
        cells = [_number(cell) for cell in line.split(",")]
        if len(cells) != len(ASKED.split(",")) or cells[0] is None:
            continue
        percent, mib = cells[1:3]
        yield GpuNow(
            index=int(cells[0]),
            busy=None if percent is None else percent / 100,
            used_bytes=None if mib is None else mib * MIB,
            celsius=cells[3],
            watts=cells[4],
        )


def _number(cell: str) -> float | None:
    """None: `[N/A]` and the like."""
    text = cell.strip()
    return float(text) if text.replace(".", "", 1).isdecimal() else None
