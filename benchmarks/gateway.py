"""What the gateway costs: beside a Python client that asks the same swarm directly.

Random Llama 12 x 768, fp32, one node, greedy, over real mTLS sockets; the gateway is a process of
its own, as operators run it, and is asked over HTTP with streams. Both sides take turns in every
round, and the one that begins is drawn, so that a busy machine slows both alike. Both keep their
connection: the client the one to its peer, callers the one to the gateway, as their libraries do.

A first token takes some 80 ms of which the model has all but a few, and these vary by more than
what is looked for: so first tokens have many short rounds of their own, and what is told is the
median of their differences, with the middle half of what such a median would be if other rounds
had been drawn (bootstrap). Each token is told likewise, of fewer and longer rounds. Then many
streams at once, and what 256 open ones hold of the gateway's memory (on the built-in model, whose
rows are small).
Goals: first token <= +3 ms, each token <= +0.5 ms, total throughput at 32 streams >= 95 %, 256
streams <= 150 MB. Run: python benchmarks/gateway.py [--quick]
"""

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import common

from manyhands.local import even_split
from manyhands.models import Model
from scheduler import Client, Token

PROMPT, TOKENS, STREAMS, IDLE, WARMING = 32, 48, 32, 256, 2
Pair = tuple[list[float], list[float]]  # when it was asked and when tokens came: directly, by HTTP
KEPT = {"reuse_prefix": False, "spares": False}


@dataclass(frozen=True)
class Gateway:
    """A process that listens at `host`:`port`."""

    pid: int
    host: str
    port: int

    @property
    def memory_bytes(self) -> int:
        """What is its own: shared pages are counted by their share."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))

    @property
    def cpu_s(self) -> float:
        """User and system time so far."""
        told = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")

    async def caller(self) -> "Caller":
        return Caller(*await asyncio.open_connection(self.host, self.port))


@dataclass(frozen=True)
class Caller:
    """One connection, for one stream after the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, asked: dict[str, object]) -> None:
        body = json.dumps({**asked, "stream": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        await self.writer.drain()

    async def times(self) -> list[float]:
        """When each token came; to the end."""
        found = []
        async for text in self.reader:
            if text.startswith(b"data: {") and b'"finish_reason":null' in text:
                found.append(time.perf_counter())
            if text == b"0\r\n":  # the last chunk
                await self.reader.readline()
                return found
        raise RuntimeError("a stream broke off")

    async def begun(self) -> None:
        """Return once a token has come."""
        async for text in self.reader:
            if text.startswith(b"data: {"):
                return
        raise RuntimeError("a stream broke off")


@dataclass(frozen=True)
class Side:
    """Many streams at once. cpu_ms: of the client, or of the gateway that is one, per token."""

    tokens_per_s: float
    cpu_ms: float


@asynccontextmanager
async def gateway(model: str, join: Sequence[object]) -> AsyncIterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="manyhands-bench-") as home:
        joins = [word for address in join for word in ("--join", str(address))]
        command = [sys.executable, "-m", "manyhands", "gateway", model, *joins]
        process = await asyncio.create_subprocess_exec(
            *command, "--port", "0", "--home", home, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            url = urlsplit(json.loads(await process.stdout.readline())["url"])
            yield Gateway(process.pid, str(url.hostname), int(url.port or 0))
        finally:
            process.terminate()
            await process.wait()


def asked_of(model: Model, prompt: Sequence[int], n_tokens: int) -> dict[str, object]:
    return {
        "model": model.name,
        "prompt": list(prompt),
        "max_tokens": n_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "return_token_ids": True,  # a chunk for each token, also where it has no text
        "manyhands": KEPT,
    }


async def directly(client: Client, model: Model, prompt: list[int], n: int) -> list[float]:
    """When it was asked, and when each token came."""
    times = [time.perf_counter()]
    async with client.generate(common.request(model, prompt, n)) as generation:
        async for event in generation:
            if isinstance(event, Token):
                times.append(time.perf_counter())
    return times


async def by_http(caller: Caller, model: Model, prompt: list[int], n: int) -> list[float]:
    began = time.perf_counter()
    await caller.ask(asked_of(model, prompt, n))
    return [began, *await caller.times()]


def prompt_of(seed: int) -> list[int]:  # a new one each time: no prefix of it is known
    return [1 + (i * 7919 + seed * 104_729) % 1500 for i in range(PROMPT)]


def first_ms(times: Sequence[float]) -> float:
    return 1e3 * (times[1] - times[0])


def per_token_ms(times: Sequence[float]) -> float:
    gaps = [later - earlier for earlier, later in pairwise(times[1:])]
    return 1e3 * sum(gaps) / len(gaps)


async def singly(
    client: Client, caller: Caller, model: Model, rounds: int, n_tokens: int
) -> list[Pair]:
    """One after the other: directly, and through the gateway."""
    pairs, die = [], random.Random(n_tokens)
    for seed in range(WARMING + rounds):
        told: dict[int, list[float]] = {}
        for side in die.sample((0, 1), 2):
            prompt = prompt_of(100_000 * n_tokens + 2 * seed + side)
            if side == 0:
                told[side] = await directly(client, model, prompt, n_tokens)
            else:
                told[side] = await by_http(caller, model, prompt, n_tokens)
        if seed >= WARMING:
            pairs.append((told[0], told[1]))
    return pairs


async def together(
    client: Client, door: Gateway, model: Model, n_tokens: int, seed: int
) -> tuple[Side, Side]:
    """All streams: directly, and through the gateway."""
    sides = []
    for side in (0, 1):
        prompts = [prompt_of(10_000 * (side + 1) + 100 * seed + i) for i in range(STREAMS)]
        callers = [await door.caller() for _ in range(STREAMS * side)]
        began, own_s, its_s = time.perf_counter(), time.process_time(), door.cpu_s
        if side == 0:
            asking = [directly(client, model, prompt, n_tokens) for prompt in prompts]
        else:
            asking = [
                by_http(caller, model, prompt, n_tokens)
                for caller, prompt in zip(callers, prompts, strict=True)
            ]
        told = await asyncio.gather(*asking)
        n_told = sum(len(times) - 1 for times in told)
        rate = n_told / (time.perf_counter() - began)
        cpu_s = time.process_time() - own_s if side == 0 else door.cpu_s - its_s
        sides.append(Side(rate, 1e3 * cpu_s / n_told))
    return sides[0], sides[1]


async def idle_bytes(n_streams: int) -> tuple[int, int]:
    """What the gateway holds before, and with so many streams open that all have begun."""
    async with (
        common.local_swarm("tiny", even_split(8, 2)) as (swarm, _, model),
        gateway("tiny", swarm.addresses) as door,
    ):
        await by_http(await door.caller(), model, prompt_of(0), 4)
        before = door.memory_bytes
        asked = asked_of(model, prompt_of(1)[:8], 300)
        callers = [await door.caller() for _ in range(n_streams)]
        await asyncio.gather(*(caller.ask(asked) for caller in callers))
        await asyncio.gather(*(caller.begun() for caller in callers))
        after = door.memory_bytes
        for caller in callers:
            caller.writer.close()
        return before, after


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--firsts", type=int, default=100, help="rounds of first tokens")
    parser.add_argument("--rounds", type=int, default=15, help="of whole answers")
    parser.add_argument("--quick", action="store_true", help="few rounds, 64 idle streams")
    options = parser.parse_args()
    n_firsts, rounds = (10, 3) if options.quick else (options.firsts, options.rounds)
    n_idle = 64 if options.quick else IDLE
    with common.random_llama() as directory:
        spans, name = even_split(12, 1), str(directory)
        async with (
            common.local_swarm(name, spans) as (swarm, client, model),
            gateway(name, swarm.addresses) as door,
        ):
            caller = await door.caller()
            firsts = await singly(client, caller, model, n_firsts, 2)
            wholes = await singly(client, caller, model, rounds, TOKENS)
            n = 1 if options.quick else 3
            sides = [await together(client, door, model, 24, seed) for seed in range(n)]
    print(f"\n{common.machine()}; {n_firsts} first tokens, {rounds} answers of {TOKENS} tokens\n")
    tell(firsts, wholes, sides)  # at once: the rest may fail, as where a machine is too busy for it
    before, after = await idle_bytes(n_idle)
    more = (after - before) / 1e6
    print()
    common.table(
        ["gateway's memory", "before, MB", f"with {n_idle} streams, MB", "more, MB", "goal"],
        [["", f"{before / 1e6:.0f}", f"{after / 1e6:.0f}", f"{more:.0f}", "<= 150"]],
    )


def tell(firsts: list[Pair], wholes: list[Pair], sides: list[tuple[Side, Side]]) -> None:
    rows = [
        ["first token, ms", *compared(firsts, first_ms), "+3"],
        ["each token, ms", *compared(wholes, per_token_ms), "+0.5"],
    ]
    cpu = [common.median([pair[side].cpu_ms for pair in sides]) for side in (0, 1)]
    name = f"processor time per token, {STREAMS} streams, ms"
    rows.append([name, f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", f"{cpu[1] - cpu[0]:+.2f}", ""])
    theirs = common.median([one.tokens_per_s for one, _ in sides])
    ours = common.median([other.tokens_per_s for _, other in sides])
    share = f"{100 * ours / theirs:.1f} %"
    rows.append([f"{STREAMS} streams, tokens/s", f"{theirs:.0f}", f"{ours:.0f}", share, ">= 95 %"])
    common.table(["", "directly", "gateway", "difference", "goal"], rows)


def compared(pairs: list[Pair], of: Callable[[Sequence[float]], float]) -> list[str]:
    """The medians, and that of the differences with its middle half."""
    direct, http = ([of(pair[side]) for pair in pairs] for side in (0, 1))
    more = [other - one for one, other in zip(direct, http, strict=True)]
    die = random.Random(0)
    drawn = sorted(common.median(die.choices(more, k=len(more))) for _ in range(1000))
    about = f"{common.median(more):+.2f} ({drawn[250]:+.2f} to {drawn[750]:+.2f})"
    return [f"{common.median(direct):.2f}", f"{common.median(http):.2f}", about]


if __name__ == "__main__":
    asyncio.run(main())
