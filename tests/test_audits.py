"""Peers that cheat, found out by somebody who asks like anybody else; and honest ones, who are not.

Real nodes over real sockets: two that make a chain and one that serves all blocks. Cheats run the
nodes' own software on an engine that does less, or other, than it says.
"""

import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ledger.findings import Findings
from ledger.judging import judge
from ledger.verdicts import MATCH, MISMATCH, UNOPENED
from manyhands.auditing.auditor import Audit
from manyhands.auditing.desk import Desk
from manyhands.models import BUILT_IN, find_model
from node.engine import ShardEngine, load_shard
from node.hop import Hop
from node.metering import SessionMeter
from protocol import fp_profile
from protocol.fingerprint import sketch
from protocol.identity import PeerId
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import Client, Finished
from scheduler.wanted import Limits
from tests.local_swarm import Swarm

FRONT, BACK, WHOLE = (0, 4), (4, 8), (0, 8)
PROMPT = "What should I know about sourdough bread before I begin?"

Weights = dict[str, torch.Tensor]


def four_bits(weights: Weights) -> None:
    """Rounded to 15 levels in groups of 32, the cheaper thing to serve."""
    for name, value in projections(weights):
        groups = value.reshape(-1, 32)
        scale = groups.abs().amax(dim=1, keepdim=True) / 7
        weights[name] = (torch.round(groups / scale.clamp_min(1e-9)) * scale).reshape(value.shape)


def scaled(weights: Weights) -> None:
    for name, value in projections(weights):
        weights[name] = value * 1.02


def without_blocks(weights: Weights) -> None:
    """Blocks 3 and 5 add nothing: whoever has one of them skips it."""
    for name, value in projections(weights):
        if re.search(r"layers\.[35]\..*(o_proj|down_proj)", name):
            weights[name] = torch.zeros_like(value)


def projections(weights: Weights) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in weights.items() if "_proj.weight" in name]


def stale(engine: ShardEngine) -> ShardEngine:
    """It answers with what it made before, wherever the shape fits."""
    made: dict[tuple[int, ...], Any] = {}
    step = engine.step

    def again(items: Any) -> Any:
        results = step(items)
        for result in results:
            kept = made.setdefault(tuple(result.hidden.shape), result)
            result.hidden = kept.hidden.clone()
        return results

    engine.step = again  # type: ignore[method-assign]
    return engine


def unseen_engine(span: Span) -> ShardEngine:
    """Its rows are wrong, and have the very sketches of the right ones: signs are public."""
    engine = load_shard(BUILT_IN, span, dtype="float32")
    step = engine.step

    def other(items: Any) -> Any:
        results = step(items)
        for result in results:
            signs = sketch(np.eye(2, result.hidden.shape[1], dtype=np.float32))[:, 0]
            by = 0.3 * result.hidden.norm(dim=1)
            off = torch.zeros_like(result.hidden)
            off[:, 0], off[:, 1] = by, -by * float(signs[0] / signs[1])
            result.hidden = result.hidden + off
        return results

    engine.step = other  # type: ignore[method-assign]  # this node cheats
    return engine


def spoilt_by(spoil: Callable[[Weights], None], directory: Path) -> Callable[[Span], ShardEngine]:
    """Engines of a copy of the model, of other weights."""

    def load(span: Span) -> ShardEngine:
        if not directory.exists():
            shutil.copytree(BUILT_IN, directory)
            path = directory / "model.safetensors"
            weights = {name: value.float() for name, value in load_file(path).items()}
            spoil(weights)
            save_file(weights, path, metadata={"format": "pt"})
        return load_shard(directory, span, dtype="float32")

    return load


def stale_engine(span: Span) -> ShardEngine:
    return stale(load_shard(BUILT_IN, span, dtype="float32"))


class Swarms(Swarm):
    """One in which the node at place `cheat` runs an engine of its own."""

    cheat: int | None = None
    load: Callable[[Span], ShardEngine]

    async def engine(self, span: Span) -> ShardEngine:
        return self.load(span) if len(self.nodes) == self.cheat else await super().engine(span)


@asynccontextmanager
async def swarm(
    home: Path,
    cheat: int | None = None,
    load: Callable[[Span], ShardEngine] = stale_engine,
    spans: Sequence[tuple[int, int]] = (FRONT, BACK, WHOLE),
    **settings: Any,
) -> AsyncIterator[Swarms]:
    def over_sockets(identity: Any) -> GrpcTransport:
        return GrpcTransport(identity, OPEN_SWARM_ID)

    built = Swarms(BUILT_IN, home, over_sockets)
    built.cheat, built.load = cheat, load
    try:
        await built.start(*spans, **settings)
        yield built
    finally:
        await built.aclose()


async def audited(
    built: Swarm,
    client: Client,
    findings: Findings,
    *,
    avoid: int = 2,
    drafter: str = "none",
    **choices: Any,
) -> Audit:
    """Ask something of the chain without node `avoid`, and look at the work."""
    peers = [PeerId(local.node.peer_id) for local in built.nodes]
    desk = Desk(client, find_model("tiny"), findings, rate_ppm=1_000_000, **choices)
    ids = built.tokenizer.encode(PROMPT)
    request = built.request(
        ids,
        max_tokens=40,
        ignore_eos=True,
        limits=Limits(avoid=(peers[avoid],)),
        drafter=drafter,
    )
    generation = client.generate(request)
    async with generation:
        async for event in generation:
            if isinstance(event, Finished):
                result = event.result
    return await desk.look(request, generation, result)


async def test_honest_peers_are_found_to_be_honest(tmp_path):
    async with swarm(tmp_path) as built, built.client() as client:
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings)
            by_peers = await audited(built, client, findings, references="peers")
            standings = findings.standings(0.0)

    for each in (audit, by_peers):
        assert (each.faults, each.notes) == ([], [])
        assert {look.result for look in each.looks} == {MATCH}
        assert {look.span for look in each.looks} == {"0:4", "4:8"}
    assert len(standings) == 2
    assert all(standing.failed == 0 and standing.passed > 1 for standing in standings.values())


@pytest.mark.parametrize("drafter", [pytest.param("none", marks=pytest.mark.slow), "lookup"])
async def test_37_a_last_hop_that_draws_other_tokens_is_named_with_drafts_and_without(
    tmp_path, monkeypatch, drafter
):
    """It answers with other tokens than its rows give, and commits to no draws."""
    draw, begin = Hop.draw, SessionMeter.begin_fingerprints

    def other(self, logits, position, line=None):
        drawn = draw(self, logits, position, line)
        if line is not None or position % 3:
            return drawn
        return tuple(replace(each, token_id=65 + position % 20) for each in drawn)

    def silent(self, *how):
        made = begin(self, *how)
        if self._fingerprints is not None:
            self._fingerprints._drawn = lambda: ((), 0)
        return made

    monkeypatch.setattr(Hop, "draw", other)
    monkeypatch.setattr(SessionMeter, "begin_fingerprints", silent)
    async with swarm(tmp_path) as built, built.client() as client:
        keys = [local.node.identity.public_key for local in built.nodes]
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings, drafter=drafter)

    wrong = [(look.account, look.confirmed) for look in audit.looks if look.result == MISMATCH]
    assert wrong == [(keys[1], True)]
    assert [fault.accused for fault in audit.faults] == [keys[1]]


async def test_who_does_not_open_what_it_committed_to_fails_the_audit_and_is_accused_of_nothing(
    tmp_path,
):
    async with swarm(tmp_path, fingerprints_kept_s=0.0) as built, built.client() as client:
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings)
            standings, faults = findings.standings(0.0), findings.faults()

    assert [(look.result, look.confirmed) for look in audit.looks] == [(UNOPENED, True)] * 2
    assert all("does not open its work" in note for note in audit.notes)
    assert all(standing.failed > 0.9 for standing in standings.values())
    assert faults == []


@pytest.mark.parametrize(
    ("how", "cheat"),
    [
        (scaled, 1),
        (unseen_engine, 0),
        pytest.param(scaled, 0, marks=pytest.mark.slow),
        *(
            pytest.param(how, cheat, marks=pytest.mark.slow)
            for how in (four_bits, scaled, without_blocks, stale)
            for cheat in (0, 1)
            if how is not scaled
        ),
    ],
)
async def test_37_a_cheat_is_named_and_the_honest_hop_behind_it_is_not(
    tmp_path, how, cheat, monkeypatch
):
    """Where nobody measured what honest runs differ by, it is suspected, and not accused. The
    second hop signed for the rows that it was sent; the first one shows them.
    """
    made = {stale: stale_engine, unseen_engine: unseen_engine}
    load = made.get(how) or spoilt_by(how, tmp_path / "spoilt")
    async with swarm(tmp_path, cheat, load) as built, built.client() as client:
        keys = [local.node.identity.public_key for local in built.nodes]
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings)
            faults = findings.faults()
        monkeypatch.setattr(fp_profile, "shipped", dict)
        (tmp_path / "rough").mkdir()
        with Findings.open(tmp_path / "rough", OPEN_SWARM_ID) as findings:
            said: list[str] = []
            rough = await audited(built, client, findings, say=said.append)
            assert (findings.faults(), rough.faults) == ([], [])

    assert said[1].endswith("ledger calibrate tiny --dtype float32 --quantize none --wire float32")
    suspected = [look for look in rough.looks if look.result == MISMATCH]
    assert [(look.account, look.confirmed) for look in suspected] == [(keys[cheat], False)]
    assert [kept.fault.accused for kept in faults] == [keys[cheat]]
    auditor = client.identity.public_key
    assert all(judge(kept.fault, OPEN_SWARM_ID).auditors == (auditor,) for kept in faults)
    wrong = [look for look in audit.looks if look.result == MISMATCH]
    assert [(look.account, look.confirmed) for look in wrong] == [(keys[cheat], True)]


@pytest.mark.slow
@pytest.mark.parametrize(("cheat", "how"), [(1, scaled), (1, unseen_engine), (2, scaled)])
async def test_37_in_a_chain_of_three_any_hop_that_cheats_is_named_and_no_other(
    tmp_path, cheat, how
):
    load = how if how is unseen_engine else spoilt_by(how, tmp_path / "spoilt")
    spans = ((0, 3), (3, 6), (6, 8), WHOLE)
    async with swarm(tmp_path, cheat, load, spans) as built, built.client() as client:
        keys = [local.node.identity.public_key for local in built.nodes]
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings, avoid=3)
            faults = findings.faults()

    assert [kept.fault.accused for kept in faults] == [keys[cheat]]
    wrong = [look for look in audit.looks if look.result == MISMATCH]
    assert [(look.account, look.confirmed) for look in wrong] == [(keys[cheat], True)]


@pytest.mark.slow
async def test_a_reference_that_cheats_accuses_nobody_else(tmp_path):
    """The node that serves all blocks is the cheat; the chain of the other two is looked at."""
    async with (
        swarm(tmp_path, 2, spoilt_by(scaled, tmp_path / "spoilt")) as built,
        built.client() as client,
    ):
        with Findings.open(tmp_path, OPEN_SWARM_ID) as findings:
            audit = await audited(built, client, findings, references="peers")
            assert findings.faults() == []

    assert [look.confirmed for look in audit.looks if look.result == MISMATCH] == [False]
