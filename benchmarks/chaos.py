"""Answers while nodes are killed, stalled, drained and joined: right ones, and with what pauses?

`manyhands up --replicas 2` in real processes, a random Llama 12 x 768, prompts of 256 to 320 ids,
several generations at a time, greedy and sampled with a seed. Every answer is compared with the one
to the same request while nothing happened. Faults follow a schedule drawn from the seed, the next
one so many tokens after the last; every block keeps a host that is up.

A pause is the time between two tokens in which the chain was mended, less the usual time between
two; of a stall, less the time until the client gave the silent node up, which is told apart.
Goals: all answers right; pauses p50 <= 0.5 s, p95 <= 2 s; nothing left behind in nodes and client.
Run: python benchmarks/chaos.py [--generations 200] [--seed 1]
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import common
from chaos_swarm import AtRest, ChaosSwarm, Fault, at_rest, chaos_swarm, own_rest

from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.models import Model, find_model
from protocol.errors import ManyhandsError
from protocol.sampling import SamplingParams
from scheduler import Client, Finished, GenerationRequest, GenerationResult, Routed, Token
from scheduler.request import NO_DRAFTER

PROMPT_IDS = (256, 320)
AGAIN_TOKENS = 8  # when nothing could be done to the swarm that it must bear
P50_S, P95_S = 0.5, 2.0
MORE_FILES, MORE_TASKS, MORE_MEMORY = 16, 40, 0.10  # at rest than before: links to peers stay open
WARM_ROUNDS, STILL_MEMORY = 12, 0.005  # until no process grows by more in a round


@dataclass(slots=True)
class Run:
    """One generation as its caller saw it."""

    request: GenerationRequest
    tokens_s: list[float] = field(default_factory=list)
    epochs_s: list[float] = field(default_factory=list)  # when the client began to mend the chain
    peers: list[tuple[float, frozenset[str]]] = field(default_factory=list)  # of the chain, since
    result: GenerationResult | None = None
    error: str = ""

    def gaps(self) -> Iterator[tuple[float, float]]:
        yield from zip(self.tokens_s, self.tokens_s[1:], strict=False)

    @property
    def usual_gap_s(self) -> float:
        return statistics.median(later - earlier for earlier, later in self.gaps())

    def chain_at(self, at_s: float) -> frozenset[str]:
        chains = [peers for since_s, peers in self.peers if since_s <= at_s]
        return chains[-1] if chains else frozenset()


@dataclass(frozen=True, slots=True)
class Pause:
    """Between two tokens."""

    kind: str  # of the fault behind it; "none" when no fault explains it
    whole_s: float
    detect_s: float  # until the client began to mend

    @property
    def recovery_s(self) -> float:
        return max(0.0, self.whole_s - (self.detect_s if self.kind == "stall" else 0.0))


def pauses(run: Run, faults: Sequence[Fault]) -> list[Pause]:
    """Every gap in which the chain was mended, and every gap that a stall stretched."""
    if len(run.tokens_s) < 3:
        return []
    found = []
    for earlier_s, later_s in run.gaps():
        mended = [at_s for at_s in run.epochs_s if earlier_s < at_s <= later_s]
        causes = [
            fault
            for fault in faults
            if fault.kind != "join"
            and fault.at_s < (mended[0] if mended else later_s)
            and fault.until_s >= earlier_s - 10.0  # a drain takes a while
            and fault.peer in run.chain_at(earlier_s)
        ]
        cause = causes[-1] if causes else None
        whole_s = later_s - earlier_s - run.usual_gap_s
        if mended:
            began_s = max(earlier_s, cause.at_s) if cause else mended[0]
            kind = cause.kind if cause else "none"
            found.append(Pause(kind, whole_s, max(0.0, mended[0] - began_s)))
    return found


def requests(
    model: Model, die: random.Random, n_prompts: int, n_tokens: int
) -> list[GenerationRequest]:
    """Greedy and sampled in turn; every third begins where others may have ended."""
    vocabulary = model.manifest.vocab_size
    asked = []
    for index in range(n_prompts):
        prompt = [die.randrange(3, vocabulary) for _ in range(die.randint(*PROMPT_IDS))]
        sampled = SamplingParams(temperature=1.0, top_p=0.95, seed=die.getrandbits(32))
        asked.append(
            GenerationRequest(
                manifest=model.manifest.digest,
                n_blocks=model.manifest.n_blocks,
                prompt_ids=tuple(prompt),
                max_tokens=n_tokens,
                sampling=sampled if index % 2 else SamplingParams(),
                ignore_eos=True,
                reuse_prefix=index % 3 == 0,
                wait_s=30.0,
                timeout_s=300.0,
            )
        )
    return asked


async def answer(client: Client, request: GenerationRequest, ticks: "Ticks") -> Run:
    run = Run(request)
    try:
        async with client.generate(request) as generation:
            watching = asyncio.create_task(_watch(generation.session.rules, run))
            try:
                async for event in generation:
                    now_s = time.monotonic()
                    match event:
                        case Token(index=index):
                            assert index == len(run.tokens_s), "a token lost, or repeated"
                            run.tokens_s.append(now_s)
                            ticks.token()
                        case Routed(route=route):
                            chain = frozenset(step.peer for step in route)
                            run.peers.append((now_s, chain))
                            ticks.chains[id(run)] = chain
                        case Finished(result=result):
                            run.result = result
            finally:
                watching.cancel()
    except ManyhandsError as error:
        run.error = f"{type(error).__name__}: {error}"
    finally:
        ticks.chains.pop(id(run), None)
    return run


async def _watch(rules: object, run: Run) -> None:
    """When the rules raised the epoch: from then on the chain is being mended."""
    epoch = 0
    while True:
        await asyncio.sleep(0.005)
        if (now := getattr(rules, "epoch")) > epoch:  # noqa: B009 (the rules are the session's own)
            epoch = now
            run.epochs_s.append(time.monotonic())


class Ticks:
    """Tokens of all generations, a way to wait for so many more, and who makes them."""

    def __init__(self) -> None:
        self.n = 0
        self.chains: dict[int, frozenset[str]] = {}  # of the generations that run
        self._grew = asyncio.Event()

    def token(self) -> None:
        self.n += 1
        self._grew.set()

    async def wait_for(self, more: int) -> None:
        goal = self.n + more
        while self.n < goal:
            self._grew.clear()
            await self._grew.wait()


async def disturb(
    swarm: ChaosSwarm, ticks: Ticks, die: random.Random, gap: tuple[int, int]
) -> None:
    """Faults until cancelled."""
    while True:
        await ticks.wait_for(die.randint(*gap))
        while not (told := swarm.strike(die, frozenset().union(*ticks.chains.values()))):
            await ticks.wait_for(AGAIN_TOKENS)
        say(f"  {told}, at token {ticks.n}")


async def generations(
    client: Client, asked: Sequence[GenerationRequest], at_once: int, ticks: Ticks
) -> list[Run]:
    room, runs = asyncio.Semaphore(at_once), []

    async def one(request: GenerationRequest) -> None:
        async with room:
            run = await answer(client, request, ticks)
        runs.append(run)
        what = run.error or f"{run.result.failovers if run.result else '?'} failovers"
        say(f"{len(runs)} of {len(asked)}: {what}")

    async with asyncio.TaskGroup() as tasks:
        for request in asked:
            tasks.create_task(one(request))
    return runs


def report(
    runs: Sequence[Run], right: dict[GenerationRequest, GenerationResult], faults: Sequence[Fault]
) -> bool:
    """The tables; whether all goals are met."""
    wrong = [run for run in runs if run.result is None or not _same(run.result, right[run.request])]
    for run in wrong:
        say(f"WRONG: {run.error or _difference(run, right[run.request])}")
    found = [pause for run in runs for pause in pauses(run, faults)]
    recovery_s = sorted(pause.recovery_s for pause in found if pause.kind != "none") or [0.0]
    counted = Counter(fault.kind for fault in faults)
    n_failovers = sum(run.result.failovers for run in runs if run.result)
    p50_s, p95_s = quantile(recovery_s, 0.5), quantile(recovery_s, 0.95)
    rows = [
        ["answers right", f"{len(runs) - len(wrong)} of {len(runs)}", "all"],
        ["faults", ", ".join(f"{n} {kind}" for kind, n in sorted(counted.items())), ""],
        ["failovers", str(n_failovers), ""],
        ["pause p50, s", f"{p50_s:.2f}", f"<= {P50_S:g}"],
        ["pause p95, s", f"{p95_s:.2f}", f"<= {P95_S:g}"],
        ["pause worst, s", f"{recovery_s[-1]:.2f}", ""],
    ]
    for kind in ("kill", "drain", "stall", "none"):
        of_kind = sorted(pause.recovery_s for pause in found if pause.kind == kind)
        if of_kind:
            label = f"after a {kind}" if kind != "none" else "without a fault of ours"
            text = f"{len(of_kind)}: {quantile(of_kind, 0.5):.2f}, {quantile(of_kind, 0.95):.2f}"
            rows.append([f"{label}: number; p50, p95", text, ""])
    if stalls_s := sorted(pause.detect_s for pause in found if pause.kind == "stall"):
        text = f"{quantile(stalls_s, 0.5):.2f}, {stalls_s[-1]:.2f}"
        rows.append(["until a stall was noticed: p50, worst, s", text, ""])
    common.table(["what", "measured", "goal"], rows)
    return not wrong and p50_s <= P50_S and p95_s <= P95_S


def report_rest(before: dict[str, AtRest], after: dict[str, AtRest]) -> bool:
    """What client and nodes hold at rest, before and after; whether nothing grew."""
    rows, all_well = [], True
    for name, then in before.items():
        now = after[name]
        grown = now.resident_bytes / then.resident_bytes - 1
        well = (
            not now.sessions
            and now.tasks <= then.tasks + MORE_TASKS
            and now.files <= then.files + MORE_FILES
            and grown <= MORE_MEMORY
        )
        all_well &= well
        rows.append(
            [
                name if name == "client" else f"{name[-6:]}",
                str(now.sessions),
                f"{then.tasks}, {now.tasks}",
                f"{then.files}, {now.files}",
                f"{then.resident_bytes / 1e6:.0f}, {now.resident_bytes / 1e6:.0f}: {grown:+.1%}",
                "yes" if well else "NO",
            ]
        )
    common.table(["at rest", "sessions", "tasks", "files", "resident MB", "as before"], rows)
    return all_well


def quantile(ascending: Sequence[float], q: float) -> float:
    return ascending[min(len(ascending) - 1, int(q * len(ascending)))]


def _same(one: GenerationResult, other: GenerationResult) -> bool:
    return (one.token_ids, one.text) == (other.token_ids, other.text)


def _difference(run: Run, right: GenerationResult) -> str:
    assert run.result is not None
    pairs = enumerate(zip(run.result.token_ids, right.token_ids, strict=False))
    index = next((i for i, (one, other) in pairs if one != other), -1)
    kind = "sampled" if run.request.sampling.temperature else "greedy"
    reused = f", {run.result.n_cached} cached" if run.request.reuse_prefix else ""
    return f"{kind}{reused}, {run.result.failovers} failovers: token {index} is another one"


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def warmed_up(
    client: Client,
    swarm: ChaosSwarm,
    asked: Sequence[GenerationRequest],
    at_once: int,
    ticks: Ticks,
) -> dict[str, AtRest]:
    """What all hold at rest once more answers make no process larger.

    A process touches its memory bit by bit: allocators take it for each thread, pools and buffers
    grow to the largest step that came yet. Of a node that is no leak, though a few answers are not
    enough to see it end.
    """
    found: dict[str, AtRest] = {}
    for _ in range(WARM_ROUNDS):
        before = found
        await generations(client, asked, at_once, ticks)
        found = {"client": own_rest(), **await at_rest(client.transport, swarm.hosts)}
        if before and all(
            found[name].resident_bytes <= then.resident_bytes * (1 + STILL_MEMORY)
            for name, then in before.items()
        ):
            break
    return found


async def chaos(model_name: str, directory: Path, options: argparse.Namespace) -> bool:
    model, die, ticks = find_model(model_name), random.Random(options.seed), Ticks()
    asked = requests(model, die, options.prompts, options.tokens)
    opening = chaos_swarm(
        model_name,
        model.manifest.n_blocks,
        directory,
        nodes=options.nodes,
        replicas=options.replicas,
    )
    async with opening as swarm, open_client(Home.at(directory), swarm.addresses) as client:
        say("undisturbed")
        alone = await generations(client, asked, 1, ticks)
        right = {run.request: run.result for run in alone if run.result is not None}
        if len(right) < len(asked):
            raise SystemExit(f"not even undisturbed: {[run.error for run in alone]}")
        if options.drafter != NO_DRAFTER:
            right = {replace(one, drafter=options.drafter): it for one, it in right.items()}
            asked = list(right)
        before = await warmed_up(client, swarm, asked, options.at_once, ticks)
        say("disturbed")
        began_s = time.monotonic()
        disturbing = asyncio.create_task(
            disturb(swarm, ticks, random.Random(options.seed), options.gap)
        )
        plan = [die.choice(asked) for _ in range(options.generations)]
        runs = await generations(client, plan, options.at_once, ticks)
        took_s = time.monotonic() - began_s
        disturbing.cancel()
        with suppress(asyncio.CancelledError):
            await disturbing
        await swarm.calm_down()
        await generations(client, asked, options.at_once, ticks)  # new processes warm up, too
        await asyncio.sleep(1.0)
        after = {"client": own_rest(), **await at_rest(client.transport, swarm.hosts)}
    print(f"\n{common.machine()}; seed {options.seed}, {took_s:.0f} s\n")
    is_well = report(runs, right, swarm.faults)
    print()
    return report_rest(before, after) and is_well


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--prompts", type=int, default=12, help="different ones")
    parser.add_argument(
        "--gap", type=int, nargs=2, default=(60, 240), help="tokens between faults, least and most"
    )
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--model", help="default: a random Llama 12 x 768")
    parser.add_argument("--drafter", default=NO_DRAFTER, help="of answers that are disturbed")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    choosing = nullcontext(options.model) if options.model else common.random_llama()
    with choosing as model, tempfile.TemporaryDirectory(prefix="manyhands-chaos-") as scratch:
        return 0 if asyncio.run(chaos(str(model), Path(scratch), options)) else 1


if __name__ == "__main__":
    sys.exit(main())
