"""Drafts change when tokens come, and nothing else: not their ids, not what they cost to derive."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.meter import Rates
from node.drafting import DRAFTERS, Drafting
from node.metering import SessionMeter
from protocol.asking import MAX_DRAFTS
from protocol.draws import Draws
from protocol.errors import UsageError, VersionMismatch
from protocol.grammar import Grammar
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import DRAFTS, FEATURES
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, GenerationRequest, GenerationResult, Token
from scheduler.peer_record import PeerRecords
from tests.local_swarm import Swarm, swarm

TINY = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
PRICE = Rates(decode_tl=10**6)  # 1 ncr for a position through a block
WANDERING = SamplingParams(temperature=1.0, seed=7)
LIST = {
    "type": "array",
    "items": {"enum": ["tea", "rain", "wind"]},
    "minItems": 8,
    "maxItems": 9,
}


class Oracle:
    """Knows the answer, and tells it as often as it likes."""

    def __init__(self) -> None:
        self.die, self.truth, self.acceptance = random.Random(5), (), 0.8

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        truth = self.truth[len(ids) : len(ids) + min(most, self.die.randint(0, MAX_DRAFTS))]
        return [i if self.die.random() < self.acceptance else (i + 1) % 300 for i in truth]


@pytest.fixture
def oracle():
    oracle = Oracle()
    DRAFTERS["oracle"] = lambda: oracle
    yield oracle
    del DRAFTERS["oracle"]


@pytest.fixture
async def four(tmp_path):
    """A first hop, a middle one, and two that could be the last, over real sockets."""
    async with swarm(TINY, tmp_path, lambda who: GrpcTransport(who, OPEN_SWARM_ID)) as built:
        await built.start((0, 3), (3, 5), (5, 8), (5, 8), rates=PRICE)
        yield built


async def answered(
    swarm: Swarm, request: GenerationRequest, name: str, *, lose_at: int = -1
) -> GenerationResult:
    """The answer, in the middle of which the last hop is lost. All that was stated was paid."""
    async with swarm.client(name) as client, client.generate(request) as run:
        async for event in run:
            if isinstance(event, Finished):
                if not event.result.failovers:
                    stated = [held.statement.meter for held in run.commitments.values()]
                    assert event.result.cost_ncr == sum(meter.decode_tl for meter in stated)
                return event.result
            if isinstance(event, Token) and event.index == lose_at:
                [last] = [n.node.sessions for n in swarm.nodes[2:] if len(n.node.sessions)]
                last.draining = True
                [hop] = last._hops.values()
                hop.give_up()
    raise AssertionError("no result")


def ask(swarm: Swarm, **what: object) -> GenerationRequest:
    words = [{"role": "user", "content": "Tell me about rain."}]
    asked = {"max_tokens": 60, "sampling": WANDERING, "ignore_eos": True, "reuse_prefix": False}
    return swarm.request(swarm.tokenizer.encode_chat(words), **(asked | what))


@pytest.mark.parametrize(
    "what",
    [
        {"sampling": SamplingParams()},
        {},
        {
            "sampling": replace(
                WANDERING, repetition_penalty=1.2, frequency_penalty=0.5, top_p=0.9, min_p=0.02
            ),
            "logprobs": 2,
            "min_tokens": 20,
            "ignore_eos": False,
        },
        {"grammar": Grammar.json_schema(LIST), "ignore_eos": False},
    ],
    ids=["greedy", "sampled", "penalties", "grammar"],
)
async def test_the_same_tokens_come_with_drafts_and_in_fewer_rounds(four, oracle, what):
    plain = await answered(four, ask(four, **what), "plain")
    request = ask(four, **what)
    oracle.truth = (*request.prompt_ids, *plain.token_ids)
    first, steps = four.nodes[0].node, four.nodes[0].node.batcher.load.steps

    drafted = await answered(four, replace(request, drafter="oracle"), "drafted")

    assert drafted.token_ids == plain.token_ids
    assert (drafted.text, drafted.finish_reason) == (plain.text, plain.finish_reason)
    assert first.batcher.load.steps - steps < 0.8 * len(plain.token_ids)


@pytest.mark.parametrize("lose_at", [pytest.param(3, marks=pytest.mark.slow), 30])
async def test_an_answer_goes_on_equal_where_its_last_hop_died_between_drafts(
    four, oracle, lose_at
):
    plain = await answered(four, ask(four), "plain")
    request = ask(four)
    oracle.truth = (*request.prompt_ids, *plain.token_ids)

    hurt = await answered(four, replace(request, drafter="oracle"), "hurt", lose_at=lose_at)

    assert hurt.failovers == 1
    assert hurt.token_ids == plain.token_ids


async def test_sessions_side_by_side_draft_and_answer_as_alone(four):
    words = ["one two three " * 6, "rain and wind " * 6, "Tell me about rain."]
    asked = [four.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in words]
    requests = [replace(ask(four), prompt_ids=tuple(ids), max_tokens=40) for ids in asked]
    plain = [await answered(four, request, f"alone-{n}") for n, request in enumerate(requests)]

    drafted = await asyncio.gather(
        *(
            answered(four, replace(request, drafter="lookup"), f"beside-{n}")
            for n, request in enumerate(requests)
        )
    )

    assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]


async def test_a_drafter_that_nobody_knows_is_refused_and_any_is_done_without(tmp_path):
    network = MemoryNetwork()
    old = FEATURES - {DRAFTS}
    async with swarm(
        TINY, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID, features=old)
    ) as built:
        await built.start((0, 8), rates=PRICE)
        built.transport_of = lambda who: network.transport(who, OPEN_SWARM_ID)
        request = replace(ask(built), max_tokens=8, wait_s=0.5)

        plain = await answered(built, request, "plain")
        any_will_do = await answered(built, replace(request, drafter="auto"), "auto")

        assert any_will_do.token_ids == plain.token_ids
        with pytest.raises(VersionMismatch, match="does not know drafts"):
            await answered(built, replace(request, drafter="lookup"), "lookup")


async def test_where_the_cost_is_limited_nobody_drafts(four):
    request = replace(ask(four), drafter="lookup")

    assert request.most_drafts
    assert not request.capped(10**9).most_drafts
    assert not request.capped(10**9).draw_extensions("").drafter
    with pytest.raises(UsageError, match="no drafter is called nobody"):
        await answered(four, replace(request, drafter="nobody"), "nobody")


@pytest.fixture
async def pair(tmp_path):
    """Two hops, in memory."""
    network = MemoryNetwork()
    async with swarm(TINY, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID)) as built:
        await built.start((0, 4), (4, 8), rates=PRICE)
        yield built


@pytest.mark.parametrize("drafter", ["lookup", "auto"])
async def test_a_last_hop_that_tells_of_guesses_it_never_sent_is_not_paid_for_them(
    pair, monkeypatch, drafter
):
    """It tells and states sixteen rows a token. What it may have guessed follows from the ids."""
    request = replace(ask(pair), max_tokens=24)
    honest = await answered(pair, request, "honest")
    add, count = Draws.add, SessionMeter.count

    def told(self, drawn, epoch):
        event = add(self, drawn, epoch)
        return replace(event, rows=16) if event.rows == 1 else event

    def counted(self, start, rows, n, heads, output=b""):
        count(self, start, rows, n, heads, output)
        if self._is_last and start >= n:
            self._tally.add(start, start + 15, n, 15)

    monkeypatch.setattr(Drafting, "guess", lambda self, ids, most: ())
    monkeypatch.setattr(Draws, "add", told)
    monkeypatch.setattr(SessionMeter, "count", counted)
    async with (
        pair.client("lied") as client,
        client.generate(replace(request, drafter=drafter)) as run,
    ):
        results = [event.result async for event in run if isinstance(event, Finished)]

    assert [one.token_ids for one in results] == [honest.token_ids]
    assert [one.cost_ncr for one in results] == [honest.cost_ncr]


async def test_a_last_hop_that_tells_no_rows_hides_nobodys_speed(pair, monkeypatch):
    """No drafts were asked for: each token is a round."""
    add, note, rides = Draws.add, PeerRecords.note_ride, []

    def told(self, drawn, epoch):
        return replace(add(self, drawn, epoch), rows=0)

    def noted(self, ride):
        rides.append(ride.n_tokens)
        note(self, ride)

    monkeypatch.setattr(Draws, "add", told)
    monkeypatch.setattr(PeerRecords, "note_ride", noted)

    for drafter in ("none", "lookup"):
        request = replace(ask(pair), max_tokens=12, drafter=drafter)
        async with pair.client(drafter) as client, client.generate(request) as run:
            results = [event.result async for event in run if isinstance(event, Finished)]
        assert len(results) == 1

    assert rides == [11, 11]
