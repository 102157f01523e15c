"""A swarm of `up` processes under steady load: do memory, descriptors, tasks and latency stay flat?

Clients ask one answer after the other (greedy, 128 to 256 ids, 32 tokens) of `up --nodes 3`; once a
minute each process tells its tasks ("status"), and /proc its resident memory (less what it retains
on purpose) and descriptors. The first fifth of the minutes, two at least, warms up and is left out.

A line is laid through the rest by Theil and Sen's estimator (Sen 1968: the median of the slopes of
all pairs), which one odd minute does not bend. Flat: the line rises by less per hour than the
limits below, or over the whole run by less than what one sample differs from the next anyway. A
short run can only say so of itself; 30 minutes are meant.
Run: python benchmarks/soak.py [--minutes 30] [--clients 2]
"""

import argparse
import asyncio
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path

import common
from chaos_swarm import ChaosSwarm, Host, chaos_swarm, resident_bytes

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.models import Model, find_model
from protocol.errors import ManyhandsError
from protocol.transport import Transport
from scheduler import Client, Finished, GenerationRequest

PROMPT_IDS, N_TOKENS, N_PROMPTS = (128, 256), 32, 16
WARM_SHARE, LEAST_WARM = 0.2, 2
# By how much a line may rise in an hour, as a share of where it begins.
LIMITS = {"memory": 0.05, "files": 0.05, "tasks": 0.10, "p50": 0.10, "p95": 0.20}


@dataclass(slots=True)
class Series:
    """One number, once a minute."""

    kind: str  # of `LIMITS`
    name: str
    unit: str
    values: list[float] = field(default_factory=list)

    def judged(self, every_s: float) -> "Verdict":
        n_warm = max(LEAST_WARM, int(len(self.values) * WARM_SHARE))
        return judge(self.values[n_warm:], every_s, LIMITS[self.kind])


@dataclass(frozen=True, slots=True)
class Verdict:
    begins: float
    per_hour: float
    noise: float  # what one sample differs from the next, as a rule
    is_flat: bool


def judge(values: Sequence[float], every_s: float, limit: float) -> Verdict:
    """Whether so many values, one every `every_s` seconds, rise.

    Raises:
        ValueError: fewer than three: no line can be told from chance.
    """
    if len(values) < 3:
        raise ValueError("a slope needs three samples after warm-up: more --minutes")
    numbered = combinations(enumerate(values), 2)
    step = statistics.median((later - earlier) / (j - i) for (i, earlier), (j, later) in numbered)
    begins = statistics.median(value - step * i for i, value in enumerate(values))
    noise = statistics.median(abs(later - earlier) for earlier, later in pairwise(values))
    per_hour, rise = step * 3600 / every_s, step * (len(values) - 1)
    return Verdict(begins, per_hour, noise, per_hour <= limit * begins or rise <= noise)


class Soak:
    """The series of all processes, and of answers."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(hosts)
        self.series: dict[tuple[str, str], Series] = {}
        self.answers_s: list[float] = []  # since the last sample
        self.n_answers, self.wrong = 0, list[str]()

    def note(self, kind: str, name: str, unit: str, value: float) -> None:
        self.series.setdefault((kind, name), Series(kind, name, unit)).values.append(value)

    async def sample(self, transport: Transport) -> None:
        for index, host in enumerate(self.hosts):
            connection = await transport.dial(host.address)
            told = json.loads(await connection.call("status", b"", timeout_s=10))
            await connection.aclose()
            pid = host.pid
            assert pid is not None, "a node's process has ended"
            name = f"node {index + 1}"
            self._note_process(
                name, pid, told["tasks"], told["retained_bytes"] + told["audit_bytes"]
            )
        self._note_process("client", os.getpid(), len(asyncio.all_tasks()), 0)
        took = sorted(self.answers_s)
        self.answers_s.clear()
        if took:
            self.note("p50", "an answer, p50", "s", statistics.median(took))
            self.note("p95", "an answer, p95", "s", took[int(0.95 * len(took))])
            say(f"{self.n_answers} answers, p50 {statistics.median(took):.2f} s")

    def _note_process(self, name: str, pid: int, n_tasks: int, kept_bytes: int) -> None:
        self.note("memory", f"{name}, resident", "MB", (resident_bytes(pid) - kept_bytes) / 1e6)
        self.note("files", f"{name}, descriptors", "", len(os.listdir(f"/proc/{pid}/fd")))
        self.note("tasks", f"{name}, tasks", "", n_tasks)


def prompts(model: Model, die: random.Random) -> list[GenerationRequest]:
    vocabulary = model.manifest.vocab_size
    return [
        common.request(
            model,
            [die.randrange(3, vocabulary) for _ in range(die.randint(*PROMPT_IDS))],
            N_TOKENS,
            reuse_prefix=index % 2 == 0,
        )
        for index in range(N_PROMPTS)
    ]


async def answer(client: Client, request: GenerationRequest) -> tuple[int, ...]:
    async with client.generate(request) as generation:
        async for event in generation:
            if isinstance(event, Finished):
                return event.result.token_ids
    raise AssertionError("an answer ended without a result or an error")


async def ask(
    client: Client, right: dict[GenerationRequest, tuple[int, ...]], soak: Soak, seed: int
) -> None:
    """One answer after the other, until cancelled."""
    die = random.Random(seed)
    while True:
        request, began_s = die.choice([*right]), time.monotonic()
        try:
            tokens = await answer(client, request)
        except ManyhandsError as error:
            soak.wrong.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(1.0)
            continue
        soak.answers_s.append(time.monotonic() - began_s)
        soak.n_answers += 1
        if tokens != right[request]:
            soak.wrong.append("other tokens than at the beginning")


async def soak(options: argparse.Namespace, model_name: str, directory: Path) -> Soak:
    model = find_model(model_name)
    asked = prompts(model, random.Random(options.seed))
    opening = chaos_swarm(
        model_name, model.manifest.n_blocks, directory, nodes=options.nodes, replicas=1
    )
    async with opening as swarm, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                open_client(Home.at(directory / f"client-{n}"), swarm.addresses)
            )
            for n in range(options.clients)
        ]
        return await _under_load(options, clients, asked, swarm)


async def _under_load(
    options: argparse.Namespace,
    clients: Sequence[Client],
    asked: Sequence[GenerationRequest],
    swarm: ChaosSwarm,
) -> Soak:
    found = Soak(swarm.hosts)
    right = {request: await answer(clients[0], request) for request in asked}
    asking = [
        asyncio.create_task(ask(client, right, found, options.seed + n))
        for n, client in enumerate(clients)
    ]
    try:
        until_s = time.monotonic() + options.minutes * 60
        while (next_s := time.monotonic() + options.every) <= until_s + 1:
            await asyncio.sleep(next_s - time.monotonic())
            for task in asking:
                if task.done():
                    task.result()
            await found.sample(clients[0].transport)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return found


def report(found: Soak, every_s: float) -> bool:
    rows, is_well = [], not found.wrong and found.n_answers > 0
    for series in found.series.values():
        verdict = series.judged(every_s)
        is_well &= verdict.is_flat
        share = verdict.per_hour / verdict.begins if verdict.begins else 0.0
        rows.append(
            (
                f"{series.name} {series.unit}".strip(),
                f"{verdict.begins:.4g}",
                f"{series.values[-1]:.4g}",
                f"{verdict.noise:.2g}",
                f"{verdict.per_hour:+.3g} ({share:+.1%})",
                f"{LIMITS[series.kind]:.0%}",
                "yes" if verdict.is_flat else "NO",
            )
        )
    common.table(("what", "begins", "ends", "noise", "per hour", "limit", "flat"), rows)
    print(f"\n{found.n_answers} answers, {len(found.wrong)} of them wrong or lost; goal none.")
    for what in sorted(set(found.wrong))[:10]:
        print(f"\nWRONG: {what}")
    return is_well


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between samples")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.minutes * 60 / options.every < LEAST_WARM + 3:
        parser.error("at least five samples are needed: more --minutes, or a smaller --every")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="manyhands-soak-") as scratch:
        found = asyncio.run(soak(options, options.model, Path(scratch)))
    print(f"\n{common.machine()}; {options.minutes:g} minutes, {options.clients} clients\n")
    return 0 if report(found, options.every) else 1


if __name__ == "__main__":
    sys.exit(main())
