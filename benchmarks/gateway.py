"""What the gateway costs: beside a Python client that asks the same swarm directly.

Random Llama 12 x 768, fp32, one node, greedy, over real mTLS sockets; the gateway is a process of
its own, as operators run it, and is asked over HTTP with streams. Both sides take turns in every
round, so that a busy machine slows both alike; medians are compared. Then many streams at once,
and what 256 open ones hold of the gateway's memory (on the built-in model, whose rows are small).
Goals: first token <= +3 ms, each token <= +0.5 ms, total throughput at 32 streams >= 95 %, 256
streams <= 150 MB. Run: python benchmarks/gateway.py [--quick]
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import common

from manyhands.local import even_split
from manyhands.models import Model
from scheduler import Client, Token

PROMPT, TOKENS, STREAMS, IDLE = 32, 48, 32, 256
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

    async def ask(self, asked: dict[str, object]) -> "Stream":
        reader, writer = await asyncio.open_connection(self.host, self.port)
        body = json.dumps({**asked, "stream": True}).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        return Stream(reader, writer)


@dataclass(frozen=True)
class Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def times(self) -> list[float]:
        """When each token came; to the end."""
        found = []
        async for text in self.reader:
            if text.startswith(b"data: {") and b'"finish_reason":null' in text:
                found.append(time.perf_counter())
            if text.startswith(b"data: [DONE]"):
                break
        self.writer.close()
        return found

    async def begun(self) -> None:
        """Return once a token has come."""
        async for text in self.reader:
            if text.startswith(b"data: {"):
                return


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


async def by_http(door: Gateway, model: Model, prompt: list[int], n: int) -> list[float]:
    began = time.perf_counter()
    stream = await door.ask(asked_of(model, prompt, n))
    return [began, *await stream.times()]


def prompt_of(seed: int) -> list[int]:  # a new one each time: no prefix of it is known
    return [1 + (i * 7919 + seed * 104_729) % 1500 for i in range(PROMPT)]


def per_token_ms(times: Sequence[float]) -> float:
    gaps = [later - earlier for earlier, later in pairwise(times[1:])]
    return 1e3 * sum(gaps) / len(gaps)


async def singly(
    client: Client, door: Gateway, model: Model, rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    direct, http = [], []
    for seed in range(rounds + 1):
        sides = [directly(client, model, prompt_of(2 * seed), TOKENS)]
        sides.append(by_http(door, model, prompt_of(2 * seed + 1), TOKENS))
        first, second = (0, 1) if seed % 2 else (1, 0)
        told: dict[int, list[float]] = {first: await sides[first], second: await sides[second]}
        if seed:  # the first warms both up
            direct.append(told[0])
            http.append(told[1])
    return direct, http


async def together(
    client: Client, door: Gateway, model: Model, n_tokens: int, seed: int
) -> tuple[Side, Side]:
    """All streams: directly, and through the gateway."""
    sides = []
    for side in (0, 1):
        prompts = [prompt_of(10_000 * (side + 1) + 100 * seed + i) for i in range(STREAMS)]
        began, own_s, its_s = time.perf_counter(), time.process_time(), door.cpu_s
        if side == 0:
            asking = [directly(client, model, prompt, n_tokens) for prompt in prompts]
        else:
            asking = [by_http(door, model, prompt, n_tokens) for prompt in prompts]
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
        await by_http(door, model, prompt_of(0), 4)
        before = door.memory_bytes
        asked = asked_of(model, prompt_of(1)[:8], 300)
        streams = await asyncio.gather(*(door.ask(asked) for _ in range(n_streams)))
        await asyncio.gather(*(stream.begun() for stream in streams))
        after = door.memory_bytes
        for stream in streams:
            stream.writer.close()
        return before, after


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three rounds, 64 idle streams")
    options = parser.parse_args()
    rounds, n_idle = (3, 64) if options.quick else (options.rounds, IDLE)
    with common.random_llama() as directory:
        spans, name = even_split(12, 1), str(directory)
        async with (
            common.local_swarm(name, spans) as (swarm, client, model),
            gateway(name, swarm.addresses) as door,
        ):
            direct, http = await singly(client, door, model, rounds)
            n = 1 if options.quick else 3
            sides = [await together(client, door, model, 24, seed) for seed in range(n)]
    before, after = await idle_bytes(n_idle)
    print(f"\n{common.machine()}; {rounds} round(s), {TOKENS} tokens\n")
    tell(direct, http, sides)
    more = (after - before) / 1e6
    print()
    common.table(
        ["gateway's memory", "before, MB", f"with {n_idle} streams, MB", "more, MB", "goal"],
        [["", f"{before / 1e6:.0f}", f"{after / 1e6:.0f}", f"{more:.0f}", "<= 150"]],
    )


def tell(
    direct: list[list[float]], http: list[list[float]], sides: list[tuple[Side, Side]]
) -> None:
    def firsts(told: list[list[float]]) -> float:
        return common.median([1e3 * (times[1] - times[0]) for times in told])

    def gaps(told: list[list[float]]) -> float:
        return common.median([per_token_ms(times) for times in told])

    theirs = common.median([one.tokens_per_s for one, _ in sides])
    ours = common.median([other.tokens_per_s for _, other in sides])
    cpu = [common.median([pair[side].cpu_ms for pair in sides]) for side in (0, 1)]
    rows = [
        ("first token, ms", firsts(direct), firsts(http), "+3"),
        ("each token, ms", gaps(direct), gaps(http), "+0.5"),
        (f"processor time per token, {STREAMS} streams, ms", cpu[0], cpu[1], ""),
    ]
    told = [
        [name, f"{one:.2f}", f"{other:.2f}", f"{other - one:+.2f}", goal]
        for name, one, other, goal in rows
    ]
    share = f"{100 * ours / theirs:.1f} %"
    told.append([f"{STREAMS} streams, tokens/s", f"{theirs:.0f}", f"{ours:.0f}", share, ">= 95 %"])
    common.table(["", "directly", "gateway", "difference", "goal"], told)


if __name__ == "__main__":
    asyncio.run(main())
