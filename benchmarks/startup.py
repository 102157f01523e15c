"""How soon a node is ready, what memory it takes, and how fast the command line answers.

Goals: `manyhands --help` <= 0.3 s; a node with `tiny` ready <= 5 s alone, <= 10 s when four start
together on two cores; resident memory <= 500 MB + weights and KV; while loading, never more than
1.3 x the span's bytes above that. Run: python benchmarks/startup.py
"""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import common

from manyhands.local import even_split
from protocol.messages import Span

MB = 1e6


def help_s() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "manyhands", "--help"], check=True, capture_output=True)
    return time.perf_counter() - began


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident now, peak) of a process."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    resident, peak = (int(fields[name].split()[0]) * 1024 / MB for name in ("VmRSS", "VmHWM"))
    return resident, peak


async def started(model: str, spans: list[Span]) -> tuple[float, list[tuple[float, float]]]:
    """(seconds until the last was ready, memory of each)."""
    async with common.local_swarm(model, spans) as (swarm, _, _):
        processes = [node.process for node in swarm.nodes]
        memory = [memory_mb(process.pid) for process in processes if process is not None]
        return max(node.ready_s for node in swarm.nodes), memory


async def main() -> None:
    helps = [help_s() for _ in range(7)]
    await started("tiny", [Span(0, 8)])  # warms the file cache
    alone = [await started("tiny", [Span(0, 8)]) for _ in range(3)]
    together = [await started("tiny", list(even_split(8, 4))) for _ in range(3)]
    with common.random_llama() as directory:
        weights = (directory / "model.safetensors").stat().st_size / MB
        _, [(big_rss, big_peak)] = await started(str(directory), [Span(0, 12)])
    tiny_rss = common.median([memory[0] for _, memories in alone for memory in memories])
    print(f"\n{common.machine()}\n")
    common.table(
        ["what", "measured", "goal"],
        [
            ["manyhands --help, median of 7", f"{common.median(helps):.2f} s", "<= 0.3 s"],
            [
                "tiny ready, alone, median of 3",
                f"{common.median([s for s, _ in alone]):.1f} s",
                "<= 5 s",
            ],
            [
                "tiny ready, four together, median of 3",
                f"{common.median([s for s, _ in together]):.1f} s",
                "<= 10 s",
            ],
            [
                "resident, node with tiny (7 MB of weights)",
                f"{tiny_rss:.0f} MB",
                "<= 500 MB + weights",
            ],
            [
                f"resident, node with {weights:.0f} MB of weights",
                f"{big_rss:.0f} MB",
                f"<= {500 + weights:.0f} MB",
            ],
            [
                "peak while loading it",
                f"{big_peak:.0f} MB",
                f"<= {500 + 1.3 * weights:.0f} MB",
            ],
        ],
    )


if __name__ == "__main__":
    asyncio.run(main())
