"""What a hop costs besides computing: frame in, queue, frame out; real nodes over mutual TLS.

Rings of two and of four nodes on loopback, whose blocks compute nothing (`idle_node.py`); one
session, a row of 768 float32 values (3 KiB) per frame. A hop's time is the difference of the two
rings' times per token, by two: ends, draws and events cancel out. Its CPU is what the middle nodes'
processes spent, all threads, per frame. The ring's own time per token by its hops stands beside it.
Everything is on: peers are verified, work is priced and metered, statements signed, fingerprints
kept; other rings do without the last. In turns with them processes pass frames of that size on over
bare gRPC (`bare_ring.py`): the floor, which on a busy machine rises, too. Goals: <= 0.8 ms, <= 1.0
ms of CPU.
Run: python benchmarks/hop_overhead.py [--tokens 800] [--rounds 6] [--beside DIR]
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import common
from bare_ring import BareRing, cpu_s

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import LocalNode, LocalSwarm, even_split
from manyhands.models import Model, find_model
from scheduler import Client, Token

BLOCKS, PROMPT, WARM = 4, list(range(1, 9)), 200  # WARM: tokens of each answer, not counted
HERE = Path(__file__).resolve().parents[1]
FRAME_BYTES = 3072 + 46  # a row and its header


class IdleSwarm(LocalSwarm):
    """`program` is that of the working tree whose nodes are measured."""


Ring = tuple[IdleSwarm, Client, Model]


@asynccontextmanager
async def ring(directory: str, n_nodes: int) -> AsyncIterator[Ring]:
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as scratch:
        spans = even_split(BLOCKS, n_nodes)
        swarm = IdleSwarm(directory, spans, Path(scratch), price_per_mtl=100, threads=1)
        home = Home.at(Path(scratch) / "client")
        async with swarm.running(), open_client(home, swarm.addresses) as client:
            yield swarm, client, find_model(directory)


def spent_s(node: LocalNode) -> float:
    assert node.process is not None
    return cpu_s(node.process.pid)


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
                before = {node.index: spent_s(node) for node in swarm.nodes}
            if len(times) == n_tokens:
                break
        middle = swarm.nodes[1:-1] or swarm.nodes
        spent = [spent_s(node) - before[node.index] for node in middle]
    gaps = [1e3 * (later - earlier) for earlier, later in pairwise(times[WARM:])]
    return gaps, 1e3 * sum(spent) / len(spent) / len(gaps)


def at(share: float, values: list[float]) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


class Found:
    """Of rings of one kind: milliseconds of each token by size of the ring, and of CPU."""

    def __init__(self) -> None:
        self.gaps: dict[int, list[float]] = {2: [], 4: []}
        self.cpu: list[float] = []

    def add(self, size: int, gaps: list[float], cpu_ms: float) -> None:
        self.gaps[size] += gaps
        if size == 4:
            self.cpu.append(cpu_ms)

    def row(self, name: str) -> list[str]:
        two, four = self.gaps[2], self.gaps[4]
        hops = [(at(share, four) - at(share, two)) / 2 for share in (0.5, 0.99)]
        rings = [at(share, four) / 4 for share in (0.5, 0.99)]
        return [name, *(f"{ms:.2f}" for ms in (*hops, *rings, common.median(self.cpu)))]


async def measure(directory: str, scratch: Path, options: argparse.Namespace) -> list[list[str]]:
    trees = {"on": HERE, "off": HERE} | ({"on, beside": options.beside} if options.beside else {})
    flag, found, floor = scratch / "idle", {name: Found() for name in trees}, Found()
    async with AsyncExitStack() as stack:
        rings: dict[tuple[str, int], Ring] = {}
        for name, tree in trees.items():
            IdleSwarm.program = (str(tree / "benchmarks" / "idle_node.py"),)
            os.environ["IDLE"], os.environ["MANYHANDS_FINGERPRINTS"] = str(flag), name.split(",")[0]
            for size in (2, 4):
                rings[name, size] = await stack.enter_async_context(ring(directory, size))
        bare = {n: await stack.enter_async_context(BareRing(n, FRAME_BYTES)) for n in (2, 4)}
        for each in bare.values():
            await each.times(WARM)
        flag.touch()
        for _ in range(options.rounds):
            for (name, size), built in rings.items():
                found[name].add(size, *await one_answer(built, options.tokens))
            for size, each in bare.items():
                floor.add(size, *await each.times(options.tokens - WARM))
    return [*(kept.row(name) for name, kept in found.items()), floor.row("bare gRPC: the floor")]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--beside", type=Path, help="another working tree, to compare with")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as scratch,
        common.random_llama(num_hidden_layers=BLOCKS) as directory,
    ):
        rows = await measure(str(directory), Path(scratch), options)
    print(f"\n{common.machine()}; load {os.getloadavg()[0]:.0f}\n")
    heading = ["fingerprints", "a hop, p50 ms", "p99", "ring / 4, p50 ms", "p99", "CPU ms/frame"]
    common.table(heading, rows)


if __name__ == "__main__":
    asyncio.run(main())
