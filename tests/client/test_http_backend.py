"""The clients on whatever answers at a URL: a gateway, something before it, or something else."""

from typing import Any

import pytest

from manyhands import AsyncClient
from manyhands.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    SwarmIncomplete,
    SwarmUnreachable,
)
from tests.client.elsewhere import Reply, elsewhere

HELLO = [{"role": "user", "content": "Hello"}]


async def test_what_ends_a_line_to_python_alone_is_part_of_an_answer():
    said = "one\u2028two\u2029three\x85four"
    chunk = {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": said}, "finish_reason": None}],
    }

    async with elsewhere(lambda _: Reply.stream(chunk)) as url, AsyncClient(base_url=url) as client:
        stream = await client.chat.completions.create(messages=HELLO, stream=True)
        heard = [each.choices[0].delta.content async for each in stream]

    assert heard == [said]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "half a \ud800", object()])
async def test_what_json_cannot_say_is_the_callers_and_nobody_is_asked(value):
    asked: list[object] = []

    def hear(body: dict[str, Any]) -> Reply:
        asked.append(body)
        return late()

    async with elsewhere(hear) as url, AsyncClient(base_url=url) as client:
        with pytest.raises(InvalidRequest) as refused:
            await client.chat.completions.create(messages=HELLO, user=value)

    assert (refused.value.code, refused.value.status, asked) == ("invalid_value", 400, [])


def late(**headers: str) -> Reply:
    return Reply.of({"error": {"message": "late", "code": "timeout"}}, 504, **headers)


async def test_a_gateway_is_told_for_how_long_its_client_waits():
    asked: list[dict[str, Any]] = []

    def hear(body: dict[str, Any]) -> Reply:
        asked.append(body)
        return late()

    async with elsewhere(hear) as url, AsyncClient(base_url=url, timeout_s=7.5) as client:
        for more in ({}, {"manyhands": {"timeout_s": 2, "regions": ["eu"]}}):
            with pytest.raises(DeadlineExceeded):
                await client.generate("Once", **more)
        with pytest.raises(DeadlineExceeded):
            await client.embed("Once")

    assert [body["manyhands"] for body in asked] == [
        {"timeout_s": 7.5},
        {"timeout_s": 2, "regions": ["eu"]},
        {"timeout_s": 7.5},
    ]


@pytest.mark.parametrize("parts", [(None,), (b": ping\n\n", b": ping\n\n", None)])
async def test_no_whole_answer_in_time_is_an_error_whatever_trickles_in(parts):
    async with (
        elsewhere(lambda _: Reply(parts)) as url,
        AsyncClient(base_url=url, timeout_s=0.1) as client,
    ):
        with pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
            await client.generate("Once")
        stream = await client.chat.completions.create(messages=HELLO, stream=True)
        with pytest.raises(DeadlineExceeded, match=r"within 0\.1 s"):
            await anext(stream)


async def test_a_504_of_whoever_stands_between_is_asked_once():
    asked: list[Any] = []

    def hear(body: Any) -> Reply:
        asked.append(body)
        return late()

    async with elsewhere(hear) as url, AsyncClient(base_url=url) as client:
        with pytest.raises(DeadlineExceeded):
            await client.generate("Once")

    assert len(asked) == 1


async def test_a_pause_that_takes_longer_than_there_is_time_is_left_to_the_caller():
    asked: list[Any] = []

    def hear(body: Any) -> Reply:
        asked.append(body)
        error = {"message": "later", "code": "overloaded"}
        return Reply.of({"error": error}, 503, retry_after="40" if len(asked) > 1 else "0.01")

    async with elsewhere(hear) as url, AsyncClient(base_url=url, timeout_s=30) as client:
        with pytest.raises(Overloaded) as refused:
            await client.generate("Once")

    assert len(asked) == 2
    assert refused.value.retry_after_s == 40


AN_UPSTREAM_S = {
    "manyhands": {"model": "m", "decision": {}, "receipts": [], "cost": {"amount": 7}},
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def part(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


async def test_an_upstream_s_answer_has_text_and_cost_and_no_token_ids():
    def answer(body: dict[str, Any]) -> Reply:
        if body.get("stream"):
            return Reply.stream(
                part("Here "), part("it is", "stop"), {"choices": []} | AN_UPSTREAM_S
            )
        return Reply.of(part("Here it is", "stop") | AN_UPSTREAM_S)

    async with (
        elsewhere(answer) as url,
        AsyncClient(base_url=url, model="manyhands/auto") as client,
    ):
        whole = await client.generate("Where?")
        stream = client.stream("Where?")
        told = [(token.index, token.token_id, token.text) async for token in stream]
        streamed = await stream.result()

    assert told == [(0, None, "Here "), (1, None, "it is")]
    assert whole == streamed
    assert (whole.text, whole.finish_reason, whole.cost_ncr) == ("Here it is", "stop", 7)
    assert (whole.tokens, whole.route, whole.receipts) == ((), (), ())
    assert (whole.timings, whole.seed, whole.usage.completion_tokens) == (None, None, 2)


async def test_what_is_no_gateway_is_named_as_such_by_every_call():
    async with (
        elsewhere(
            lambda body: Reply.stream({"choices": [{}]}) if body.get("stream") else Reply.of({})
        ) as url,
        AsyncClient(base_url=url) as client,
    ):
        for asking in (
            client.generate("Once"),
            client.stream("Once").result(),
            client.embed("Once"),
            client.models(),
            client.chat.completions.create(messages=HELLO),
            anext(await client.chat.completions.create(messages=HELLO, stream=True)),
        ):
            with pytest.raises(SwarmUnreachable, match="something else") as refused:
                await asking
            assert "base_url" in refused.value.hint


@pytest.mark.parametrize("missing", [None, 3, "ab", [1], [[1]], [["a", 2]], [[1, 2, 3]], {"a": 1}])
async def test_blocks_that_are_told_as_nothing_we_know_are_not_told(missing):
    error = {"message": "nobody", "code": "swarm_incomplete", "missing": missing, "hint": missing}

    async with (
        elsewhere(lambda _: Reply.of({"error": error}, 503)) as url,
        AsyncClient(base_url=url, max_retries=0) as client,
    ):
        with pytest.raises(SwarmIncomplete) as refused:
            await client.generate("Once")

    assert refused.value.missing == ()
