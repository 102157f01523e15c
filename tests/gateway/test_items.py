"""The items of a response and the turns they become, without a swarm."""

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from manyhands.gateway.answers import Answers
from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.catalogue import served_of
from manyhands.gateway.faults import ApiError
from manyhands.gateway.items import Items
from manyhands.gateway.prepared import Prepared
from manyhands.gateway.response_reply import ResponseReply
from manyhands.gateway.shapes import Chat
from manyhands.gateway.speaking import Speech
from manyhands.gateway.stream import EventStream
from manyhands.gateway.turns import messages_of
from manyhands.models import find_model
from manyhands.replies import dialect as dialects
from protocol.errors import PeerError
from scheduler.request import GenerationRequest
from tests.gateway.scripted import END, ROUTED, A, B, Client, Connection

EVENT, RESPONSE = TypeAdapter(ResponseStreamEvent), TypeAdapter(Response)  # seconds to build

THINKS = {"reasoning": "hm"}
SAYS = {"content": "yes"}
CALL = {
    "tool_calls": [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    ]
}
FILLS = {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}


def run(*deltas: dict[str, Any], status: str = "completed") -> tuple[Items, list[str]]:
    items = Items()
    events = [event for delta in deltas for event in items.add(delta)]
    events += items.end(status)
    for number, event in enumerate(events):
        numbered = {**event, "sequence_number": number}
        EVENT.validate_python(numbered)
    return items, [event["type"] for event in events]


def test_thoughts_text_and_calls_are_items_of_their_own_and_close_before_the_next_opens():
    items, kinds = run(THINKS, THINKS, SAYS, CALL, FILLS)

    assert [item["type"] for item in items.output] == ["reasoning", "message", "function_call"]
    assert items.output[0]["content"] == [{"type": "reasoning_text", "text": "hmhm"}]
    assert {item["status"] for item in items.output} == {"completed"}
    opened = [kind for kind in kinds if kind.startswith("response.output_item.")]
    assert opened == ["response.output_item.added", "response.output_item.done"] * 3


def test_space_before_a_call_is_no_text_and_an_empty_answer_is_a_message():
    called, _ = run({"content": "\n"}, CALL, FILLS, {"content": "\n"})
    empty, kinds = run()
    spaced, _ = run({"content": " "}, SAYS)

    assert [item["type"] for item in called.output] == ["function_call"]
    assert empty.output[0]["content"][0]["text"] == ""
    assert "response.output_text.delta" not in kinds
    assert spaced.output[0]["content"][0]["text"] == " yes"


@settings(max_examples=60)
@given(st.lists(st.sampled_from([THINKS, SAYS, {"content": " "}, CALL, FILLS]), max_size=8))
def test_whatever_a_reply_says_its_events_tell_the_items_that_stand_at_the_end(deltas):
    begun = 0
    script = []
    for delta in deltas:  # arguments come behind a call alone
        begun = 1 if delta is CALL else begun * (delta is FILLS)
        if delta is not FILLS or begun:
            script.append(delta)

    items, kinds = run(*script, status="incomplete")

    assert kinds.count("response.output_item.added") == len(items.output)
    assert kinds.count("response.output_item.done") == len(items.output)
    assert any(item["type"] != "reasoning" for item in items.output)


def test_the_items_of_one_reply_are_one_turn_again():
    turns = messages_of(
        "Be brief.",
        [
            {"role": "user", "content": "Weather?"},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "f", "arguments": ""},
            {"type": "function_call_output", "call_id": "a", "output": "rain"},
            {"type": "function_call_output", "call_id": "b", "output": [
                {"type": "input_text", "text": "sun"}]},
        ],
    )  # fmt: skip

    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool", "tool"]
    reply = turns[2].plain()
    assert (reply["content"], reply["reasoning"]) == ("I look.", "hm")
    assert [call["id"] for call in reply["tool_calls"]] == ["a", "b"]
    assert [turn.plain()["tool_call_id"] for turn in turns[3:]] == ["a", "b"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
KINDS = ("message", "reasoning", "function_call", "function_call_output", "item_reference")
FIELDS = ("type", "role", "content", "call_id", "arguments", "name", "output", "summary")


@settings(max_examples=100)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(KINDS) | JSON, max_size=4),
        max_size=4,
    )
)
def test_any_items_are_turns_or_are_refused_with_their_place(given_items):
    try:
        turns = messages_of(None, given_items)
    except ApiError as error:
        refused = error
    else:
        assert len(turns) <= len(given_items)
        return
    assert refused.status == 400
    assert (refused.param or "").startswith("input[")


async def test_a_response_that_breaks_off_ends_in_an_error_that_clients_raise():
    [served] = served_of([find_model("tiny")])
    asked = ResponsesAsked(model="tiny", input="Hello", stream=True)
    request = GenerationRequest(manifest=bytes(32), n_blocks=8, prompt_ids=(1,))
    speech = Speech(ids=(1,), dialect=dialects.dialect_of(None))
    chat = asked.chat()
    prepared = Prepared(Chat("tiny", served, speech), served, chat, [request], speech)
    failing = Client([ROUTED, A, B, PeerError("peer-b", "it left")])

    text = await told(failing, ResponseReply(asked, prepared), request)

    blocks = [block.split("\n")[1].removeprefix("data: ") for block in text.split("\n\n") if block]
    *_, failed, last = map(json.loads, blocks)
    RESPONSE.validate_python(failed["response"])
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    EVENT.validate_python(last)
    assert (last["type"], last["code"], last["error"]["code"]) == ("error", *["peer_failed"] * 2)
    assert last["error"]["id"] == failed["response"]["id"]
    with pytest.raises(openai.APIError) as raised:
        read_as_the_client_does(text)
    assert raised.value.code == "peer_failed"


async def told(client: Client, reply: ResponseReply, request: GenerationRequest) -> str:
    connection = Connection()
    async with asyncio.TaskGroup() as tasks:
        answers = Answers(client, [request])  # type: ignore[arg-type]
        answers.start(tasks, connection.receive)
        await EventStream(answers, reply, {})({}, connection.receive, connection.send)
    return connection.text


def read_as_the_client_does(text: str) -> None:
    answer = httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=text)
    transport = httpx2.MockTransport(lambda request: answer)
    with (
        httpx2.Client(transport=transport) as http,
        OpenAI(base_url="http://x/v1", api_key="none", http_client=http) as client,
    ):
        for _ in client.responses.create(model="tiny", input="Hello", stream=True):
            pass


async def test_a_response_that_ends_tells_the_same_whole_and_in_events():
    [served] = served_of([find_model("tiny")])
    asked = ResponsesAsked(model="tiny", input="Hello", stream=True)
    request = GenerationRequest(manifest=bytes(32), n_blocks=8, prompt_ids=(1,))
    speech = Speech(ids=(1,), dialect=dialects.dialect_of(None))
    chat = asked.chat()
    prepared = Prepared(Chat("tiny", served, speech), served, chat, [request], speech)

    text = await told(Client([ROUTED, A, B, END]), ResponseReply(asked, prepared), request)

    assert "response.completed" in text
    assert '"text":"ab"' in text
