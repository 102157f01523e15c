"""38: whatever happens to a session, no honest hop of it is ever found at fault, or suspected.

A swarm of the built-in model, every window of every canary looked at. In the middle of a canary a
hop is killed, leaves, or is not heard any more; prompts share beginnings; sessions with an adapter
and without share steps; weights are of eight bits.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.findings import Findings
from ledger.verdicts import MATCH
from manyhands.auditing.auditor import Audit
from manyhands.auditing.canaries import draw
from manyhands.auditing.desk import Desk
from manyhands.models import BUILT_IN, find_model
from node.engine import ShardEngine, load_shard
from protocol.messages import Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Client, Finished, Routed, Token
from tests.adapters import write_adapter
from tests.local_swarm import LocalNode, Swarm

FRONT, BACK = (0, 4), (4, 8)
N_TOKENS, AT = 72, 20
CANARIES = 8
SLOW = Faults(delay_s=(0.01, 0.02))  # or an answer is over before anybody is lost

pytestmark = pytest.mark.slow

Disturb = Callable[[MemoryNetwork, Swarm, LocalNode], Awaitable[None]]


async def kill(network: MemoryNetwork, built: Swarm, local: LocalNode) -> None:
    network.kill(local.node.identity.peer_id)


async def drain(network: MemoryNetwork, built: Swarm, local: LocalNode) -> None:
    local.stop.set()


async def stall(network: MemoryNetwork, built: Swarm, local: LocalNode) -> None:
    """Nobody hears it any more, and nobody is told."""
    network.partition([local.node.identity.peer_id])


STAYS_S = {kill: 0.2, drain: 20.0, stall: 0.2}  # how long who leaves serves what it has begun


async def lost(how: Disturb, network: MemoryNetwork, built: Swarm, place: int, route: Any) -> None:
    peers = {local.node.identity.peer_id: local for local in built.nodes}
    await how(network, built, peers[route[place].peer])


class Small(Swarm):
    """Its nodes serve weights of eight bits."""

    async def engine(self, span: Span) -> ShardEngine:
        return load_shard(BUILT_IN, span, dtype="float32", quantize="int8")


@asynccontextmanager
async def swarm(
    home: Path, *spans: tuple[int, int], kind: type[Swarm] = Swarm, **settings: Any
) -> AsyncIterator[tuple[MemoryNetwork, Swarm]]:
    network = MemoryNetwork(seed=7)
    network.set_faults(SLOW)
    built = kind(BUILT_IN, home, lambda identity: network.transport(identity, OPEN_SWARM_ID))
    try:
        await built.start(*spans, **settings)
        yield network, built
    finally:
        await built.aclose()


async def asked(
    built: Swarm, client: Client, desk: Desk, prompt: str, disturb: Any = None, n: int = 0
) -> Audit:
    """One canary, with what happens to it; how it is drawn alternates."""
    sampling = SamplingParams(temperature=(0.0, 0.7, 1.0)[n % 3], seed=n)
    ids = built.tokenizer.encode(prompt)
    request = built.request(ids, max_tokens=N_TOKENS, ignore_eos=True, sampling=sampling)
    run, route = client.generate(request), ()
    async with run:
        async for event in run:
            if isinstance(event, Routed):
                route = event.route
            if isinstance(event, Token) and event.index == AT and disturb is not None:
                await disturb(route)
            if isinstance(event, Finished):
                result = event.result
    assert result.failovers or result.handovers or disturb is None
    return await desk.look(request, run, result)


def checked(findings: Findings, audits: list[Audit], least: int) -> int:
    """How many windows were looked at, all of them found as they should be."""
    looks = [look for audit in audits for look in audit.looks]
    notes = [note for audit in audits for note in audit.notes]
    assert {(look.result, look.confirmed) for look in looks} == {(MATCH, True)}, (looks, notes)
    assert (findings.faults(), findings.suspects(0.0), notes) == ([], set(), [])
    assert len(looks) >= least
    print(f"{len(looks)} windows")
    return len(looks)


@pytest.mark.parametrize("how", [kill, drain, stall])
async def test_38_hops_that_fail_over_in_the_middle_of_a_canary_are_found_honest(
    tmp_path: Path, how: Disturb
):
    audits: list[Audit] = []
    with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
        for n in range(CANARIES):
            around = swarm(tmp_path / str(n), FRONT, BACK, FRONT, BACK, drain_s=STAYS_S[how])
            async with around as (network, built), built.client() as client:
                desk = Desk(client, find_model("tiny"), findings, rate_ppm=1_000_000)
                disturb = partial(lost, how, network, built, n % 2)
                audits.append(await asked(built, client, desk, draw().prompt, disturb, n))
                network.heal()
        checked(findings, audits, 2 * CANARIES)


async def test_38_shared_beginnings_and_mixed_batches_are_found_honest(tmp_path: Path):
    """Four at once, half of them with a beginning that hops have run before."""
    beginning = draw().prompt * 3
    async with swarm(tmp_path, FRONT, BACK) as (_, built), built.client() as client:
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            desk = Desk(client, find_model("tiny"), findings, rate_ppm=1_000_000)
            audits: list[Audit] = []
            for n in range(0, CANARIES, 4):
                prompts = [
                    (beginning if each % 2 else "") + draw().prompt for each in range(n, n + 4)
                ]
                audits += await asyncio.gather(
                    *(asked(built, client, desk, text, n=n + i) for i, text in enumerate(prompts))
                )
            checked(findings, audits, 2 * CANARIES)


async def test_38_steps_shared_with_sessions_of_an_adapter_are_found_honest(tmp_path: Path):
    pirate = write_adapter(tmp_path / "pirate", BUILT_IN, seed=1)
    async with swarm(tmp_path / "swarm", FRONT, BACK) as (_, built), built.client() as client:
        for local in built.nodes:
            shutil.copytree(pirate, local.home / "adapters" / "pirate")
            await asyncio.to_thread(local.node.serving.shelf.look)
            local.node.gossip.announce()
        await client.directory()
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            desk = Desk(client, find_model("tiny"), findings, rate_ppm=1_000_000)
            audits: list[Audit] = []

            async def adapted() -> None:
                ids = built.tokenizer.encode(draw().prompt)
                request = built.request(ids, max_tokens=N_TOKENS, ignore_eos=True, adapter="pirate")
                async with client.generate(request) as run:
                    async for _ in run:
                        pass

            for n in range(CANARIES // 2):
                audit, _ = await asyncio.gather(
                    asked(built, client, desk, draw().prompt, n=n), adapted()
                )
                audits.append(audit)
            checked(findings, audits, CANARIES)


async def test_38_nodes_that_announce_weights_of_eight_bits_are_found_honest(tmp_path: Path):
    async with (
        swarm(tmp_path, FRONT, BACK, kind=Small) as (_, built),
        built.client() as client,
    ):
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            said: list[str] = []
            desk = Desk(client, find_model("tiny"), findings, rate_ppm=1_000_000, say=said.append)
            audits = [await asked(built, client, desk, draw().prompt, n=n) for n in range(CANARIES)]
            checked(findings, audits, 2 * CANARIES)
    assert any("int8" in line for line in said)
