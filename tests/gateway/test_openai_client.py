"""The official client, and the types it was generated with, against a real swarm of two nodes."""

from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from tests.gateway.live import Live, events

HELLO = [{"role": "user", "content": "Hello"}]
ASKED = {"model": "tiny", "messages": HELLO, "seed": 3, "temperature": 0}


@pytest.fixture(scope="module")
def client(gateway: Live) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_is_answered_streamed_and_whole_alike(client):
    whole = client.chat.completions.create(**ASKED)
    streamed = list(client.chat.completions.create(**ASKED, stream=True))

    answer = whole.choices[0]
    assert answer.message.content
    assert answer.finish_reason == "stop"
    texts = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(texts) == answer.message.content
    assert [chunk.choices[0].delta.role for chunk in streamed] == ["assistant"] + [None] * (
        len(streamed) - 1
    )
    assert [chunk.choices[0].finish_reason for chunk in streamed][-1] == "stop"
    assert all(chunk.usage is None for chunk in streamed)
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_usage_comes_in_a_chunk_of_its_own_and_only_when_it_was_asked_for(client):
    asked = {"include_usage": True}

    *chunks, last = client.chat.completions.create(**ASKED, stream=True, stream_options=asked)

    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 0
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_everything_is_as_the_clients_own_types_say(gateway):
    def is_a(kind, value):
        TypeAdapter(kind).validate_python(value)

    is_a(ChatCompletion, gateway.post("/v1/chat/completions", {**ASKED, "n": 2})[2])
    is_a(Completion, gateway.post("/v1/completions", {"model": "tiny", "prompt": "Once"})[2])
    is_a(Model, gateway.ask("GET", "/v1/models/tiny")[2])
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(gateway.post("/v1/chat/completions", {**ASKED, **options})[2])
    *texts, also_done = events(
        gateway.post("/v1/completions", {"model": "tiny", "prompt": "Once", **options})[2]
    )
    for chunk in chunks:
        is_a(ChatCompletionChunk, chunk)
    for text in texts:
        for choice in text["choices"]:  # OpenAI, too, sends null here, which its own type forgets
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        is_a(Completion, text)
    assert (done, also_done) == ("[DONE]", "[DONE]")


def test_models_are_listed_by_every_name_that_can_be_asked_for(client):
    listed = client.models.list().data

    assert [model.id for model in listed] == ["tiny", "org/other", "default", "small"]
    assert client.models.retrieve("org/other").id == "org/other"
    for model in listed:
        answer = client.chat.completions.create(**{**ASKED, "model": model.id, "max_tokens": 1})
        assert answer.model == model.id


def test_refusals_are_the_clients_own_errors_with_code_and_field(client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**ASKED, "model": "tinny"})
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**ASKED, max_completion_tokens=2000)
    with pytest.raises(openai.BadRequestError) as hot:
        client.chat.completions.create(**{**ASKED, "temperature": 3})
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(**ASKED, extra_body={"chat_template": "{{ 1 }}"})

    assert unknown.value.code == "model_not_found"
    assert unknown.value.request_id
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    assert str(long.value.body["message"]).startswith(
        "This model's maximum context length is 1024 tokens. However, you requested 2004 tokens "
    )
    assert (hot.value.code, hot.value.param) == ("invalid_value", "temperature")
    assert tools.value.code == "unsupported_parameter"
    assert tools.value.param == "chat_template"


def test_a_stop_is_found_across_tokens_and_never_shown(client):
    whole = client.completions.create(model="tiny", prompt="Once upon", max_tokens=16, seed=1)
    text = whole.choices[0].text
    middle = len(text) // 2
    stop = text[middle - 2 : middle + 2]  # may begin in one token and end in another

    stopped = client.completions.create(
        model="tiny", prompt="Once upon", max_tokens=16, seed=1, stop=[stop]
    )
    streamed = client.completions.create(
        model="tiny", prompt="Once upon", max_tokens=16, seed=1, stop=stop, stream=True
    )

    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert "".join(chunk.choices[0].text for chunk in streamed) == stopped.choices[0].text


def test_several_answers_differ_and_the_same_seed_gives_the_same_ones(client):
    asked = {**ASKED, "temperature": 2, "max_tokens": 6, "n": 3}

    first, again = (client.chat.completions.create(**asked) for _ in range(2))
    alone = client.chat.completions.create(**{**asked, "n": 1})

    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [choice.message.content for choice in again.choices] == texts
    assert alone.choices[0].message.content == texts[0]
    assert first.usage is not None
    assert alone.usage is not None
    assert first.usage.prompt_tokens == alone.usage.prompt_tokens


def test_the_ids_of_an_answer_are_told_to_who_asks_for_them(gateway):
    asked = {"model": "tiny", "prompt": "Once upon", "max_tokens": 6, "return_token_ids": True}

    whole = gateway.post("/v1/completions", asked)[2]["choices"][0]
    *chunks, _ = events(gateway.post("/v1/completions", {**asked, "stream": True})[2])

    assert len(whole["token_ids"]) == 6
    assert [i for each in chunks for i in each["choices"][0]["token_ids"]] == whole["token_ids"]
    assert gateway.post("/detokenize", {"tokens": whole["token_ids"]})[2]["prompt"] == whole["text"]


def test_prompts_may_be_text_ids_or_several_and_are_echoed(client, gateway):
    ids = gateway.post("/tokenize", {"prompt": "Once upon"})[2]["tokens"]
    asked = {"model": "tiny", "max_tokens": 4, "echo": True}

    by_text = client.completions.create(**asked, prompt="Once upon")
    by_ids = client.completions.create(**asked, prompt=ids)
    several = client.completions.create(**asked, prompt=["Once upon", "Two"])
    lists = client.completions.create(**asked, prompt=[ids, ids])

    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.choices[0].text.startswith("Once upon")
    assert [choice.text.split()[0] for choice in several.choices] == ["Once", "Two"]
    assert lists.choices[1].text == by_ids.choices[0].text


def test_a_conversation_that_goes_on_reuses_what_peers_have_of_it(gateway):
    said = "Tell me a long story about a girl named Zoe and her dog who went to the sea. " * 3
    turns = [{"role": "user", "content": said}]
    first = gateway.post("/v1/chat/completions", {**ASKED, "messages": turns})[2]
    turns += [first["choices"][0]["message"], {"role": "user", "content": "And then?"}]

    second = gateway.post("/v1/chat/completions", {**ASKED, "messages": turns})[2]
    salted = gateway.post(
        "/v1/chat/completions", {**ASKED, "messages": turns, "cache_salt": "mine alone"}
    )[2]

    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["prompt_tokens"] - 1 <= cached < second["usage"]["prompt_tokens"]
    assert salted["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert salted["choices"][0]["message"] == second["choices"][0]["message"]


def test_the_answer_tells_who_made_it(gateway):
    ours = gateway.post("/v1/chat/completions", ASKED)[2]["manyhands"]

    assert [hop["span"] for hop in ours["choices"][0]["route"]] == [[0, 4], [4, 8]]
    assert len(ours["receipts"]) == 2
    assert ours["choices"][0]["seed"] == 3
