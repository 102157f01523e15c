"""/v1/responses, as the official client and its strict types have it, against a real swarm."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from tests.gateway.live import Live

EVENT, RESPONSE = TypeAdapter(ResponseStreamEvent), TypeAdapter(Response)  # seconds to build
ASKED: dict[str, Any] = {"model": "tiny", "input": "Hello", "temperature": 0}
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALLS = {
    "model": "tiny",
    "input": "What is the weather in Paris?",
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "weather"},
    "temperature": 0,
    "max_output_tokens": 200,
}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
CALL_EVENTS = [
    *TEXT_EVENTS[:3],
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    *TEXT_EVENTS[-2:],
]


@pytest.fixture(scope="module")
def client(gateway: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def streamed(gateway: Live, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, each checked against the client's own type for it."""
    status, headers, text = gateway.post("/v1/responses", {**asked, "stream": True})
    assert status == 200, text
    assert headers["content-type"].startswith("text/event-stream")
    told = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event)
        told.append(event)
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    return told


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Their types in order, deltas in a row as one."""
    told: list[str] = []
    for event in events:
        if not (event["type"].endswith(".delta") and told and told[-1] == event["type"]):
            told.append(event["type"])
    return told


def test_text_is_answered_whole_and_streamed_alike(client, gateway):
    whole = client.responses.create(**ASKED)
    events = streamed(gateway, ASKED)

    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hello"}], temperature=0
    )
    assert whole.output_text == chat.choices[0].message.content
    assert whole.status == "completed"
    assert kinds(events) == TEXT_EVENTS
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == whole.output_text
    last = events[-1]["response"]
    assert last["output"][0]["content"] == [whole.output[0].content[0].to_dict()]
    assert last["usage"]["total_tokens"] == whole.usage.total_tokens > 0
    assert events[0]["response"]["output"] == []
    assert len(last["manyhands"]["receipts"]) == 2


def test_a_response_is_as_the_clients_own_types_say(gateway):
    asked = {**CALLS, "instructions": "Be brief.", "metadata": {"a": "b"}, "user": "me"}
    schema = {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True}

    _, headers, called = gateway.post("/v1/responses", asked)
    _, _, formed = gateway.post("/v1/responses", {**ASKED, "text": {"format": schema}})

    for told in (called, formed):
        RESPONSE.validate_python(told)
    assert headers["x-manyhands-ignored-params"] == "user"
    assert (called["instructions"], called["store"]) == ("Be brief.", False)
    assert called["metadata"] == {"a": "b"}
    assert formed["text"]["format"]["schema"] == {"type": "integer"}


def test_a_function_is_called_with_arguments_that_fit_whole_and_streamed_alike(client, gateway):
    [whole] = client.responses.create(**CALLS).output
    events = streamed(gateway, CALLS)

    assert whole.type == "function_call"
    assert json.loads(whole.arguments)["city"] in ("Paris", "Oslo")
    assert kinds(events) == CALL_EVENTS
    [item] = events[-1]["response"]["output"]
    assert (item["name"], item["arguments"]) == (whole.name, whole.arguments)
    deltas = [event["delta"] for event in events if event["type"].endswith("arguments.delta")]
    assert "".join(deltas) == whole.arguments


def test_what_a_function_gave_goes_back_in_the_items_of_the_answer(client):
    [call] = client.responses.create(**CALLS).output

    answer = client.responses.create(
        model="tiny",
        tools=[WEATHER],
        tool_choice="none",
        max_output_tokens=8,
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": CALLS["input"]}]},
            call.to_dict(),
            {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."},
        ],
    )

    assert answer.output_text
    assert answer.output[0].type == "message"


def test_the_clients_own_stream_helper_puts_the_response_together(client):
    with client.responses.stream(**ASKED) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert final.output_text == "".join(texts) != ""


class Fact(BaseModel):
    animal: Literal["cat", "dog"]


def test_a_schema_is_kept_to_and_parsed(client):
    wild = {**ASKED, "temperature": 1.5, "extra_body": {"seed": 1}}

    parsed = client.responses.parse(**wild, text_format=Fact)

    assert isinstance(parsed.output_parsed, Fact)


def test_an_answer_that_was_cut_says_why(client, gateway):
    cut = client.responses.create(**ASKED, max_output_tokens=1)
    events = streamed(gateway, {**ASKED, "max_output_tokens": 1})

    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.output[0].status == "incomplete"
    assert kinds(events)[-1] == "response.incomplete"


def test_odds_come_with_the_text_they_belong_to(gateway):
    asked = {**ASKED, "include": ["message.output_text.logprobs"], "top_logprobs": 2}

    _, _, whole = gateway.post("/v1/responses", asked)
    events = streamed(gateway, asked)

    [part] = whole["output"][0]["content"]
    RESPONSE.validate_python(whole)
    assert b"".join(bytes(each["bytes"]) for each in part["logprobs"]).decode() == part["text"]
    told = [each for event in events for each in event.get("logprobs", ()) if "delta" in event]
    assert told == part["logprobs"]
    assert all(len(each["top_logprobs"]) == 2 for each in told)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"store": True}, "unsupported_parameter", "store"),
        ({"conversation": "c"}, "unsupported_parameter", "conversation"),
        ({"background": True}, "unsupported_parameter", "background"),
        ({"max_tokens": 3}, "unsupported_parameter", "max_tokens"),
        ({"guided_regex": "a+"}, "unsupported_parameter", "guided_regex"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"truncation": "auto"}, "unsupported_value", "truncation"),
        ({"include": ["file_search_call.results"]}, "unsupported_value", "include.0"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", "tools.0.type"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_value", "input[0]"),
        ({"input": [{"type": "computer_call"}]}, "unsupported_value", "input[0].type"),
        ({"input": [{"role": "root", "content": ""}]}, "invalid_value", "input[0].role"),
        ({"input": "word " * 4000}, "context_length_exceeded", "input"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "unsupported_value",
            "input[0].content[0].type",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "a", "name": "f", "arguments": "["}]},
            "invalid_value",
            "input[0].arguments",
        ),
        ({"text": {"format": {"type": "json_schema"}}}, "invalid_json_schema", "text.format"),
        (
            {"text": {"format": {"type": "json_schema", "schema": {"type": "king"}}}},
            "invalid_json_schema",
            None,  # the last hop says so
        ),
    ],
)
def test_what_this_gateway_does_not_do_is_refused_by_name(gateway, more, code, param):
    status, _, told = gateway.post("/v1/responses", {**ASKED, **more})

    assert status == 400
    assert (told["error"]["code"], told["error"]["param"]) == (code, param)


def test_the_official_client_raises_what_was_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**ASKED, previous_response_id="resp_1")

    assert refused.value.code == "unsupported_parameter"
    assert "send the whole input again" in refused.value.message
