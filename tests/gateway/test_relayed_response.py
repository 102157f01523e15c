"""What an upstream may say of a chat, and what a response makes of it."""

from typing import Any

import pytest

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


@pytest.mark.parametrize("said", [{"content": 5}, {"content": {}}, {"tool_calls": "x"}, {"x": []}])
def test_what_is_no_text_is_not_said(said: Any):
    (message,) = reply(said).whole()["output"]

    assert message["content"][0]["text"] == ""
