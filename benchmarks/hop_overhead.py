"""What a hop costs besides computing: frame in, queue, frame out; real nodes over mutual TLS.

Rings of two and of four nodes on loopback, whose blocks compute nothing (`idle_node.py`); one
session, a row of 768 float32 values (3 KiB) per frame. A hop's time is the difference of the two
rings' times per token, by two: ends, draws and events cancel out. Its CPU is what the middle nodes'
processes spent, all threads, per frame. The ring's own time per token by its hops stands beside it.
Everything is on: peers are verified, work is priced and metered, statements signed, fingerprints
kept; a second pass does without the last. Goals: <= 0.8 ms, <= 1.0 ms of CPU.
Run: python benchmarks/hop_overhead.py [--tokens 1500] [--rounds 3]
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import common

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import LocalNode, LocalSwarm, even_split
from manyhands.models import Model, find_model
from scheduler import Client, Token

BLOCKS, PROMPT, WARM = 4, list(range(1, 9)), 200  # WARM: tokens of each answer, not counted
TICKS = os.sysconf("SC_CLK_TCK")


class IdleSwarm(LocalSwarm):
    program = (str(Path(__file__).with_name("idle_node.py")),)


Ring = tuple[IdleSwarm, Client, Model]


@asynccontextmanager
async def ring(directory: str, n_nodes: int) -> AsyncIterator[Ring]:
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch:
        spans = even_split(BLOCKS, n_nodes)
        swarm = IdleSwarm(directory, spans, Path(scratch), price_per_mtl=100, threads=1)
        home = Home.at(Path(scratch) / "client")
        async with swarm.running(), open_client(home, swarm.addresses) as client:
            yield swarm, client, find_model(directory)


def cpu_s(node: LocalNode) -> float:
    """What its process has spent so far, in all threads."""
    assert node.process is not None
    fields = Path(f"/proc/{node.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def one_answer(of: Ring, n_tokens: int) -> tuple[list[float], float]:
    """Milliseconds between tokens, and milliseconds of CPU per frame of a node that is no end."""
    swarm, client, model = of
    times: list[float] = []
    before = dict[int, float]()
    async with client.generate(common.request(model, PROMPT, n_tokens)) as generation:
        async for event in generation:
            if isinstance(event, Token):
                times.append(time.perf_counter())
            if len(times) == WARM:
                before = {node.index: cpu_s(node) for node in swarm.nodes}
            if len(times) == n_tokens:
                break
        middle = swarm.nodes[1:-1] or swarm.nodes
        spent = [cpu_s(node) - before[node.index] for node in middle]
    gaps = [1e3 * (later - earlier) for earlier, later in pairwise(times[WARM:])]
    return gaps, 1e3 * sum(spent) / len(spent) / len(gaps)


def at(share: float, values: list[float]) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


async def measure(directory: str, flag: Path, options: argparse.Namespace) -> list[str]:
    gaps: dict[int, list[float]] = {2: [], 4: []}
    cpu: list[float] = []
    async with ring(directory, 2) as two, ring(directory, 4) as four:
        flag.touch()  # noqa: ASYNC240 (nothing else runs here)
        for _ in range(options.rounds):
            gaps[2] += (await one_answer(two, options.tokens))[0]
            answered, spent = await one_answer(four, options.tokens)
            gaps[4] += answered
            cpu.append(spent)
    hops = [(at(share, gaps[4]) - at(share, gaps[2])) / 2 for share in (0.5, 0.99)]
    rings = [at(share, gaps[4]) / 4 for share in (0.5, 0.99)]
    return [*(f"{ms:.2f}" for ms in (*hops, *rings)), f"{common.median(cpu):.2f}"]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        common.random_llama(num_hidden_layers=BLOCKS) as directory,
    ):
        for fingerprints in ("on", "off"):
            flag = Path(scratch) / fingerprints
            os.environ["IDLE"], os.environ["MANYHANDS_FINGERPRINTS"] = str(flag), fingerprints
            rows.append([fingerprints, *await measure(str(directory), flag, options)])
    print(f"\n{common.machine()}; load {os.getloadavg()[0]:.0f}\n")
    heading = ["fingerprints", "a hop, p50 ms", "p99", "ring / 4, p50 ms", "p99", "CPU ms/frame"]
    common.table(heading, rows)


if __name__ == "__main__":
    asyncio.run(main())
