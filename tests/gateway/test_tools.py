"""Tools, as the official client offers and calls them, against a real swarm."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from manyhands.gateway.asked import ChatAsked
from manyhands.gateway.speaking import Speech, _forced, _offered
from manyhands.gateway.spoken import Spoken
from manyhands.replies import dialect as dialects
from manyhands.replies.dialect import Dialect
from scheduler.request import Token
from tests.gateway.live import Live, events

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
ASKED: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "tools": [WEATHER, CLOCK],
    "seed": 3,
    "max_tokens": 200,
}


@pytest.fixture(scope="module")
def client(gateway: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(client):
    choice = client.chat.completions.create(**ASKED, tool_choice=NAMED).choices[0]

    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    call = choice.message.tool_calls[0]
    assert call.function.name == "weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Paris", "Oslo")
    assert 1 <= arguments["days"] <= 9


def test_a_stream_tells_the_same_call_piece_by_piece(client):
    whole = client.chat.completions.create(**ASKED, tool_choice=NAMED).choices[0].message
    first, arguments, reasons = None, "", []
    for chunk in client.chat.completions.create(**ASKED, tool_choice=NAMED, stream=True):
        delta = chunk.choices[0].delta
        assert not delta.content
        for call in delta.tool_calls or ():
            first = first or call
            arguments += call.function.arguments
        reasons.append(chunk.choices[0].finish_reason)

    assert (first.index, first.function.name) == (0, "weather")
    assert first.id.startswith("call_")
    assert arguments == whole.tool_calls[0].function.arguments
    assert reasons[-1] == "tool_calls"


def test_one_of_several_is_called_where_any_will_do(client):
    asked = {**ASKED, "tool_choice": "required", "parallel_tool_calls": False}
    calls = client.chat.completions.create(**asked).choices[0].message.tool_calls

    assert [call.function.name for call in calls] in (["weather"], ["clock"])


TWO_CALLS = """<tool_call>
{"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
</tool_call>
<tool_call>
{"name": "clock", "arguments": {}}
</tool_call>"""


@pytest.mark.parametrize("streams", [False, True])
def test_two_calls_of_one_answer_are_told_apart(client, streams):
    held = {"extra_body": {"structured_outputs": {"choice": [TWO_CALLS]}}}  # it says just this

    if streams:
        calls = calls_of(client.chat.completions.create(**ASKED, **held, stream=True))
    else:
        choice = client.chat.completions.create(**ASKED, **held).choices[0]
        assert choice.finish_reason == "tool_calls"
        told = enumerate(choice.message.tool_calls)
        calls = {n: (call.id, call.function.name, call.function.arguments) for n, call in told}

    assert [(n, name, json.loads(args)) for n, (_, name, args) in sorted(calls.items())] == [
        (0, "weather", {"city": "Oslo", "days": 2}),
        (1, "clock", {}),
    ]
    assert len({id for id, _, _ in calls.values()}) == 2


def calls_of(chunks: Any) -> dict[int, tuple[str, str, str]]:
    """Of a stream: id, name and arguments, by the index of the call."""
    calls: dict[int, tuple[str, str, str]] = {}
    for chunk in chunks:
        for part in chunk.choices[0].delta.tool_calls or ():
            id, name, told = calls.get(part.index, ("", "", ""))
            more = part.function.arguments or ""
            calls[part.index] = (part.id or id, part.function.name or name, told + more)
    return calls


def test_a_call_and_its_result_go_back_into_the_conversation(client):
    answer = client.chat.completions.create(**ASKED, tool_choice=NAMED).choices[0].message
    result = {"role": "tool", "tool_call_id": answer.tool_calls[0].id, "content": "sunny"}
    messages = [*ASKED["messages"], answer.model_dump(exclude_none=True), result]

    again = client.chat.completions.create(**{**ASKED, "messages": messages, "max_tokens": 8})

    assert again.choices[0].message.role == "assistant"


def test_offered_tools_need_not_be_called(client):
    answer = client.chat.completions.create(**{**ASKED, "max_tokens": 12}).choices[0]

    assert answer.message.content
    assert not answer.message.tool_calls


def test_what_is_told_of_calls_is_as_the_clients_own_types_say(gateway):
    asked = {**ASKED, "tool_choice": NAMED}
    whole = gateway.post("/v1/chat/completions", asked)[2]
    TypeAdapter(ChatCompletion).validate_python(whole)
    *chunks, done = events(gateway.post("/v1/chat/completions", {**asked, "stream": True})[2])
    for chunk in chunks:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk)
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{**CLOCK, "function": {"name": "f", "parameters": {"$defs": [1]}}}]}, "tools"),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(client, changes, param):
    with pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(**{**ASKED, **changes})
    assert refused.value.param == param


def test_thoughts_are_told_apart_and_counted() -> None:
    dialect = dialects.dialect_of("<tool_call> </think>")
    spoken = Spoken(Speech(ids=[1], dialect=dialect, tail="<think>\n"))
    for index, text in enumerate(["Hm", ", so", "</think>", "\n\nYes", "."]):
        spoken.hear(Token(index, index, text))
    spoken.end()

    assert spoken.message()["reasoning"] == "Hm, so"
    assert spoken.message()["content"] == "Yes."
    assert spoken.n_reasoning == 2
    assert spoken.finish_reason("stop") == "stop"


def test_marks_that_are_special_tokens_are_read_though_they_have_no_text() -> None:
    speech = Speech(
        ids=[1],
        dialect=dialects.MISTRAL,
        tools={"clock": {}},
        marks={9: "[TOOL_CALLS]"},
        several=False,
    )
    spoken = Spoken(speech)
    calls = '[{"name": "clock", "arguments": {}}, {"name": "clock", "arguments": {}}]'
    deltas = spoken.hear(Token(0, 9, "")) + spoken.hear(Token(1, 5, calls)) + spoken.end()

    assert len(spoken.message()["tool_calls"]) == 1  # several were not asked for
    assert len(deltas[0]["tool_calls"][0]["id"]) == 9
    assert spoken.finish_reason("stop") == "tool_calls"


STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
MARKS = {"<tool_call>": 7, "</tool_call>": 8}


def grammar_of(ids: dict[str, int], dialect: Dialect = dialects.HERMES, **more: Any) -> str:
    asked = ChatAsked.model_validate({**ASKED, "tools": [STRICT, CLOCK], **more})
    return str(_forced(asked, dialect, _offered(asked), "", ids) or "")


def test_a_strict_function_is_held_to_its_schema_once_the_model_begins_to_call() -> None:
    told = grammar_of(MARKS, tool_choice="auto")

    assert "start:  FREE (calls FREE)?" in told
    assert '"minimum": 1' in told.replace("\\", "")
    assert told == grammar_of(MARKS)
    for other in ("required", NAMED):
        assert "FREE" not in grammar_of(MARKS, tool_choice=other)


def test_a_family_without_a_mark_of_its_own_is_held_too() -> None:
    assert "start:  (FREE | calls)" in grammar_of({}, dialects.LLAMA)
    assert "to=functions" in grammar_of(dict.fromkeys(dialects.HARMONY.silent, 9), dialects.HARMONY)
    assert grammar_of({}, dialects.HARMONY) == ""


def test_a_function_that_is_not_strict_takes_any_arguments_beside_one_that_is() -> None:
    told = grammar_of(MARKS, dialects.QWEN_CODER)

    assert "f1: H1 any* CLOSE" in told
    assert "f0: H0" not in told
    assert "any* CLOSE" not in grammar_of(MARKS, dialects.QWEN_CODER, tool_choice="required")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [WEATHER, CLOCK]},  # none of them strict
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"ignore_eos": True},
    ],
)
def test_where_nothing_is_strict_or_the_reply_is_something_else_nothing_is_held(
    more: dict[str, Any],
) -> None:
    assert grammar_of(MARKS, **more) == ""
    assert grammar_of({}) == ""  # its marks are no tokens: what begins a call cannot be told
