"""What a request asks of its draws, through the official client: odds, bias, and what an answer has
to be."""

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, TypeAdapter

from tests.gateway.live import Live, events

HELLO = [{"role": "user", "content": "Hello"}]
KING = {"schema": {"type": "king"}}
ASKED = {"model": "tiny", "messages": HELLO, "seed": 3, "temperature": 0}


@pytest.fixture(scope="module")
def client(gateway: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_odds_are_told_for_every_token_whole_and_streamed_alike(gateway):
    asked = {**ASKED, "logprobs": True, "top_logprobs": 2}

    whole = gateway.post("/v1/chat/completions", asked)[2]
    *chunks, _ = events(gateway.post("/v1/chat/completions", {**asked, "stream": True})[2])

    TypeAdapter(ChatCompletion).validate_python(whole)
    for chunk in chunks:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk)
    told = whole["choices"][0]["logprobs"]["content"]
    streamed = [
        each
        for chunk in chunks
        for each in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    said = b"".join(bytes(each["bytes"]) for each in told).decode()
    assert said.strip() == whole["choices"][0]["message"]["content"].strip()
    assert streamed == told
    for each in told:
        assert len(each["top_logprobs"]) == 2
        assert each["logprob"] == each["top_logprobs"][0]["logprob"] <= 0  # it is greedy


def test_odds_of_a_plain_completion_have_offsets_into_its_text(client):
    asked = {"model": "tiny", "prompt": "Once upon", "max_tokens": 6, "logprobs": 1}

    answer = client.completions.create(**asked).choices[0]

    told = answer.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert "".join(told.tokens) == answer.text
    for token, offset in zip(told.tokens, told.text_offset, strict=True):
        assert answer.text[offset:].startswith(token)


def test_a_bias_keeps_a_token_out_or_brings_it_in(client, gateway):
    plain = client.completions.create(model="tiny", prompt="Once upon", max_tokens=4)
    first = gateway.post("/tokenize", {"prompt": "Once upon" + plain.choices[0].text})[2]["tokens"]
    dropped = str(first[2])

    other = client.completions.create(
        model="tiny", prompt="Once upon", max_tokens=4, logit_bias={dropped: -100}
    )

    assert other.choices[0].text != plain.choices[0].text
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="Once", logit_bias={"a": 1})
    assert refused.value.param == "logit_bias"


class Fact(BaseModel):
    animal: Literal["cat", "dog"]
    happy: bool


def test_an_answer_keeps_to_its_schema_even_at_a_wild_temperature(client):
    for seed in range(2):
        answer = client.chat.completions.parse(
            model="tiny", messages=HELLO, temperature=1.5, seed=seed, response_format=Fact
        )

        assert answer.choices[0].finish_reason == "stop"
        assert isinstance(answer.choices[0].message.parsed, Fact)


def test_any_object_a_choice_and_a_pattern(client):
    def ask(**more: object) -> str:
        said = client.chat.completions.create(**{**ASKED, "max_tokens": 200, **more})
        return said.choices[0].message.content or ""

    choice = {"structured_outputs": {"choice": ["yes.", "no (2)"]}}
    pattern = {"structured_outputs": {"regex": "[0-9]{3}-[0-9]{2}"}}

    assert isinstance(json.loads(ask(response_format={"type": "json_object"})), dict)
    assert ask(extra_body=choice) in ("yes.", "no (2)")
    assert len(ask(extra_body=pattern).split("-")) == 2


@pytest.mark.parametrize(
    ("format", "code"),
    [
        ({"type": "json_schema"}, "invalid_json_schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "king"}}},
            "invalid_json_schema",
        ),
        ({"type": "yaml"}, "unsupported_value"),
    ],
)
def test_what_is_no_schema_is_refused_by_name(gateway, format, code):
    status, _, told = gateway.post("/v1/chat/completions", {**ASKED, "response_format": format})

    assert (status, told["error"]["code"]) == (400, code)


def test_an_echo_tells_the_odds_of_its_prompt_as_evaluation_harnesses_count_them(client, gateway):
    """As lm-eval asks: ids in, `echo`, one token out, which it leaves off."""
    ids = gateway.post("/tokenize", {"prompt": "Once upon a time there was a cat"})[2]["tokens"]
    asked = {"model": "tiny", "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}

    whole = client.completions.create(prompt=[ids, ids[:4]], **asked)
    *chunks, _ = events(
        gateway.post("/v1/completions", {**asked, "prompt": ids, "stream": True})[2]
    )

    for choice, of in zip(whole.choices, (ids, ids[:4]), strict=True):
        told = choice.logprobs
        assert told.token_logprobs[0] is None
        assert told.top_logprobs[0] is None
        assert len(told.tokens) == len(of) + 1
        assert all(value <= 0 for value in told.token_logprobs[1:])
        for value, top in list(zip(told.token_logprobs, told.top_logprobs, strict=True))[1:]:
            assert value <= max(top.values())
        for token, offset in zip(told.tokens, told.text_offset, strict=True):
            assert choice.text[offset:].startswith(token)
    first, second = whole.choices
    assert first.logprobs.token_logprobs[:4] == pytest.approx(
        [None, *second.logprobs.token_logprobs[1:4]], abs=1e-4
    )
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    tokens = [token for each in streamed if each for token in each["tokens"]]
    assert tokens == first.logprobs.tokens


def test_a_prompt_alone_can_be_asked_about(client, gateway):
    alone = client.completions.create(
        model="tiny", prompt="Once upon a time", max_tokens=0, echo=True, logprobs=2
    )
    refused = gateway.post("/v1/completions", {"model": "tiny", "prompt": "Once", "max_tokens": 0})

    assert alone.choices[0].text == "Once upon a time"
    assert "".join(alone.choices[0].logprobs.tokens) == "Once upon a time"
    assert alone.usage.completion_tokens == 0
    assert refused[2]["error"]["param"] == "max_tokens"


def test_odds_of_prompts_come_in_vllms_form_too(gateway):
    asked = {"model": "tiny", "max_tokens": 2, "prompt_logprobs": 1}

    _, _, text = gateway.post("/v1/completions", {**asked, "prompt": "Once upon a time"})
    _, _, chat = gateway.post("/v1/chat/completions", {**asked, "messages": HELLO})
    _, _, refused = gateway.post("/v1/completions", {**asked, "prompt": "Once", "stream": True})

    for told in (text["choices"][0]["prompt_logprobs"], chat["prompt_logprobs"]):
        assert told[0] is None
        for each in told[1:]:
            assert 1 <= len(each) <= 2
            assert sum(entry["rank"] == 1 for entry in each.values()) == 1
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert refused["error"]["param"] == "prompt_logprobs"
