"""`Client` and `AsyncClient` on a real swarm of two nodes, and on a gateway in front of it."""

import asyncio
import subprocess
import sys

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from ledger.verify import verify_ledger
from manyhands import AsyncClient, Client, errors
from protocol.errors import ManyhandsError, UsageError
from tests.client import typed_program
from tests.gateway.live import Live, until

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"in": {"type": "string"}}},
    },
}


def test_a_typed_program_runs_as_it_is_typed(client: Client):
    assert typed_program.ask(client)
    assert typed_program.ask_for_too_much(client) == "context_length_exceeded"


async def test_a_typed_program_that_awaits_does_as_well(gateway: Live, tmp_path):
    async with AsyncClient(join=[str(gateway.swarm.nodes[0].address)], home=tmp_path) as client:
        here = await typed_program.ask_later(client)
    async with AsyncClient(base_url=f"{gateway.url}/v1/", model="tiny") as client:
        there = await typed_program.ask_later(client)

    assert here
    assert here == there
    assert verify_ledger(tmp_path / "client").holds


def test_an_answer_is_the_same_whole_streamed_and_by_either_way(clients: dict[str, Client]):
    asked = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5, "logprobs": True}

    wholes = [each.generate("Once upon", **asked) for each in clients.values()]
    streams = [each.stream("Once upon", **asked) for each in clients.values()]
    told = [list(stream) for stream in streams]
    answers = [*wholes, *(stream.result() for stream in streams)]

    assert len({(a.text, a.tokens, a.finish_reason, a.logprobs, a.seed) for a in answers}) == 1
    for tokens in told:
        assert tuple(token.token_id for token in tokens) == answers[0].tokens
        assert tuple(token.logprob for token in tokens) == answers[0].logprobs
        assert "".join(map(str, tokens)) == answers[0].text
        assert [token.index for token in tokens] == list(range(len(tokens)))
    for answer in answers:
        assert (answer.usage.completion_tokens, len(answer.route)) == (12, 2)
        assert [(hop.start, hop.stop) for hop in answer.route] == [(0, 4), (4, 8)]
        assert answer.receipts
        assert answer.timings.total_ms >= answer.timings.ttft_ms > 0
        assert answer.model.startswith("tiny@")


@pytest.mark.slow
def test_what_is_asked_of_a_draw_is_kept(client: Client):
    free = client.generate("Once upon a time", max_new_tokens=16, do_sample=False)
    ids = client.generate(list(free.tokens[:4]), max_new_tokens=2)
    middle = free.text[len(free.text) // 2 :][:3]
    stopped = client.generate(
        "Once upon a time", max_new_tokens=16, do_sample=False, stop_strings=middle
    )
    ended = client.generate(
        "Once upon a time", max_new_tokens=16, do_sample=False, eos_token_id=free.tokens[2]
    )
    number = client.generate("Say a number: ", regex="[0-9]{3}", temperature=1.0)
    thing = client.generate("A thing: ", json_schema={"type": "object", "maxProperties": 0})

    assert (ids.usage.prompt_tokens, len(ids.tokens)) == (4, 2)
    assert stopped.text == free.text[: free.text.index(middle)]
    assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[2]) + 1]
    assert number.text.isdigit()
    assert thing.text.replace(" ", "") == "{}"
    with pytest.raises(TypeError, match="temperatur"):
        client.generate("Once", temperatur=1)  # type: ignore[call-arg]


def test_a_chat_has_the_shape_that_openai_s_client_gives(client: Client):
    asked = {"messages": HELLO, "temperature": 0, "max_tokens": 12}

    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, n=2)
    usage = {"include_usage": True}
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options=usage)

    TypeAdapter(ChatCompletion).validate_python(whole.model_dump())
    for chunk in chunks:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk.model_dump())
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [choice.message.content for choice in whole.choices] == [text, text]
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
    assert (last.choices, last.usage.completion_tokens) == ([], whole.usage.completion_tokens // 2)
    assert whole.manyhands["choices"][0]["route"]


@pytest.mark.slow
def test_a_conversation_goes_on_with_the_message_that_came(client: Client):
    begun = [{"role": "user", "content": "Tell me a long story of many hands. " * 8}]
    first = client.chat.completions.create(messages=begun, max_tokens=8)
    reply = first.choices[0].message

    second = client.chat.completions.create(
        messages=(*begun, reply, {"role": "user", "content": "And then?"}), max_tokens=8
    )

    assert second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens > 0


REFUSED = {
    "a model that nobody serves": (
        {"model": "nobody/such"}, errors.ModelNotFound, "model_not_found"),
    "more than the context": (
        {"max_new_tokens": 5000}, errors.ContextLengthExceeded, "context_length_exceeded"),
    "a temperature of 3": ({"temperature": 3.0}, errors.InvalidRequest, "invalid_value"),
    "a pattern that is none": ({"regex": "("}, errors.InvalidRequest, "invalid_grammar"),
    "a region without peers": (
        {"manyhands": {"regions": ["nowhere"], "wait_s": 0}},
        errors.SwarmIncomplete, "swarm_incomplete"),
    "an unknown field of ours": (
        {"manyhands": {"colour": "red"}}, errors.InvalidRequest, "unsupported_parameter"),
    "no time": ({"manyhands": {"timeout_s": 0.001}}, errors.DeadlineExceeded, "timeout"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_is_the_same_error_by_either_way(clients: dict[str, Client], what: str):
    asked, kind, code = REFUSED[what]

    for client in clients.values():
        for ask in (client.generate, lambda *a, c=client, **k: c.stream(*a, **k).result()):
            with pytest.raises(kind) as refused:
                ask("Once upon a time", **asked)
            assert type(refused.value) is kind
            assert (refused.value.code, refused.value.status) == (code, refused.value.status)
            assert errors.FAULTS[code].status == refused.value.status
            assert isinstance(refused.value, ManyhandsError)


def test_a_refusal_names_the_blocks_and_what_mends_it_by_either_way(clients):
    nowhere = {"regions": ["nowhere"], "wait_s": 0}

    with pytest.raises(errors.SwarmIncomplete) as here:
        clients["swarm"].generate("Once", manyhands=nowhere)
    with pytest.raises(errors.SwarmIncomplete) as there:
        clients["gateway"].generate("Once", manyhands=nowhere)

    assert here.value.missing == there.value.missing == ((0, 8),)
    assert (str(here.value), here.value.hint) == (str(there.value), there.value.hint)
    assert here.value.hint
    backend = clients["swarm"]._client._backend
    assert "tiny" not in backend._served  # looked up again: it may be another by then
    assert there.value.request_id.startswith("req_")
    assert there.value.retry_after_s == here.value.retry_after_s == 5


def test_models_are_told_and_a_route_is_explained(clients: dict[str, Client]):
    for client in clients.values():
        assert "tiny" in [model.id for model in client.models()] or client is clients["swarm"]
        route = client.explain_route("tiny", tokens=100)
        assert route["schema"] == "manyhands/route-explain/v1"
        assert [hop["span"] for hop in route["routes"][0]["hops"]] == [[0, 4], [4, 8]]
        assert client.explain_route("tiny", manyhands={"regions": ["nowhere"]})["routes"] == []


def test_who_serves_is_the_same_by_either_way(clients: dict[str, Client]):
    here, there = (clients[way].swarm.coverage("tiny") for way in ("swarm", "gateway"))

    assert here == there
    assert (here.hosts, here.missing, here.least) == ((1,) * 8, (), 1)
    assert here.is_complete
    with pytest.raises(errors.ModelNotFound):
        clients["gateway"].swarm.coverage("nothing")


def test_vectors_are_those_of_a_gateway_one_for_each_text(clients: dict[str, Client]):
    texts = ["a hand", "many hands make light work", "a hand"]

    here, there = (client.embed(texts) for client in clients.values())
    last = clients["swarm"].embed("a hand", pooling="last")

    assert (len(here.vectors), len(here.receipts)) == (3, 6)
    for ours, theirs in zip(here.vectors, there.vectors, strict=True):
        assert sum(x * x for x in ours) == pytest.approx(1, abs=1e-5)
        assert sum(x * y for x, y in zip(ours, theirs, strict=True)) == pytest.approx(1, abs=1e-5)
    assert (here.prompt_tokens, here.pooling) == (there.prompt_tokens, there.pooling)
    assert (last.pooling, len(last.vectors)) == ("last", 1)
    assert last.vectors[0] != here.vectors[0]
    for client in clients.values():
        with pytest.raises(errors.InvalidRequest) as nothing:
            client.embed([])
        assert nothing.value.param == "input"


def test_a_stream_that_is_left_frees_its_room_everywhere(gateway: Live, client: Client):
    with client.stream("Once upon a time", max_new_tokens=1000, temperature=1.0) as stream:
        next(stream)
        assert gateway.open_sessions() > 0

    with pytest.raises(UsageError, match="cancelled"):
        stream.result()
    until(lambda: gateway.open_sessions() == 0, timeout_s=5)


def test_closing_ends_what_runs_and_a_forgotten_client_closes_itself(gateway: Live, tmp_path):
    client = Client(join=[str(gateway.swarm.nodes[0].address)], home=tmp_path)
    stream = client.stream("Once upon a time", max_new_tokens=1000, temperature=1.0)
    next(stream)
    thread = client._portal._thread

    client.close()
    client.close()

    assert not thread.is_alive()
    with pytest.raises(UsageError, match="closed"):
        client.generate("Once")
    forgotten = Client(base_url=gateway.url)
    assert forgotten.models()
    thread = forgotten._portal._thread
    del forgotten
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert verify_ledger(tmp_path / "client").holds


@pytest.mark.slow
def test_a_program_that_closes_nothing_ends_quietly_and_its_books_hold(gateway: Live, tmp_path):
    program = (
        "from manyhands import Client\n"
        f"client = Client(join=['{gateway.swarm.nodes[0].address}'], home='{tmp_path}')\n"
        "stream = client.stream('Once', max_new_tokens=500, temperature=1.0)\n"
        "print(next(stream).token_id)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip().isdigit()
    assert verify_ledger(tmp_path / "client").holds
    assert gateway.open_sessions() == 0


def test_where_nobody_is_the_error_says_so(tmp_path):
    with pytest.raises(ManyhandsError) as nobody, Client(home=tmp_path) as client:
        client.models()
    with (
        pytest.raises(errors.SwarmUnreachable) as silent,
        Client(base_url="http://127.0.0.1:9", max_retries=0) as client,
    ):
        client.generate("Once")

    assert (nobody.value.code, silent.value.code) == ("swarm_unreachable", "swarm_unreachable")
    assert "--join" in nobody.value.hint


@pytest.mark.slow
def test_a_call_that_must_come_is_read_as_over_http(client: Client):
    asked = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 200}

    choice = client.chat.completions.create(**asked, seed=1).choices[0]
    chunks = list(client.chat.completions.create(**asked, seed=1, stream=True))

    assert choice.message.tool_calls[0].function.name == "weather"
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    told = "".join(call.function.arguments or "" for call in calls)
    assert told == choice.message.tool_calls[0].function.arguments


@pytest.mark.slow
async def test_answers_side_by_side_share_one_client(gateway: Live, tmp_path):
    async with AsyncClient(
        join=[str(gateway.swarm.nodes[0].address)], home=tmp_path, model="tiny"
    ) as client:
        answers = await asyncio.gather(
            *(client.generate(f"Number {n}", max_new_tokens=4, do_sample=False) for n in range(6))
        )
        again = await client.generate("Number 3", max_new_tokens=4, do_sample=False)

    assert again.tokens == answers[3].tokens
    assert len({answer.receipts for answer in answers}) == 6
