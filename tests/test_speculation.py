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
from node.taking import Taking
from protocol.asking import MAX_DRAFTS
from protocol.draws import Draws
from protocol.errors import PeerRefused, UsageError, VersionMismatch
from protocol.grammar import Grammar
from protocol.guess_allowance import FIRST, TOKENS_EACH
from protocol.handover import Note, Part, request_bytes
from protocol.messages import Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import DRAFTS, FEATURES
from protocol.transport.grpc import GrpcTransport
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler import Finished, GenerationRequest, GenerationResult, Routed, Token
from scheduler.peer_record import PeerRecords
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm

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
        self.n_rounds = 0

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        self.n_rounds += 1
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

    drafted = await answered(four, replace(request, drafter="oracle"), "drafted")

    assert drafted.token_ids == plain.token_ids
    assert (drafted.text, drafted.finish_reason) == (plain.text, plain.finish_reason)
    assert oracle.n_rounds < 0.8 * len(plain.token_ids)


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


async def test_what_a_hop_gives_away_is_of_no_draft_and_goes_on_where_it_went_back(four, oracle):
    plain = await answered(four, ask(four), "plain")
    request = replace(ask(four), drafter="oracle")
    oracle.truth = (*request.prompt_ids, *plain.token_ids)
    middle, taker = four.nodes[1].node, four.nodes[3].node.identity
    n_asked = n_given = 0

    async with four.client("heir") as client, client.generate(request) as run:
        async for event in run:
            if not isinstance(event, Token) or event.index not in (20, 25, 30, 35):
                continue
            [hop] = middle.sessions._hops.values()
            note = Note(
                session=hop.session.id,
                epoch=hop.session.epoch + 1,
                giver=middle.identity.public_key,
                taker=taker.public_key,
                span=Span(3, 5),
                most_drafts=request.most_drafts,
            )
            sealed = note.seal(OPEN_SWARM_ID, client.identity.key)
            middle.sessions.draining = True
            for start in (0, hop.session.length - 5):  # which is more than is given
                asked, there = request_bytes(sealed, start), hop.session.length
                n_asked += 1
                try:
                    told = await middle.serving.giving.handle(taker.peer_id, asked)
                except PeerRefused:  # drafts below it were wrong, and taken back meanwhile
                    assert hop.session.length < start
                    continue
                part = Part.decode(told)
                assert part.start == start
                assert part.stop == max(start, there - MAX_DRAFTS)
                # It ran on while the part was copied: more may be there by now, or drafts that were
                # wrong have been taken back, which nothing that is given away can be among.
                assert part.stop <= part.length <= max(start, hop.session.length)
                n_given += start == 0
            middle.sessions.draining = False

    assert n_asked == 8
    assert n_given == 4


@pytest.mark.slow
async def test_with_a_sliding_window_an_heir_takes_over_what_came_while_it_waited(
    tmp_path, oracle, monkeypatch
):
    """More positions came than such a session can go back."""
    model = add_byte_tokenizer(
        write_checkpoint(tmp_path / "model", "mistral", max_position_embeddings=1024)
    )
    network, copied_to = MemoryNetwork(seed=3), Taking.copied_to
    begun, late = asyncio.Event(), asyncio.Event()

    async def copied_late(taking: Taking, *where: object) -> int:
        begun.set()
        await late.wait()
        return await copied_to(taking, *where)

    monkeypatch.setattr(Taking, "copied_to", copied_late)
    async with swarm(model, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID)) as built:
        await built.start((0, 2), (2, 5), (5, 6), rates=PRICE, drain_s=60.0)
        request = built.request(
            list(range(2, 40)),
            max_tokens=600,
            sampling=WANDERING,
            ignore_eos=True,
            reuse_prefix=False,
            spares=False,
        )
        plain = await answered(built, request, "plain")
        oracle.truth = (*request.prompt_ids, *plain.token_ids)
        await built.start((2, 5), rates=PRICE, drain_s=60.0)
        network.set_faults(Faults(delay_s=(0.003, 0.003)))
        drafted, n_came = replace(request, drafter="oracle"), 0
        async with built.client("heir") as client, client.generate(drafted) as run:
            async for event in run:
                if isinstance(event, Routed):
                    leaver = next(
                        n for n in built.nodes if n.node.identity.peer_id == event.route[1].peer
                    )
                if isinstance(event, Token) and event.index == 150:
                    going = asyncio.create_task(built.stop(leaver))
                if isinstance(event, Token) and begun.is_set():
                    n_came += 1
                    if n_came == 200:
                        late.set()
                if isinstance(event, Finished):
                    result = event.result
        await going

    assert (result.handovers, result.failovers) == (1, 0)
    assert result.token_ids == plain.token_ids


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
    """It tells and states sixteen rows a token. What it may have guessed follows from the ids, or
    was earned by guesses that were right, with `auto`, where a model may guess.
    """
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
    rows, blocks = (FIRST + 24 // TOKENS_EACH, 8) if drafter == "auto" else (0, 0)
    assert honest.cost_ncr <= results[0].cost_ncr <= honest.cost_ncr + rows * blocks


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
