"""What spares save when a hop dies under several answers at once, and what they cost undisturbed.

A random Llama 12 x 768 over three spans, each held twice, real processes; prompts of 256 to 320
ids. In turn with spares and without: undisturbed answers, and answers of which one hop is killed at
the 30th token. Pauses are between two tokens, less the usual time between two. What answers cost is
the CPU time of all nodes and the client, which other work on the machine changes least.
Goals: pauses p50 <= 0.5 s, p95 <= 2 s with spares; undisturbed, at most 3 % more CPU time.
Run: python benchmarks/spares.py [--sessions 4] [--rounds 6] [--seed 1]
"""

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import common

from manyhands.local import LocalSwarm, even_split
from scheduler import Client, Finished, GenerationRequest, Routed, Token

N_TOKENS, KILL_AT = 60, 30
PROMPT_IDS = (256, 320)
SETTLED_S = 3.0  # a node that came up is known to all by then
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Seen:
    """Of one kind."""

    pauses_s: list[float] = field(default_factory=list)
    token_ms: list[float] = field(default_factory=list)  # undisturbed
    cpu_s: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # a replacement began with
    n_wrong: int = 0


class Answers:
    """Several at once; `chain` is the last one of each."""

    def __init__(self, client: Client, asked: Sequence[GenerationRequest]) -> None:
        self._client, self._asked = client, asked
        self._n_late = len(asked)
        self.chains: dict[int, tuple[str, ...]] = {}
        self.all_run = asyncio.Event()  # all have KILL_AT tokens
        self.times_s: list[list[float]] = [[] for _ in asked]
        self.ids: list[tuple[int, ...]] = [() for _ in asked]
        self.cached = [0 for _ in asked]  # rows that a hop began with

    async def run(self) -> None:
        await asyncio.gather(*(self._one(at) for at in range(len(self._asked))))

    async def _one(self, at: int) -> None:
        async with self._client.generate(self._asked[at]) as generation:
            async for event in generation:
                match event:
                    case Routed(route=route):
                        self.chains[at] = tuple(step.peer for step in route)
                    case Token(index=index):
                        self.times_s[at].append(time.monotonic())
                        self._n_late -= index == KILL_AT - 1
                        if not self._n_late:
                            self.all_run.set()
                    case Finished(result=result):
                        self.ids[at] = result.token_ids
                        hops = generation.session.rules.hops
                        self.cached[at] = max(hop.cached for hop in hops)

    def gaps_s(self, at: int) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times_s[at])]


def cpu_s(swarm: LocalSwarm) -> float:
    """Of all nodes, and of this process."""
    total = sum(os.times()[:2])
    for node in swarm.nodes:
        if node.process is not None and node.is_up:
            stat = Path(f"/proc/{node.process.pid}/stat").read_text()
            fields = stat.rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return total


async def undisturbed(
    swarm: LocalSwarm, client: Client, asked: Sequence[GenerationRequest], seen: Seen
) -> list[tuple[int, ...]]:
    before_s, answers = cpu_s(swarm), Answers(client, asked)
    await answers.run()
    await asyncio.sleep(1.0)  # settled, and dropped
    seen.cpu_s.append(cpu_s(swarm) - before_s)
    seen.token_ms += [1000 * common.median(answers.gaps_s(at)) for at in range(len(asked))]
    return answers.ids


async def killed(
    swarm: LocalSwarm,
    client: Client,
    asked: Sequence[GenerationRequest],
    place: int,
    right: Sequence[tuple[int, ...]],
    seen: Seen,
) -> None:
    """One hop of one chain dies, and with it that of all who share it."""
    answers = Answers(client, asked)
    running = asyncio.create_task(answers.run())
    await answers.all_run.wait()
    [victim] = {answers.chains[0][place]}
    struck = [at for at, chain in answers.chains.items() if victim in chain]
    node = swarm.by_peer(victim)
    assert node is not None
    swarm.kill(node)
    await running
    for at in struck:
        gaps = answers.gaps_s(at)
        seen.pauses_s.append(max(gaps) - common.median(gaps))
        seen.rows.append(answers.cached[at])
    seen.n_wrong += sum(got != one for got, one in zip(answers.ids, right, strict=True))
    await node.ended()
    await swarm.start(node)
    await asyncio.sleep(SETTLED_S)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    die = random.Random(options.seed)
    seen = {True: Seen(), False: Seen()}
    with common.random_llama() as directory:
        spans = even_split(12, 3)
        async with common.local_swarm(str(directory), [*spans, *spans]) as (swarm, client, model):
            vocabulary = model.manifest.vocab_size
            prompts = [
                [die.randrange(3, vocabulary) for _ in range(die.randint(*PROMPT_IDS))]
                for _ in range(options.sessions)
            ]
            asked = {
                kind: [
                    replace(common.request(model, prompt, N_TOKENS), spares=kind)
                    for prompt in prompts
                ]
                for kind in seen
            }
            right = await undisturbed(swarm, client, asked[False], Seen())
            for at in range(options.rounds):
                for kind in (True, False) if at % 2 else (False, True):
                    await undisturbed(swarm, client, asked[kind], seen[kind])
                    await killed(swarm, client, asked[kind], at % 3, right, seen[kind])
                    print(f"{at + 1}: spares {kind}, {seen[kind]}", file=sys.stderr, flush=True)
    report(options, seen)
    return 0 if not any(one.n_wrong for one in seen.values()) else 1


def report(options: argparse.Namespace, seen: dict[bool, Seen]) -> None:
    print(f"\n{common.machine()}; seed {options.seed}, {options.sessions} answers at once\n")
    common.table(
        ["spares", "pauses", "p50 s", "p95 s", "rows at hand", "wrong", "ms a token", "CPU s"],
        [
            [
                "yes" if kind else "no",
                str(len(one.pauses_s)),
                f"{common.median(one.pauses_s):.2f}",
                f"{sorted(one.pauses_s)[int(0.95 * (len(one.pauses_s) - 1))]:.2f}",
                f"{common.median(one.rows):.0f}",
                str(one.n_wrong),
                f"{common.median(one.token_ms):.1f}",
                f"{common.median(one.cpu_s):.2f}",
            ]
            for kind, one in seen.items()
        ],
    )
    more = common.median(seen[True].cpu_s) / common.median(seen[False].cpu_s) - 1
    print(f"\nCPU time of undisturbed answers with spares: {100 * more:+.1f} %")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
