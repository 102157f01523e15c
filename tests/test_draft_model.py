"""A small model guesses for a last hop: it changes when tokens come, and no token."""

import asyncio
import gc
import weakref
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest

from manyhands.drafter import load_drafter, n_alike
from manyhands.home import Home
from manyhands.models import find_model
from node import draft_model
from node.draft_model import DraftModel
from node.drafting import Drafting
from node.engine import ShardEngine, load_shard
from node.hop import Hop
from node.windows import Window
from protocol.errors import PeerRefused, UsageError, VersionMismatch
from protocol.grammar import Grammar
from protocol.guess_allowance import FIRST
from protocol.messages import Span
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.greeting import FEATURES, MODEL_DRAFTS
from protocol.transport.memory import Faults, MemoryNetwork
from scheduler.chain import ControlLink, earns_guesses
from scheduler.request import GenerationRequest
from tests.checkpoints import write_checkpoint
from tests.local_swarm import Swarm, add_byte_tokenizer, swarm
from tests.test_speculation import LIST, PRICE, TINY, WANDERING, answered, ask

DEPTH = 6
TRIES = 5  # on a loaded machine all guesses of an answer may come too late


@lru_cache
def small_engine() -> ShardEngine:
    """The model itself: greedily, it is right each time."""
    return load_shard(TINY, None)


def guessing(swarm: Swarm) -> DraftModel:
    return DraftModel(small_engine(), swarm.tokenizer.vocab_size)


@pytest.fixture
async def three(tmp_path):
    """A first hop, and two that could be the last, which have a model to guess with."""
    network, able = MemoryNetwork(), FEATURES | {MODEL_DRAFTS}
    network.set_faults(Faults(delay_s=(0.002, 0.002)))
    async with swarm(
        TINY, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID, features=able)
    ) as built:
        await built.start((0, 4), rates=PRICE)
        for _ in range(2):
            await built.start((4, 8), rates=PRICE, draft_model=guessing(built))
        yield built


@pytest.fixture
def always(monkeypatch):
    """However slow this machine is, guesses pay."""
    monkeypatch.setattr(
        Drafting, "_window", lambda self, costs, source: Window(DEPTH, source.acceptance)
    )


@pytest.mark.parametrize("drafter", ["model", pytest.param("auto", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "what",
    [
        {"sampling": SamplingParams()},
        {},
        pytest.param(
            {"sampling": replace(WANDERING, repetition_penalty=1.2, top_p=0.9), "min_tokens": 20},
            marks=pytest.mark.slow,
        ),
        {"grammar": Grammar.json_schema(LIST), "ignore_eos": False},
    ],
    ids=["greedy", "sampled", "penalties", "grammar"],
)
async def test_the_same_tokens_come_where_a_model_guesses(three, always, what, drafter):
    plain = await answered(three, ask(three, **what), "plain")
    load, n_tokens = three.nodes[0].node.batcher.load, len(plain.token_ids)

    for attempt in range(TRIES):
        steps = load.steps
        guessed = await answered(three, ask(three, **what, drafter=drafter), f"guessed-{attempt}")

        assert guessed.token_ids == plain.token_ids
        assert (guessed.text, guessed.finish_reason) == (plain.text, plain.finish_reason)
        if what.get("sampling") != SamplingParams() or load.steps - steps < n_tokens:
            return
    raise AssertionError("no guess came in time, though each was right")


async def test_an_answer_goes_on_equal_where_its_last_hop_died_with_its_model(three, always):
    request = ask(three, sampling=SamplingParams(), drafter="model")
    plain = await answered(three, replace(request, drafter="none"), "plain")
    three.nodes[1:1] = [three.nodes[0]]  # where `answered` looks for last hops

    hurt = await answered(three, request, "hurt", lose_at=20)

    assert hurt.failovers == 1
    assert hurt.token_ids == plain.token_ids


async def test_wrong_guesses_are_sent_and_paid_only_as_far_as_right_ones_came(three, always):
    """Sampled hot, the model is seldom right; all hops together run what was paid for."""
    request = ask(three, sampling=SamplingParams(temperature=5.0, seed=3), max_tokens=40)
    plain = await answered(three, request, "plain")

    guessed = await answered(three, replace(request, drafter="model"), "guessed")

    assert guessed.token_ids == plain.token_ids
    each = plain.cost_ncr / (40 - 1 + len(request.prompt_ids))
    n_more = (guessed.cost_ncr - plain.cost_ncr) / each
    assert n_more <= FIRST + 3 * 40


async def test_who_asks_for_a_model_goes_round_hops_without_one(tmp_path):
    network, able = MemoryNetwork(), FEATURES | {MODEL_DRAFTS}
    known = iter([FEATURES, FEATURES, able])

    def transport_of(who):
        return network.transport(who, OPEN_SWARM_ID, features=next(known, FEATURES))

    async with swarm(TINY, tmp_path, transport_of) as built:
        await built.start((0, 4), (4, 8), rates=PRICE)
        [guesses] = await built.start((4, 8), rates=PRICE, draft_model=guessing(built))
        request = ask(built, max_tokens=8, drafter="model")

        answers = [await answered(built, request, f"asks-{n}") for n in range(3)]

    assert {one.route[-1].peer for one in answers} == {guesses.node.identity.peer_id}


async def test_a_node_without_a_model_says_so_and_any_drafter_does_without(tmp_path):
    network = MemoryNetwork()
    async with swarm(TINY, tmp_path, lambda who: network.transport(who, OPEN_SWARM_ID)) as built:
        await built.start((0, 8), rates=PRICE)
        request = replace(ask(built), max_tokens=8, wait_s=0.5)
        plain = await answered(built, request, "plain")

        any_will_do = await answered(built, replace(request, drafter="auto"), "auto")

        assert any_will_do.token_ids == plain.token_ids
        with pytest.raises((VersionMismatch, PeerRefused), match="model"):
            await answered(built, replace(request, drafter="model"), "model")


async def test_what_a_model_keeps_is_counted_when_a_session_is_admitted(three):
    last = three.nodes[1].node.sessions
    reserves = []
    for drafter in ("none", "model"):
        request = ask(three, drafter=drafter)
        async with three.client(f"asks-{drafter}") as client, client.generate(request) as run:
            async for _ in run:
                hops = [*three.nodes[1].node.sessions._hops.values()]
                hops += three.nodes[2].node.sessions._hops.values()
                reserves += [hop.session.reserve for hop in hops]
                break

    plain, guessed = reserves[0], reserves[-1]
    model = guessing(three)

    more = last.cost_bytes(guessed) - last.cost_bytes(plain)
    assert more == model.kept_bytes(guessed.capacity) > 0
    # It ends with the session, and is handed over to nobody.
    assert last.rows_bytes(guessed) == last.rows_bytes(plain)


async def test_a_session_that_is_over_is_gone_with_its_room_while_the_thread_waits(
    three, always, monkeypatch
):
    monkeypatch.setattr(draft_model, "IDLE_S", 600.0)
    hops: list[weakref.ref[Hop]] = []
    models = [node.node.sessions.served.draft_model for node in three.nodes[1:]]
    request = ask(three, sampling=SamplingParams(), drafter="model", max_tokens=12)

    async with three.client("asks") as client, client.generate(request) as run:
        async for _ in run:
            for node in three.nodes[1:]:
                hops += map(weakref.ref, node.node.sessions._hops.values())

    async with asyncio.timeout(60):
        while any(hop() for hop in hops):
            await asyncio.sleep(0.05)
            gc.collect()
    assert hops
    monkeypatch.undo()
    for model in models:
        with model._wanted:
            model._wanted.notify()  # the thread ends


@pytest.mark.parametrize(
    ("drafter", "span", "why"),
    [("other", None, "its tokens are other ones"), ("tiny", Span(0, 4), "none end at blocks 0:4")],
)
def test_a_model_that_cannot_guess_is_refused_before_weights_are_fetched(
    tmp_path, drafter, span, why
):
    other = add_byte_tokenizer(write_checkpoint(tmp_path / "other", "llama"))
    wanted = SimpleNamespace(
        draft_model=str(other) if drafter == "other" else drafter, span=span, accept_licence=True
    )
    nothing_is_loaded = None

    with pytest.raises(UsageError, match=why):
        load_drafter(wanted, find_model("tiny"), Home.at(tmp_path), None, nothing_is_loaded)


def test_a_model_with_the_same_tokenizer_can_guess():
    served = find_model("tiny")

    assert n_alike(served, served) == small_engine().vocab_size


@pytest.mark.parametrize(
    ("drafter", "features", "earns"),
    [
        ("auto", FEATURES | {MODEL_DRAFTS}, True),
        ("auto", FEATURES, False),
        ("model", FEATURES | {MODEL_DRAFTS}, True),
        ("lookup", FEATURES | {MODEL_DRAFTS}, False),
    ],
)
def test_a_models_guesses_are_earned_where_somebody_said_there_is_one(drafter, features, earns):
    request = GenerationRequest(manifest=bytes(32), n_blocks=8, prompt_ids=(1,), drafter=drafter)
    nobody: Any = None
    link = ControlLink(nobody, "peer", (), nobody, heard=nobody, lost=nobody, resume=nobody)
    link.features = features

    assert earns_guesses(request, link) == earns
