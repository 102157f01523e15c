"""50 nodes, of which 30 % leave and as many join per minute, while clients ask all the time.

Real nodes and engines (a random Llama of 6 blocks) over real loopback sockets, in one process.
Every other leaver says goodbye as it should; the rest is cut off at once, as by SIGKILL: sockets
close and nothing more is heard. A joiner is a new peer that loads the leaver's span anew and knows
three nodes. Clients know eight nodes from the beginning, which leave like all others; each answer
is compared with the one to the same request before the churn.

How long tables take to agree is looked at twice a second: from a leave or join until every node
that was there then, and still is, has heard. What the process holds at rest is compared, before and
after. Connections may become more, to bounds of their own: between chain neighbours, which stay
open while idle; of gossip, a few of each node; of clients, one to each node. A connection is two
descriptors here, and a link ten tasks: of who dialled, four (it runs, looks for a better way,
writes, reads) and one of gRPC's; of the other side, three (it handles, writes, reads) and two.
Run: python benchmarks/churn.py [--minutes 10] [--nodes 50]
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import common
from churn_swarm import ChurningSwarm, Held, held

from node.neighbours import REST_S
from node.node import Node
from node.partners import KEPT
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from scheduler import Client, GenerationRequest
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, add_byte_tokenizer, whole

SPANS = ((0, 2), (2, 4), (4, 6), (0, 3), (3, 6))  # by turns; every block has many hosts
N_CLIENT_JOIN = 8
LOOK_S, AGREE_S = 0.5, 30.0
EXPIRED_S = 40.0  # records of who left are gone by then
KNOWN_GOAL_S, GOODBYE_GOAL_S, KILLED_GOAL_S = 5.0, 5.0, 30.0  # the last is a record's lifetime
MORE_TASKS, MORE_FILES, MORE_THREADS, MORE_MEMORY = 1.05, 1.05, 1.1, 1.15  # of what there was
LINK_TASKS, CONNECTION_FILES = 10, 2  # of both ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    nodes: int = 50
    minutes: float = 10.0
    per_minute: float = 0.3  # of the nodes
    clients: int = 3
    tokens: int = 24
    prompts: int = 6
    think_s: float = 0.5  # of a client, between two answers
    settle_s: float = EXPIRED_S  # before what is held is counted
    seed: int = 1

    @property
    def every_s(self) -> float:
        return 60.0 / (self.nodes * self.per_minute)


@dataclass(slots=True)
class Change:
    """A leave or a join, and when every table had it."""

    kind: str  # "killed", "goodbye" or "joined"
    peer: str
    at_s: float
    witnesses: list[Node]  # which have not heard yet
    agreed_s: float | None = None


@dataclass(slots=True)
class Seen:
    """What happened."""

    changes: list[Change] = field(default_factory=list)
    answers_s: list[float] = field(default_factory=list)
    failovers: int = 0
    wrong: list[str] = field(default_factory=list)
    n_asked: int = 0
    is_over: bool = False  # the churn: answers under way are the last ones

    @property
    def is_open(self) -> bool:
        """Whether somebody has not heard of a change."""
        return any(change.agreed_s is None for change in self.changes)


async def churn(plan: Plan, swarm: ChurningSwarm, seen: Seen) -> None:
    """For so many minutes, one leaves and one joins at a time."""
    until_s = time.monotonic() + plan.minutes * 60
    tasks: set[asyncio.Task[None]] = set()
    n = 0
    while (now_s := time.monotonic()) < until_s:
        leaver = swarm.die.choice(swarm.nodes)
        tasks.add(asyncio.create_task(_replace(swarm, leaver, seen, is_kill=n % 2 == 0)))
        n += 1
        for done in [task for task in tasks if task.done()]:
            tasks.remove(done)
            done.result()
        await asyncio.sleep(max(0.0, min(now_s + plan.every_s, until_s) - time.monotonic()))
    await asyncio.gather(*tasks)


async def _replace(swarm: ChurningSwarm, leaver: LocalNode, seen: Seen, *, is_kill: bool) -> None:
    span, peer = leaver.node.serving.span, leaver.node.peer_id
    left_s = time.monotonic()
    await swarm.lose(leaver, is_kill=is_kill)
    witnesses = [other.node for other in swarm.nodes]
    at_s = left_s if is_kill else time.monotonic()  # a goodbye is said at the end of a drain
    seen.changes.append(Change("killed" if is_kill else "goodbye", peer, at_s, witnesses))
    [joiner] = await swarm.start((span.start, span.stop))
    witnesses = [other.node for other in swarm.nodes if other is not joiner]
    seen.changes.append(Change("joined", joiner.node.peer_id, time.monotonic(), witnesses))


async def watch(swarm: ChurningSwarm, seen: Seen) -> None:
    """Note when all have heard of a change, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_S)
        look(swarm, seen)


def look(swarm: ChurningSwarm, seen: Seen) -> None:
    now_ms, now_s = wall_ms(), time.monotonic()
    up = {id(local.node) for local in swarm.nodes}
    gone = {change.peer for change in seen.changes if change.kind != "joined"}
    known: dict[int, set[str]] = {}
    for change in seen.changes:
        if change.agreed_s is not None:
            continue
        if change.kind == "joined" and change.peer in gone:
            change.agreed_s, change.witnesses = float("nan"), []  # left before; tells nothing
            continue
        waiting = []
        for node in change.witnesses:
            if id(node) not in up:
                continue
            if id(node) not in known:
                known[id(node)] = {peer.peer_id for peer in node.gossip.table.live(now_ms)}
            if (change.peer in known[id(node)]) != (change.kind == "joined"):
                waiting.append(node)
        change.witnesses = waiting
        if not waiting:
            change.agreed_s = now_s - change.at_s


async def ask(
    client: Client, plan: Plan, right: dict[GenerationRequest, Sequence[int]], seen: Seen, seed: int
) -> None:
    """One answer after the other, until the churn is over."""
    die = random.Random(seed)
    while not seen.is_over:
        request, began_s = die.choice([*right]), time.monotonic()
        try:
            result = await whole(client.generate(request))
        except ManyhandsError as error:
            seen.n_asked += 1
            seen.wrong.append(f"{type(error).__name__}: {error}")
        else:
            seen.n_asked += 1
            seen.answers_s.append(time.monotonic() - began_s)
            seen.failovers += result.failovers
            if list(result.token_ids) != right[request]:
                seen.wrong.append(f"other tokens, after {result.failovers} failovers")
        await asyncio.sleep(die.uniform(0, 2 * plan.think_s))


async def measure(
    plan: Plan, directory: Path, home: Path, *, agree_s: float = AGREE_S
) -> tuple[Seen, Held, Held]:
    """Start all, ask in peace, rest, churn while asking, rest again."""
    die, seen = random.Random(plan.seed), Seen()
    swarm = ChurningSwarm(directory, home, die)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(swarm.aclose)
        for index in range(plan.nodes):
            await swarm.start(SPANS[index % len(SPANS)])
        say(f"{plan.nodes} nodes are up")
        every, swarm.nodes = swarm.nodes, swarm.nodes[:N_CLIENT_JOIN]
        names = [f"client-{index}" for index in range(plan.clients)]
        clients = [await stack.enter_async_context(swarm.client(name)) for name in names]
        swarm.nodes = every
        right = await undisturbed(clients[0], swarm, plan, die)
        await asyncio.sleep(min(plan.settle_s, EXPIRED_S))
        before = held(swarm)
        say(f"before: {before}")
        asking = [
            asyncio.create_task(ask(client, plan, right, seen, plan.seed + index))
            for index, client in enumerate(clients)
        ]
        watching = asyncio.create_task(watch(swarm, seen))
        await churn(plan, swarm, seen)
        seen.is_over = True
        await asyncio.gather(*asking)
        until_s = time.monotonic() + agree_s
        while seen.is_open and time.monotonic() < until_s:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(LOOK_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.sleep(plan.settle_s)
        for change in seen.changes:
            change.witnesses = []
        after = held(swarm)
        say(f"after: {after}")
    return seen, before, after


async def undisturbed(
    client: Client, swarm: ChurningSwarm, plan: Plan, die: random.Random
) -> dict[GenerationRequest, Sequence[int]]:
    right: dict[GenerationRequest, Sequence[int]] = {}
    for _ in range(plan.prompts):
        prompt = [die.randrange(3, swarm.manifest.vocab_size) for _ in range(die.randint(8, 40))]
        request = swarm.request(
            prompt, max_tokens=plan.tokens, ignore_eos=True, wait_s=20.0, timeout_s=60.0
        )
        right[request] = list((await whole(client.generate(request))).token_ids)
    return right


def report(plan: Plan, seen: Seen, before: Held, after: Held) -> bool:
    """The tables; whether all goals are met."""
    counted = Counter(change.kind for change in seen.changes)
    answers = sorted(seen.answers_s) or [0.0]
    rows = [
        (
            "answers complete and right",
            f"{seen.n_asked - len(seen.wrong)} of {seen.n_asked}",
            "all",
        ),
        ("of them with a hop lost, times", str(seen.failovers), ""),
        ("an answer p50, p95, worst, s", _spread(answers), ""),
    ]
    goals = {"joined": KNOWN_GOAL_S, "goodbye": GOODBYE_GOAL_S, "killed": KILLED_GOAL_S}
    is_well = not seen.wrong and seen.n_asked > 0
    for kind, goal_s in goals.items():
        of_kind = [change for change in seen.changes if change.kind == kind]
        took = sorted(c.agreed_s for c in of_kind if c.agreed_s is not None and c.agreed_s >= 0)
        never = sum(change.agreed_s is None for change in of_kind)
        what = "known to" if kind == "joined" else "gone from"
        name = f"{counted[kind]} {kind}: {what} all tables p50, p95, worst, s"
        rows.append((name, _spread(took or [0.0]), f"p95 <= {goal_s:g}"))
        rows.append((f"{kind}, and not within {AGREE_S:g} s of the end", str(never), "0"))
        is_well &= not never and (not took or quantile(took, 0.95) <= goal_s)
    common.table(("what", "measured", "goal"), rows)
    print()
    return report_held(plan, before, after) and is_well


def report_held(plan: Plan, before: Held, after: Held) -> bool:
    links = max(0, after.links - before.links)
    connections = max(0, after.connections - before.connections)
    bounds = {
        "nodes": float(before.nodes),
        "links": float("inf"),
        "gossip": float(plan.nodes * KEPT),
        "asking": float(plan.nodes * plan.clients),
        "unnamed": float("inf"),
        "kept_mb": float("inf"),
        "in_use_mb": float("inf"),
        "gaps_mb": float("inf"),
        "tasks": before.tasks * MORE_TASKS + links * LINK_TASKS,
        "files": before.files * MORE_FILES + connections * CONNECTION_FILES,
        "threads": before.threads * MORE_THREADS,
        "resident_mb": before.resident_mb * MORE_MEMORY,
    }
    rows, is_well = [], True
    for name, bound in bounds.items():
        then, now = getattr(before, name), getattr(after, name)
        is_well &= now <= bound
        rows.append(
            (name, f"{then:g}", f"{now:g}", f"<= {bound:.0f}" if bound < float("inf") else "")
        )
    common.table((f"at rest, {plan.nodes} nodes in a process", "before", "after", "goal"), rows)
    return is_well


def _spread(ascending: Sequence[float]) -> str:
    return f"{quantile(ascending, 0.5):.1f}, {quantile(ascending, 0.95):.1f}, {ascending[-1]:.1f}"


def quantile(ascending: Sequence[float], q: float) -> float:
    return ascending[min(len(ascending) - 1, int(q * len(ascending)))]


@contextmanager
def tiny_checkpoint() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(prefix="manyhands-churn-") as scratch:
        directory = Path(scratch) / "tiny"
        yield add_byte_tokenizer(write_checkpoint(directory)), Path(scratch) / "homes"


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--settle-s", type=float, default=REST_S + 60, help="until nodes let go of what rests"
    )
    plan = Plan(**vars(parser.parse_args()))
    logging.disable(logging.WARNING)
    with tiny_checkpoint() as (directory, home):
        began_s, cpu_s = time.monotonic(), time.process_time()
        seen, before, after = asyncio.run(measure(plan, directory, home))
    cores = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
    print(f"\n{common.machine()}; {plan.minutes:g} minutes, seed {plan.seed}, {cores:.2f} cores\n")
    is_well = report(plan, seen, before, after)
    for what, n in Counter(seen.wrong).most_common(10):
        print(f"\nWRONG, {n} times: {what}")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
