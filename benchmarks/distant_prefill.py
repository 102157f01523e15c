"""Time to the first token of a long prompt over a chain of far nodes, beside what bounds it.

Four nodes behind the link lab's proxies, 25 ms apart, each way as wide as said; the client is with
them. Random Llama 8 x 512, float32. In each round one prompt is asked of our chain and of one of
nodes that run it whole and send it on in one piece, unpacked. The bound: no chain computes
faster than all of this machine's cores (`BothCores`: half the blocks each, at the same time), nor
sends faster than a link; and a row has to pass all links:
max(compute, bytes / rate) + the links' delays, where bytes are those of unpacked float32 rows.
Goals: <= 0.6 x whole, <= 1.2 x the bound at 100 Mbit/s. Run: python benchmarks/distant_prefill.py
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import common
from link_lab import LabSwarm, Way
from speculation import LLAMA_8_512

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.local import even_split
from manyhands.models import Model, find_model
from protocol.messages import Span
from protocol.wire import wire_format
from scheduler import Client, GenerationRequest, Token

N_NODES, N_BLOCKS = 4, 8
WAIT_S = 120.0
CHUNK = 256  # rows of a step in `compute_s`


class Swarm(LabSwarm):
    program = (str(Path(__file__).parent / "linklab" / "node_program.py"),)


WHOLE = ("--lab-whole-prompts", "--pack", "never")


@asynccontextmanager
async def chain(
    options: Sequence[str], model: str, way: Way
) -> AsyncIterator[tuple[Client, Model]]:
    """`options`: of `serve`, besides the usual ones."""
    spans = even_split(N_BLOCKS, N_NODES)
    ways = {(a, b): way for a in range(N_NODES) for b in range(N_NODES) if a != b}
    with tempfile.TemporaryDirectory(prefix="manyhands-lab-") as scratch:
        swarm = Swarm(model, spans, Path(scratch), ways, options=options)
        home = Home.at(Path(scratch) / "client")
        async with swarm.far_apart(), open_client(home, swarm.addresses) as client:
            yield client, find_model(model)


def prompt(n_rows: int, salt: int) -> list[int]:
    """A new one each time: no prefix of it is known."""
    return [1 + (i * 7919 + salt * 104_729) % 31_000 for i in range(n_rows)]


async def first_token(client: Client, request: GenerationRequest) -> tuple[float, int]:
    """Seconds until it came, and which one it is."""
    began = time.perf_counter()
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Token):
                return time.perf_counter() - began, event.token_id
    raise RuntimeError("no token came")


def compute(directory: str, span: str, n_rows: int, rounds: int) -> None:
    """In a process of its own: seconds that a span takes, for each line that comes in."""
    import torch

    from node.engine import StepItem, load_shard

    torch.set_num_threads(1)
    engine = load_shard(Path(directory), Span(*map(int, span.split(":"))), dtype="float32")
    for _ in range(rounds + 1):
        lease = engine.open(n_rows)
        rows = (
            torch.tensor(prompt(n_rows, 1))
            if span.startswith("0:")
            else torch.randn(n_rows, LLAMA_8_512["hidden_size"])
        )
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        with torch.inference_mode():
            for at in range(0, n_rows, CHUNK):
                engine.step([StepItem(lease, at, rows[at : at + CHUNK], int(at + CHUNK >= n_rows))])
        print(time.perf_counter() - began, flush=True)
        lease.close()


class BothCores:
    """Two halves of the model, run at the same time: what this machine's cores need for it all."""

    def __init__(self, directory: str, n_rows: int, rounds: int) -> None:
        middle = N_BLOCKS // 2
        arguments = [
            (directory, span, str(n_rows), str(rounds))
            for span in (f"0:{middle}", f"{middle}:{N_BLOCKS}")
        ]
        self._halves = [
            subprocess.Popen(
                [sys.executable, __file__, "--compute", *each],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for each in arguments
        ]

    def measure_s(self) -> float:
        for half in self._halves:
            assert half.stdout is not None
            half.stdout.readline()
        for half in self._halves:
            assert half.stdin is not None
            half.stdin.write("\n")
            half.stdin.flush()
        return max(float(half.stdout.readline()) for half in self._halves if half.stdout)

    def end(self) -> None:
        for half in self._halves:
            half.kill()
            half.wait()


async def at_rate(model: str, mbit: float, options: argparse.Namespace) -> None:
    way = Way(options.ms, mbit * 1e6 / 8)
    cores = BothCores(model, options.rows, options.rounds)
    times: dict[str, list[float]] = {"whole": [], "ours": [], "compute": []}
    async with AsyncExitStack() as stack:
        whole = await stack.enter_async_context(chain(WHOLE, model, way))
        ours = await stack.enter_async_context(chain(options.serve.split(), model, way))
        stack.callback(cores.end)
        await asyncio.sleep(options.settle)
        for salt in range(-1, options.rounds):
            tokens = []
            for name, (client, found) in (("whole", whole), ("ours", ours)):
                request = replace(
                    common.request(found, prompt(options.rows, salt), 1), wait_s=WAIT_S
                )
                took, token = await first_token(client, request)
                tokens.append(token)
                if salt >= 0:
                    times[name].append(took)
            assert tokens[0] == tokens[1], "the first token differs"
            spent = cores.measure_s()
            if salt >= 0:
                times["compute"].append(spent)
            print(f"  {mbit:g} Mbit/s: {took:.2f} s, compute {spent:.2f}", file=sys.stderr)
    print(mbit, {name: [round(v, 3) for v in values] for name, values in times.items()})
    report(mbit, options, {name: common.median(values) for name, values in times.items()})


def report(mbit: float, options: argparse.Namespace, took: dict[str, float]) -> None:
    row_bytes = wire_format(options.wire).row_bytes(LLAMA_8_512["hidden_size"])
    sent_s = options.rows * row_bytes * 8 / (mbit * 1e6)
    delays_s = N_NODES * options.ms / 1000
    bound_s = max(took["compute"], sent_s) + delays_s
    print(
        f"{mbit:g} Mbit/s: whole {took['whole']:.2f}, ours {took['ours']:.2f} s "
        f"({took['ours'] / took['whole']:.2f} x); compute {took['compute']:.2f}, "
        f"sent {sent_s:.2f}, bound {bound_s:.2f} ({took['ours'] / bound_s:.2f} x)",
        flush=True,
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--ms", type=float, default=25.0, help="of each link, one way")
    parser.add_argument("--mbit", type=float, nargs="*", default=[100.0, 15.0])
    parser.add_argument(
        "--settle", type=float, default=15.0, help="seconds for links to be measured"
    )
    parser.add_argument("--wire", default="float32")
    parser.add_argument("--serve", default="", help="more options for our nodes")
    options = parser.parse_args()
    with common.random_llama(**LLAMA_8_512, max_position_embeddings=4096) as directory:
        for mbit in options.mbit:
            await at_rate(str(directory), mbit, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compute"]:
        compute(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        asyncio.run(main())
