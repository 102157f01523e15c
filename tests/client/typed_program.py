"""A program as a user would type it: `mypy` checks what everything is, a test runs it."""

from typing import Any, assert_type

from manyhands import AsyncClient, Client
from manyhands.client import (
    Answer,
    ChatCompletion,
    ChatCompletionChunk,
    Coverage,
    Hop,
    Model,
    Token,
)
from manyhands.client.streams import AsyncStream, Stream
from manyhands.errors import ContextLengthExceeded, SwarmIncomplete

HELLO = [{"role": "user", "content": "Hello"}]


def ask(client: Client) -> str:
    answer = client.generate("Many hands", model="tiny", max_new_tokens=4, do_sample=False)
    assert_type(answer, Answer)
    assert_type(answer.text, str)
    assert_type(answer.tokens, tuple[int, ...])
    assert_type(answer.route, tuple[Hop, ...])
    assert_type(answer.usage.prompt_tokens, int)
    with client.stream([1, 2, 3], max_new_tokens=4, stop=["\n"]) as stream:
        for token in stream:
            assert_type(token, Token)
            assert_type(token.logprob, float | None)
        assert_type(stream.result(), Answer)
    whole = client.chat.completions.create(messages=HELLO, max_tokens=4)
    assert_type(whole, ChatCompletion)
    assert_type(whole.choices[0].message.content, str | None)
    chunks = client.chat.completions.create(messages=HELLO, max_tokens=4, stream=True)
    assert_type(chunks, Stream[ChatCompletionChunk])
    for chunk in chunks:
        assert_type(chunk.choices[0].delta.content, str | None)
    vectors = client.embed(["a hand", "many hands"]).vectors
    assert_type(vectors, tuple[tuple[float, ...], ...])
    assert_type(client.models(), list[Model])
    assert_type(client.explain_route(tokens=64, manyhands={"regions": []}), dict[str, Any])
    assert_type(client.swarm.coverage("tiny"), Coverage)
    return answer.text


def ask_for_too_much(client: Client) -> str:
    try:
        client.generate("Once", max_new_tokens=100_000)
    except ContextLengthExceeded as error:
        assert_type(error.code, str)
        assert_type(error.status, int)
        return error.code
    except SwarmIncomplete as error:
        assert_type(error.missing, tuple[tuple[int, int], ...])
    return ""


async def ask_later(client: AsyncClient) -> str:
    answer = await client.generate("Many hands", max_new_tokens=4, do_sample=False)
    assert_type(answer, Answer)
    async with client.stream("Many hands", max_new_tokens=4, do_sample=False) as stream:
        texts = [token.text async for token in stream]
    chunks = await client.chat.completions.create(messages=HELLO, stream=True, max_tokens=4)
    assert_type(chunks, AsyncStream[ChatCompletionChunk])
    assert [chunk async for chunk in chunks]
    return answer.text if answer.text == "".join(texts) else ""
