"""What a request asks of its draws is done by the last hop, and stays so when that hop is lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from protocol.errors import BadGrammar, BadSchema, ManyhandsError
from protocol.grammar import Grammar
from protocol.sampling import SamplingParams
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.grpc import GrpcTransport
from scheduler import Finished, GenerationRequest, GenerationResult, Token
from tests.local_swarm import Swarm, swarm, whole

TINY = Path(__file__).parents[1] / "manyhands" / "models" / "tiny"
WANDERING = SamplingParams(temperature=1.0, seed=7)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "likes": {"type": "array", "items": {"enum": ["tea", "rain"]}, "maxItems": 3},
    },
    "required": ["name", "age", "likes"],
    "additionalProperties": False,
}


@pytest.fixture
async def three(tmp_path):
    """A first hop, and two that could be the last, over real sockets."""
    async with swarm(
        TINY, tmp_path, lambda who: GrpcTransport(who, OPEN_SWARM_ID), (0, 4), (4, 8), (4, 8)
    ) as built:
        yield built


def ask(swarm: Swarm, text: str = "Tell me about rain.", **what: object) -> GenerationRequest:
    prompt = swarm.tokenizer.encode_chat([{"role": "user", "content": text}])
    return swarm.request(prompt, **({"max_tokens": 24, "sampling": WANDERING} | what))


async def answered(
    swarm: Swarm, request: GenerationRequest, name: str, *, lose_at: int = -1
) -> tuple[GenerationResult, list[Token]]:
    """The answer, in the middle of which the last hop is lost, and the other one takes over."""
    tokens: list[Token] = []
    async with swarm.client(name) as client, client.generate(request) as run:
        async for event in run:
            if isinstance(event, Finished):
                return event.result, tokens
            if isinstance(event, Token):
                tokens.append(event)
                if event.index == lose_at:
                    [last] = [n.node.sessions for n in swarm.nodes[1:] if len(n.node.sessions)]
                    last.draining = True
                    [hop] = last._hops.values()
                    hop.give_up()
    raise AssertionError("no result")


async def undisturbed_and_disturbed(
    swarm: Swarm, request: GenerationRequest, lose_at: int
) -> tuple[GenerationResult, GenerationResult, list[Token]]:
    calm, _ = await answered(swarm, request, "calm")
    hurt, tokens = await answered(swarm, request, "hurt", lose_at=lose_at)
    assert (calm.failovers, hurt.failovers) == (0, 1)
    return calm, hurt, tokens


async def test_an_answer_with_everything_asked_for_goes_on_equal_where_its_last_hop_died(three):
    bias = dict.fromkeys(three.tokenizer.encode("rain", add_special_tokens=False), -3.0)
    sampling = replace(
        WANDERING, min_p=0.02, logit_bias=bias, repetition_penalty=1.1, presence_penalty=0.2
    )
    request = ask(three, sampling=sampling, logprobs=4, min_tokens=20, stop_token_ids=(17,))

    calm, hurt, tokens = await undisturbed_and_disturbed(three, request, lose_at=9)

    assert hurt.token_ids == calm.token_ids
    assert hurt.text == calm.text
    assert len(calm.token_ids) >= 20
    assert hurt.logprobs is not None
    assert hurt.logprobs == tuple(token.logprobs for token in tokens), "what was delivered stands"
    assert calm.logprobs is not None
    for one, other in zip(hurt.logprobs, calm.logprobs, strict=True):
        assert one.ids == other.ids
        assert one.values == pytest.approx(other.values, abs=1e-4)


async def test_log_probabilities_are_those_of_the_unsplit_model(three):
    request = ask(three, sampling=replace(WANDERING, temperature=0.4), logprobs=5, max_tokens=12)

    result, _ = await answered(three, request, "client")

    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    n = len(request.prompt_ids)
    ids = torch.tensor([[*request.prompt_ids, *result.token_ids]])
    with torch.no_grad():
        expected = torch.log_softmax(model(ids).logits[0, n - 1 : -1].double(), -1)
    assert result.logprobs is not None
    for row, token_id, told in zip(expected, result.token_ids, result.logprobs, strict=True):
        best = row.topk(5)
        assert told.drawn == pytest.approx(row[token_id].item(), abs=1e-4)
        assert list(told.ids) == best.indices.tolist()
        assert told.values == pytest.approx(best.values.tolist(), abs=1e-4)


async def test_a_stop_id_ends_the_answer_and_is_its_last_token(three):
    plain, _ = await answered(three, ask(three, logprobs=0), "plain")
    stop = plain.token_ids[5]

    stopped, _ = await answered(three, ask(three, stop_token_ids=(stop,)), "stopped")

    until = plain.token_ids.index(stop) + 1
    assert stopped.token_ids == plain.token_ids[:until]
    assert stopped.finish_reason == "stop"
    assert stopped.logprobs is None
    assert plain.logprobs is not None
    assert all(told.ids == () for told in plain.logprobs)


async def test_answers_to_one_prompt_differ_by_choice_and_share_its_rows(three):
    long = "Tell me a story about a girl who has a red ball and a friend. " * 3
    asked = [ask(three, long, sampling=replace(WANDERING, choice=k)) for k in range(3)]
    async with three.client() as client:
        answers = [await whole(client.generate(request)) for request in asked]
        again = await whole(client.generate(asked[1]))

    assert len({answer.token_ids for answer in answers}) == 3
    assert again.token_ids == answers[1].token_ids
    n_prompt = len(asked[0].prompt_ids)
    assert [answer.n_cached for answer in answers] == [0, n_prompt - 1, n_prompt - 1]


async def test_an_answer_within_a_schema_goes_on_equal_and_valid_where_its_last_hop_died(three):
    request = ask(
        three,
        sampling=replace(WANDERING, temperature=1.3),
        grammar=Grammar.json_schema(PERSON),
        max_tokens=80,
    )

    calm, hurt, _ = await undisturbed_and_disturbed(three, request, lose_at=6)

    assert hurt.token_ids == calm.token_ids
    assert hurt.finish_reason == "stop"
    person = json.loads(hurt.text)
    assert list(person) == ["name", "age", "likes"]
    assert isinstance(person["age"], int)
    assert set(person["likes"]) <= {"tea", "rain"}


@pytest.mark.parametrize(
    ("grammar", "expected"),
    [
        (Grammar.regex("(yes|no), (1[0-9]|2[0-9]) times"), r"(yes|no), [12]\d times"),
        pytest.param(Grammar.lark('start: "a" start "b" | "c"'), "a*cb*", marks=pytest.mark.slow),
        pytest.param(Grammar.json_object(), r"\{.*\}", marks=pytest.mark.slow),
    ],
)
async def test_an_answer_follows_its_grammar_to_the_end(three, grammar, expected):
    import re

    request = ask(three, grammar=grammar, max_tokens=60, sampling=SamplingParams(seed=3))

    result, _ = await answered(three, request, "client")

    assert re.fullmatch(expected, result.text, re.DOTALL) or result.finish_reason == "length"
    assert result.finish_reason == "stop" or grammar.is_json


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        (Grammar.json_schema('{"type":"frob"}'), BadSchema),
        pytest.param(Grammar.json_schema({"$ref": "#"}), BadSchema, marks=pytest.mark.slow),
        (Grammar.lark("start: begin"), BadGrammar),
    ],
)
async def test_a_grammar_that_makes_no_sense_is_the_callers_fault_before_anything_is_run(
    three, grammar, kind
):
    with pytest.raises(ManyhandsError) as caught:
        await answered(three, ask(three, grammar=grammar, wait_s=0.2), "client")

    assert type(caught.value) is kind
    assert sum(local.node.batcher.load.rows for local in three.nodes) == 0
    fine, _ = await answered(three, ask(three), "other")
    assert fine.token_ids
