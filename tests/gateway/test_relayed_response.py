"""What an upstream may say of a chat, and what a response makes of it."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from manyhands.gateway.asked_responses import ResponsesAsked
from manyhands.gateway.faults import ApiError
from manyhands.gateway.relayed_response import RelayedResponse
from manyhands.gateway.upstream import Used


def reply(*deltas: Any, reason: str = "stop") -> RelayedResponse:
    asked = ResponsesAsked.model_validate({"model": "manyhands/auto", "input": "Hello"})
    made = RelayedResponse(asked, lambda: {"receipts": []}, Used(3, 4))
    frames = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    made.hear([*frames, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}])
    return made


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more.pop("name")} if "name" in more else {})}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def test_thoughts_words_and_calls_become_items_in_their_order():
    whole = reply(
        {"role": "assistant", "content": None},
        {"reasoning_content": "Hm"},
        {"content": "I look."},
        call(0, "", id="a", name="find"),
        call(0, '{"x":'),
        call(0, "1}"),
        call(1, "{}", id="b", name="find"),
    ).whole()

    kinds = [item["type"] for item in whole["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert [item.get("arguments") for item in whole["output"][2:]] == ['{"x":1}', "{}"]
    assert [item["call_id"] for item in whole["output"][2:]] == ["a", "b"]
    assert whole["usage"]["total_tokens"] == 7


def test_an_answer_that_came_whole_is_heard_like_a_stream():
    asked = ResponsesAsked.model_validate({"model": "manyhands/auto", "input": "Hello"})
    made = RelayedResponse(asked, dict, Used())
    calls = [{"id": "a", "function": {"name": "f", "arguments": "{}"}}] * 2
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    made.hear([{"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}])

    assert [item["name"] for item in made.whole()["output"]] == ["f", "f"]


def test_one_that_ends_at_its_limit_is_incomplete():
    whole = reply({"content": "and so on"}, reason="length").whole()

    assert (whole["status"], whole["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )


@pytest.mark.parametrize(
    "deltas",
    [
        [{"tool_calls": ["x"]}],
        [{"tool_calls": [{"index": 0, "id": "a"}]}],
        [call(0, "{}")],
        [call(0, "{", id="a", name="f"), call(1, "{}", id="b", name="f"), call(0, "}")],
        [call(0, "{", id="a", name="f"), {"content": "and"}, call(0, "}")],
    ],
)
def test_calls_that_cannot_be_told_apart_are_the_upstreams_failure(deltas: list[Any]):
    with pytest.raises(ApiError) as failed:
        reply(*deltas)

    assert failed.value.code == "upstream_failed"


def test_what_nobody_knows_is_passed_over():
    (message,) = reply({"x": [], "content": None, "tool_calls": None}).whole()["output"]

    assert message["content"][0]["text"] == ""


@pytest.mark.parametrize(
    "said",
    [
        {"content": 5},
        {"content": {}},
        {"content": [{"type": "audio"}]},
        {"tool_calls": "x"},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": [1]}}]},
    ],
)
def test_what_cannot_be_told_on_is_the_upstreams_failure_and_no_empty_answer(said: Any):
    with pytest.raises(ApiError) as failed:
        reply(said)

    assert failed.value.code == "upstream_failed"


def test_a_refusal_is_told_as_one():
    made = reply({"refusal": "I will"}, {"refusal": " not."})
    (message,) = made.whole()["output"]

    assert message["content"] == [{"type": "refusal", "refusal": "I will not."}]
    TypeAdapter(Response).validate_python(made.whole())


def test_a_refusal_in_a_stream_has_the_events_of_one():
    made = RelayedResponse(ResponsesAsked(model="m", input="x"), dict, Used())
    choice = {"index": 0, "delta": {"refusal": "No."}, "finish_reason": "stop"}
    told = b"".join((*made.frames([{"choices": [choice]}]), *made.end())).decode()
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]

    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_python(event)
    assert "response.refusal.done" in [event["type"] for event in events]


def test_what_a_filter_cut_is_incomplete():
    whole = reply({"content": "par"}, reason="content_filter").whole()

    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "content_filter"}


def test_content_in_parts_and_arguments_as_an_object_are_read():
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": " you"}]
    calls = [{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]
    message, made = reply({"content": parts}, {"tool_calls": calls}).whole()["output"]

    assert message["content"][0]["text"] == "Hello you"
    assert json.loads(made["arguments"]) == {"x": 1}


def test_an_index_that_is_none_counts_as_its_place():
    calls = [
        {"index": index, "id": id, "function": {"name": "f", "arguments": "{}"}}
        for index, id in ((None, "a"), (True, "b"))
    ]

    assert [made["call_id"] for made in reply({"tool_calls": calls}).whole()["output"]] == [
        "a",
        "b",
    ]


def test_a_new_id_and_name_begin_a_call_whatever_its_index():
    pieces = [call(0, "{}", id="a", name="f"), call(0, '{"y":2}', id="b", name="g")]
    together = {"tool_calls": [each for piece in pieces for each in piece["tool_calls"]]}
    for deltas in ([together], pieces):
        made = reply(*deltas).whole()["output"]
        assert [(each["call_id"], each["arguments"]) for each in made] == [
            ("a", "{}"),
            ("b", '{"y":2}'),
        ]


def test_pieces_of_one_call_may_repeat_its_name_or_have_ids_of_their_own():
    whole = reply(
        call(0, '{"x":', id="a", name="f"),
        call(0, "1", id="a", name="f"),
        call(0, "}", id="other"),
    ).whole()

    assert [made["arguments"] for made in whole["output"]] == ['{"x":1}']


def test_of_several_choices_the_first_is_told():
    asked = ResponsesAsked.model_validate({"model": "manyhands/auto", "input": "Hello"})
    made = RelayedResponse(asked, dict, Used())
    made.hear([{"choices": [{"index": n, "message": {"content": "AB"[n]}} for n in (0, 1)]}])

    assert made.whole()["output"][0]["content"][0]["text"] == "A"
