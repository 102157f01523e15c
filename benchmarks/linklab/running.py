"""One scenario, run: its swarms stand side by side, its variants take turns.

In: a scenario, and what its links are made of. Out: a row for each turn. Variants that start their
nodes alike share a swarm, whose ways are changed between turns.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks import common
from benchmarks.linklab.asking import Answer, AtTheClient, Plain, by_ring, prompt_of, request_of
from benchmarks.linklab.control import OUTSIDE, Carried, less
from benchmarks.linklab.priority import first
from benchmarks.linklab.rows import Row
from benchmarks.linklab.scenario import (
    CLIENT,
    ELSEWHERE,
    MANYHANDS,
    TRANSFORMERS,
    Fault,
    NodeOptions,
    Scenario,
    Variant,
)
from benchmarks.linklab.swarm import LabSwarm, met
from manyhands.asking import open_client
from manyhands.home import Home
from manyhands.models import Model, find_model
from scheduler import Client

WARM_TOKENS = 8
SETTLED_S = 2.0  # after a peer was started again
Tell = Callable[[str], None]


class OracleSwarm(LabSwarm):
    program = (str(Path(__file__).with_name("node_program.py")),)


@dataclass(slots=True)
class Group:
    """A swarm, and who asks it."""

    swarm: LabSwarm
    client: Client
    at_client: AtTheClient | None = None


@dataclass(slots=True)
class Run:
    """Use `run`."""

    scenario: Scenario
    model: Model
    groups: dict[NodeOptions, Group]
    scratch: Path
    tell: Tell
    is_first: bool = False  # nodes and client go before other work of this machine
    plain: Plain | None = None
    truths: dict[tuple[int, ...], list[tuple[int, ...]]] = field(default_factory=dict)

    async def turn(self, variant: Variant, round: int) -> Row:
        if variant.system == TRANSFORMERS:
            return self._row(variant, round, await self._plainly(variant), {})
        group = self.groups[variant.nodes]
        ways = variant.distances.ways(len(self.scenario.peers))
        before = await group.swarm.lay(ways, self.scenario.uplinks(), self.scenario.seed + round)
        if variant.workload.oracle is not None:
            await self._tell_oracle(group, variant)
        answers = await self._answers(group, variant)
        assert group.swarm.links is not None
        carried = less(await group.swarm.links.sums(), before)
        await self._mend(group)
        return self._row(variant, round, answers, carried)

    async def warm(self, variant: Variant) -> None:
        """A few tokens, before anything counts."""
        few = min(WARM_TOKENS, variant.workload.tokens)
        asked = replace(variant.workload, tokens=few, drafter="none")
        await self.turn(replace(variant, workload=asked), -1)

    async def _answers(self, group: Group, variant: Variant) -> list[Answer]:
        asked = variant.workload
        requests = [request_of(self.model, variant, i) for i in range(asked.sessions)]
        is_counted = asked.tokens > WARM_TOKENS
        faults = self.scenario.faults if is_counted else ()
        async with _striking(group.swarm, faults) as seen:
            if asked.ends == CLIENT:
                answering = [self._at_client(group).answer(each, seen) for each in requests]
            else:
                answering = [
                    by_ring(group.client, each, seen if i == 0 else lambda n: None)
                    for i, each in enumerate(requests)
                ]
            pids = [node.process.pid for node in group.swarm.nodes if node.process is not None]
            with first(pids) if self.is_first else nullcontext():
                return await asyncio.gather(*answering)

    def _at_client(self, group: Group) -> AtTheClient:
        if group.at_client is None:
            home = self.scratch / f"ends-{len(os.listdir(self.scratch))}"
            group.at_client = AtTheClient(self.model, home, group.swarm.addresses)
        return group.at_client

    async def _plainly(self, variant: Variant) -> list[Answer]:
        if self.plain is None:
            self.plain = await asyncio.to_thread(Plain, self.model)
        asked = variant.workload
        requests = [request_of(self.model, variant, i) for i in range(asked.sessions)]
        with first(()) if self.is_first else nullcontext():
            return await self.plain.answers(requests)

    async def _tell_oracle(self, group: Group, variant: Variant) -> None:
        """The answer, from an earlier turn if there was one as long."""
        asked = variant.workload
        prompt = prompt_of(self.model, asked, 0)
        known = max(self.truths.get(prompt, ()), key=len, default=())
        if len(known) < asked.tokens:
            self.tell("the oracle asks what the answer is")
            request = replace(request_of(self.model, variant, 0), drafter="none")
            known = (await by_ring(group.client, request)).token_ids
            self.truths.setdefault(prompt, []).append(known)
        _tell_nodes([*prompt, *known])

    async def _mend(self, group: Group) -> None:
        """Start again whom a fault ended."""
        fallen = [node for node in group.swarm.nodes if not node.is_alive]
        for node in fallen:
            await group.swarm.start(node)
        if fallen:
            await met(group.client, len(group.swarm.nodes))
            await asyncio.sleep(SETTLED_S)

    def _row(
        self,
        variant: Variant,
        round: int,
        answers: Sequence[Answer],
        carried: Carried | None = None,
    ) -> Row:
        asked = variant.workload
        times_s = [at for answer in answers for at in answer.times_s]
        decoding_s = max(times_s) - min(times_s)
        between = {pair: sums for pair, sums in carried.items() if OUTSIDE not in pair}
        all_bytes = sum(sums.n_bytes for sums in carried.values())
        between_bytes = sum(sums.n_bytes for sums in between.values())
        n_came = sum(sums.n_came for sums in between.values())
        return Row(
            scenario=self.scenario.name,
            variant=variant.name,
            system=variant.system,
            round=round,
            sessions=len(answers),
            prompt_tokens=len(prompt_of(self.model, asked, 0)),
            tokens=asked.tokens,
            ttft_ms=common.median([answer.ttft_ms for answer in answers]),
            tpot_ms=common.median([answer.tpot_ms for answer in answers]),
            tokens_per_s=(len(times_s) - len(answers)) / decoding_s if decoding_s else 0.0,
            compute_ms=common.median([sum(answer.hops_ms) for answer in answers]),
            busiest_ms=common.median([max(answer.hops_ms, default=0.0) for answer in answers]),
            bytes_between=between_bytes,
            bytes_client=all_bytes - between_bytes,
            packets_lost=sum(sums.n_lost for sums in carried.values()),
            late_ms=1000 * sum(s.late_s for s in between.values()) / n_came if n_came else 0.0,
            failovers=sum(answer.failovers for answer in answers),
            pause_ms=max((ms for answer in answers for ms in answer.pauses_ms), default=0.0),
            same_tokens=self._are_same(variant, answers),
            load=os.getloadavg()[0],
        )

    def _are_same(self, variant: Variant, answers: Sequence[Answer]) -> bool | None:
        """Each as all others to the same prompt so far, as far as both go."""
        if not variant.is_lossless:
            return None
        verdicts = []
        for i, answer in enumerate(answers):
            known = self.truths.setdefault(prompt_of(self.model, variant.workload, i), [])
            verdicts += [
                all(a == b for a, b in zip(other, answer.token_ids, strict=False))
                for other in known
            ]
            if answer.token_ids not in known:
                known.append(answer.token_ids)
        return all(verdicts) if verdicts else None


@asynccontextmanager
async def _striking(
    swarm: LabSwarm, faults: Sequence[Fault]
) -> AsyncIterator[Callable[[int], None]]:
    """What has to be told of each token of the first session, for faults to come in time."""

    async def later(fault: Fault) -> None:
        await asyncio.sleep(fault.at_s or 0.0)
        swarm.kill(swarm.nodes[fault.kill])

    def seen(n: int) -> None:
        for fault in faults:
            if fault.at_token == n:
                swarm.kill(swarm.nodes[fault.kill])

    timed = [asyncio.create_task(later(fault)) for fault in faults if fault.at_s is not None]
    try:
        yield seen
    finally:
        for task in timed:
            task.cancel()
        await asyncio.gather(*timed, return_exceptions=True)


@asynccontextmanager
async def _standing(scenario: Scenario, make: type[LabSwarm], tell: Tell) -> AsyncIterator[Run]:
    """All swarms, whose nodes have met."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="manyhands-lab-")))
        os.environ["ORACLE"] = str(scratch / "truth.json")
        directory = scenario.model.name or str(
            stack.enter_context(common.random_llama(**scenario.model.sizes))
        )
        run = Run(scenario, find_model(directory), {}, scratch, tell)
        asked = [each for each in scenario.variants if each.system == MANYHANDS]
        for options in dict.fromkeys(variant.nodes for variant in asked):
            first = next(variant for variant in asked if variant.nodes == options)
            place = scratch / f"swarm-{len(run.groups) + 1}"
            place.mkdir()
            tell(f"starting {len(scenario.peers)} nodes: {' '.join(options.serve())}")
            swarm = make(
                directory,
                [peer.span for peer in scenario.peers],
                place,
                first.distances.ways(len(scenario.peers)),
                slow=scenario.slow(),
                uplinks=scenario.uplinks(),
                options=options.serve(),
            )
            await stack.enter_async_context(swarm.far_apart())
            home = Home.at(place / "client")
            client = await stack.enter_async_context(open_client(home, swarm.addresses))
            run.groups[options] = Group(swarm, client)
        for group in run.groups.values():
            with suppress(TimeoutError):
                await met(group.client, len(scenario.peers))
        yield run


async def run(
    scenario: Scenario,
    *,
    make: type[LabSwarm] = OracleSwarm,
    rounds: int,
    is_first: bool = False,
    tell: Tell,
) -> list[Row]:
    """All turns of all rounds; every other round in the other order.

    Raises:
        PermissionError: this user may not go `first`.
    """
    rows: list[Row] = []
    async with _standing(scenario, make, tell) as standing:
        standing.is_first = is_first
        variants = [each for each in scenario.variants if each.system != ELSEWHERE]
        for variant in variants:
            await standing.warm(variant)
        began_s, n_all = time.monotonic(), rounds * len(variants)
        for round in range(rounds):
            for variant in variants if round % 2 == 0 else variants[::-1]:
                rows.append(await standing.turn(variant, round))
                tell(f"[{len(rows)}/{n_all}] {time.monotonic() - began_s:.0f} s {_said(rows[-1])}")
    return rows


def _tell_nodes(truth: Sequence[int]) -> None:
    """What oracles know from now on."""
    Path(os.environ["ORACLE"]).write_text(json.dumps(truth))


def _said(row: Row) -> str:
    same = {True: "", False: ", OTHER TOKENS", None: ""}[row.same_tokens]
    return (
        f"{row.variant}: first token {row.ttft_ms:.0f} ms, then {row.tpot_ms:.1f} ms each, "
        f"{row.tokens_per_s:.1f}/s of {row.sessions}{same}"
    )
