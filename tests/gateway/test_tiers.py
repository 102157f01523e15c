"""Who answers `manyhands/auto`: a real swarm, or somebody else, in good days and bad ones."""

import asyncio
import hashlib
import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response
from pydantic import TypeAdapter

from manyhands.gateway.grants import Grant
from manyhands.gateway.policy import AUTO, SWARM
from manyhands.gateway.relayed import Guarded
from manyhands.gateway.stream import joined
from manyhands.gateway.upstream import limited
from manyhands.gateway.upstream_vectors import vectors_of
from tests.gateway.live import HOST, Live, events, until
from tests.gateway.test_access import key
from tests.gateway.upstream_server import WORDS, Elsewhere, ruled

CHAT = "/v1/chat/completions"
HARD = {"name": "proofs", "keywords": ["prove"], "then": "upstream"}
MATHS = [{"role": "user", "content": "Prove it, xyzzy."}]
HELLO = [{"role": "user", "content": "Hello"}]


def policy(*upstreams: str, rules: Any = (HARD,), **auto: Any) -> dict[str, Any]:
    each = {"url": "", "model": "their-model", "key_env": "THEIR_KEY", "first_token_s": 2.0}
    return {
        "upstreams": {name: dict(each) for name in upstreams},
        "auto": {"model": "tiny", "upstreams": list(upstreams), "rules": list(rules), **auto},
    }


def asked(messages: Any = HELLO, **more: Any) -> dict[str, Any]:
    return {"model": AUTO, "messages": messages, "max_tokens": 5, **more}


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


@pytest.fixture
def auto(gateway: Live, elsewhere: Elsewhere) -> Iterator[Live]:
    with ruled(gateway, policy("big"), elsewhere):
        yield gateway


def test_routine_stays_on_the_swarm_and_hard_goes_where_the_rule_says(auto, elsewhere):
    routine = auto.post(CHAT, asked())
    hard = auto.post(CHAT, asked(MATHS, manyhands={"timeout_s": 60}))

    assert (routine[0], hard[0]) == (200, 200)
    assert routine[1]["x-manyhands-decision"] == "swarm; rule default: no rule held"
    assert routine[1]["x-manyhands-route"].endswith(" 4:8")
    assert routine[1]["x-manyhands-model"].startswith("tiny@")
    assert routine[1]["x-manyhands-cost"].endswith(" ncr")
    assert len(routine[2]["manyhands"]["receipts"]) == 2
    assert routine[2]["manyhands"]["decision"]["tier"] == "swarm"
    assert hard[1]["x-manyhands-decision"] == "big; rule proofs: keyword 1 of its list"
    assert "x-manyhands-route" not in hard[1]
    assert hard[2]["manyhands"]["decision"]["target"] == "big"
    assert "xyzzy" not in json.dumps([hard[1], hard[2]])
    TypeAdapter(ChatCompletion).validate_python(hard[2])
    (body,) = elsewhere.asked
    assert body == {"model": "their-model", "messages": MATHS, "max_tokens": 5}
    assert elsewhere.keys == ["Bearer sk-theirs"]


def test_an_upstreams_stream_passes_as_it_comes_for_the_official_client(auto, elsewhere):
    with OpenAI(base_url=f"{auto.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(**asked(MATHS), stream=True)
        said = [chunk.choices[0].delta.content or "" for chunk in stream]
        options = {"include_usage": True}
        counted = list(
            client.chat.completions.create(**asked(MATHS), stream=True, stream_options=options)
        )
    *chunks, done = events(auto.post(CHAT, asked(MATHS, stream=True))[2])

    assert "".join(said) == "".join(WORDS)
    assert counted[-1].usage.total_tokens == 11
    assert done == "[DONE]"
    for chunk in chunks:
        TypeAdapter(ChatCompletionChunk).validate_python(chunk)
        assert "usage" not in chunk
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["manyhands"]["decision"]["rule"] == "proofs"
    assert [chunk for chunk in chunks if "manyhands" in chunk] == [chunks[-1]]


@pytest.mark.parametrize("how", ["cut", "breaks"])
def test_what_breaks_in_the_middle_ends_in_an_error_frame_and_no_done(auto, elsewhere, how):
    elsewhere.how = how

    told = events(auto.post(CHAT, asked(MATHS, stream=True))[2])

    assert told[-1]["error"]["code"] == "upstream_failed"
    assert told[-1]["error"]["id"]
    assert "[DONE]" not in told
    client = OpenAI(base_url=f"{auto.url}/v1", api_key="none", max_retries=0)
    with client, pytest.raises(openai.APIError) as broken:
        list(client.chat.completions.create(**asked(MATHS), stream=True))
    assert broken.value.code == "upstream_failed"


def test_a_stream_without_done_that_is_complete_is_complete(auto, elsewhere):
    elsewhere.how = "forgets done"

    assert events(auto.post(CHAT, asked(MATHS, stream=True))[2])[-1] == "[DONE]"


SLOW = [
    pytest.param(how, stream, marks=pytest.mark.slow)
    for how in ("500", "429", "401", "404", "nonsense")
    for stream in (False, True)
]


@pytest.mark.parametrize(
    ("how", "stream"), [*SLOW, ("404", False), ("nonsense", True), ("says nothing", True)]
)
def test_an_upstream_that_fails_at_once_is_followed_by_the_next_and_then_the_swarm(
    gateway, how, stream
):
    first, second = Elsewhere(how), Elsewhere()
    with ruled(gateway, policy("one", "two"), first, second):
        status, headers, _ = gateway.post(CHAT, asked(MATHS, stream=stream))
        second.how = how
        last = gateway.post(CHAT, asked(MATHS, stream=stream))

    after = "after one: upstream_failed"
    assert status == last[0] == 200
    assert headers["x-manyhands-decision"].endswith(after)
    assert headers["x-manyhands-decision"].startswith("two; ")
    assert last[1]["x-manyhands-decision"].startswith("swarm; ")
    assert len(first.asked) == 2


def test_without_falling_back_its_failure_is_the_callers_to_see(gateway):
    broken = Elsewhere("500")
    with ruled(gateway, policy("one", fall_back=False), broken):
        status, headers, told = gateway.post(CHAT, asked(MATHS))

    assert (status, told["error"]["code"]) == (502, "upstream_failed")
    assert "one" in told["error"]["message"]
    assert headers["retry-after"] == "1"


def test_what_the_caller_did_wrong_is_said_by_the_upstream_and_asked_of_nobody_else(gateway):
    strict, other = Elsewhere("400"), Elsewhere()
    with ruled(gateway, policy("one", "two"), strict, other):
        status, _, told = gateway.post(CHAT, asked(MATHS))

    assert (status, told["error"]["code"]) == (400, "unsupported_value")
    assert "it says no" in told["error"]["message"]
    assert other.asked == []


def test_one_that_hangs_is_given_up_in_time(gateway):
    hanging = Elsewhere("hangs")
    ruling = policy("one", fall_back=False)
    ruling["upstreams"]["one"]["first_token_s"] = 0.2
    with ruled(gateway, ruling, hanging):
        status, _, told = gateway.post(CHAT, asked(MATHS, stream=True))
        until(lambda: hanging.n_open == 0, timeout_s=3)

    assert (status, told["error"]["code"]) == (502, "upstream_failed")
    assert "in time" in told["error"]["message"]


def test_a_stream_has_the_time_that_policy_and_request_give_it_and_no_more(gateway):
    dripping, ruling = Elsewhere("drips"), policy("one", fall_back=False)
    ruling["upstreams"]["one"]["timeout_s"] = 0.4
    with ruled(gateway, ruling, dripping):
        by_policy = events(gateway.post(CHAT, asked(MATHS, stream=True))[2])
    with ruled(gateway, policy("one", fall_back=False), dripping):
        told = asked(MATHS, stream=True, manyhands={"timeout_s": 0.4})
        by_request = events(gateway.post(CHAT, told)[2])

    for told in (by_policy, by_request):
        assert told[-1]["error"]["code"] == "upstream_failed"
        assert "in time" in told[-1]["error"]["message"]


def test_a_gateway_that_ends_asks_no_upstream(auto, elsewhere):
    auto.gateway.is_ending = True
    try:
        status, _, told = auto.post(CHAT, asked(MATHS))
    finally:
        auto.gateway.is_ending = False

    assert (status, told["error"]["code"]) == (503, "shutting_down")
    assert elsewhere.asked == []


def test_a_caller_who_leaves_ends_the_upstreams_answer_too(gateway):
    stalling = Elsewhere("stalls")
    with ruled(gateway, policy("one"), stalling):
        connection = http.client.HTTPConnection(HOST, gateway.port, timeout=10)
        body = json.dumps(asked(MATHS, stream=True))
        connection.request("POST", CHAT, body, {"content-type": "application/json"})
        connection.getresponse().read(20)
        until(lambda: stalling.n_open == 1, timeout_s=3)
        connection.close()
        until(lambda: stalling.n_open == 0, timeout_s=3)

        assert gateway.look(lambda: sum(gateway.gateway.upstreams._running.values())) == 0


def test_what_the_swarm_cannot_begin_overflows(gateway):
    server = Elsewhere()
    everybody = [local.node.identity.peer_id for local in gateway.swarm.nodes]
    nobody = asked(manyhands={"avoid": everybody})
    with ruled(gateway, policy("big"), server):
        status, headers, told = gateway.post(CHAT, nobody)

    assert status == 200
    assert headers["x-manyhands-decision"].startswith("big; ")
    assert told["manyhands"]["decision"]["failed"] == ["swarm: swarm_incomplete"]


def test_limits_of_key_and_request_bind_upstreams_too(gateway):
    far, near = Elsewhere(), Elsewhere()
    ruling = policy("far", "near")
    ruling["upstreams"]["near"]["region"] = "eu-west"
    with ruled(gateway, ruling, far, near):
        by_rule = gateway.post(CHAT, asked(MATHS, manyhands={"regions": ["eu"]}))
        fallen = gateway.post(CHAT, asked(manyhands={"regions": ["eu"]}))
        with key(gateway, regions=("eu",)) as text:
            by_key = gateway.post(CHAT, asked(MATHS), authorization=f"Bearer {text}")
        nowhere = [
            gateway.post(CHAT, asked(MATHS, manyhands=more))
            for more in ({"groups": ["lab"]}, {"regions": ["us"]}, {"regions": ["eu-north"]})
        ]
        long = [{"role": "user", "content": "prove " * 3000}]
        unable = gateway.post(CHAT, asked(long, manyhands={"regions": ["us"]}))
        insisting = {"regions": ["us"], "tier": "upstream"}
        insisted = gateway.post(CHAT, asked(MATHS, manyhands=insisting))

    assert far.asked == []
    assert len(near.asked) == 3
    for status, headers, _ in (by_rule, fallen, by_key):
        assert (status, headers["x-manyhands-decision"].partition(";")[0]) == (200, "near")
    for status, _, told in nowhere:
        assert (status, told["error"]["code"]) == (503, "swarm_incomplete")
    assert unable[2]["error"]["code"] == "context_length_exceeded"
    assert (insisted[0], insisted[2]["error"]["code"]) == (403, "data_residency_violation")
    assert "data that is bound to regions" in insisted[2]["error"]["message"]


def test_what_the_swarms_model_is_not_able_to_do_may_go_elsewhere(gateway):
    server, long = Elsewhere(), [{"role": "user", "content": "word " * 3000}]
    rule = {"name": "too-long", "unable": True, "then": "upstream"}
    with ruled(gateway, policy("big", rules=[rule]), server):
        answered = gateway.post(CHAT, asked(long))
    with ruled(gateway, policy("big", rules=[]), server):
        refused = gateway.post(CHAT, asked(long))

    assert answered[2]["manyhands"]["decision"]["rule"] == "too-long"
    assert (refused[0], refused[2]["error"]["code"]) == (400, "context_length_exceeded")


def test_restricted_data_goes_to_its_own_group_or_nowhere(gateway):
    server = Elsewhere()
    own = [local.node.identity.peer_id for local in gateway.swarm.nodes]
    foreign = "12D3KooWDHood3YCBb2qWb2nsHy5AptLn9WbQ6kFnyCSZG3i3c49"
    bound = {"manyhands": {"data_class": "restricted", "wait_s": 0}}

    def rows() -> int:
        return gateway.look(lambda: sum(n.node.batcher.load.rows for n in gateway.swarm.nodes))

    def with_group(*members: str) -> dict[str, Any]:
        groups = {"groups": [f"lab={','.join(members)}"]}
        return {**policy("big"), "classes": {"restricted": groups}}

    with ruled(gateway, with_group(foreign), server):
        before = rows()
        alone = gateway.post(CHAT, asked(MATHS, **bound))
        streamed = gateway.post(CHAT, asked(MATHS, stream=True, **bound))
        upstream = {**bound["manyhands"], "tier": "upstream"}
        told_so = gateway.post(CHAT, asked(MATHS, manyhands=upstream))
        by_header = gateway.post(CHAT, asked(MATHS), x_manyhands_data_class="restricted")
        after = rows()
    with ruled(gateway, with_group(*own), server):
        served = gateway.post(CHAT, asked(MATHS, **bound))
        with key(gateway, data_class=Grant.read({"data_class": "restricted"}).data_class) as text:
            lower = {"manyhands": {"data_class": "public"}}
            by_key = gateway.post(CHAT, asked(MATHS, **lower), authorization=f"Bearer {text}")
        other = {"manyhands": {"data_class": "restricted", "groups": ["friends"]}}
        elsewhere = gateway.post(CHAT, {**asked(HELLO, **other), "model": "tiny"})
    with ruled(gateway, policy("big"), server):
        unruled = gateway.post(CHAT, asked(HELLO, **bound))

    for refused in (alone, streamed, told_so, by_header, elsewhere, unruled):
        assert (refused[0], refused[2]["error"]["code"]) == (403, "data_residency_violation")
        assert "rule " in refused[2]["error"]["message"]
    assert "group lab" in alone[2]["error"]["message"]
    assert after == before  # not a row reached the nodes
    assert server.asked == []
    for answered in (served, by_key):
        assert answered[0] == 200
        assert answered[1]["x-manyhands-decision"].startswith("swarm; ")


def test_a_key_for_one_model_does_not_reach_upstreams_by_the_back_door(auto, elsewhere):
    with key(auto, models=("tiny",)) as text:
        bearer = {"authorization": f"Bearer {text}"}
        refused = auto.post(CHAT, asked(MATHS), **bearer)
        listed = auto.ask("GET", "/v1/models", **bearer)[2]["data"]
    with key(auto, models=(AUTO,), budget_ncr=1000) as text:
        answered = auto.post(CHAT, asked(MATHS), authorization=f"Bearer {text}")
        one = auto.ask("GET", f"/v1/models/{AUTO}", authorization=f"Bearer {text}")

    assert (one[0], one[2]["id"]) == (200, AUTO)
    assert (refused[0], refused[2]["error"]["code"]) == (403, "insufficient_permissions")
    assert AUTO not in [each["id"] for each in listed]
    assert answered[0] == 200
    assert len(elsewhere.asked) == 1


def test_what_an_upstream_cost_counts_for_the_keys_budget(gateway):
    ruling = policy("big")
    ruling["upstreams"]["big"] |= {"answer_price": 2_000_000}
    with ruled(gateway, ruling, Elsewhere()), key(gateway, budget_ncr=15) as text:
        bearer = {"authorization": f"Bearer {text}"}
        first = gateway.post(CHAT, asked(MATHS), **bearer)
        second = gateway.post(CHAT, asked(MATHS, stream=True), **bearer)

    assert first[2]["manyhands"]["cost"] == {"amount": 8, "currency": "ncr"}
    assert first[1]["x-manyhands-cost"] == "8 ncr"
    assert (second[0], second[2]["error"]["code"]) == (429, "insufficient_quota")


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_before_the_upstream_said_a_word_pays_what_it_was_sent(gateway, stream):
    ruling = policy("big", fall_back=False)
    ruling["upstreams"]["big"] |= {"prompt_price": 1_000_000, "answer_price": 2_000_000}
    hanging, spending = Elsewhere("hangs"), gateway.gateway.allowances.spending
    with ruled(gateway, ruling, hanging), key(gateway, budget_ncr=1000) as text:
        id = hashlib.sha256(text.encode()).hexdigest()
        with http_client(gateway) as connection:
            body = json.dumps(asked(MATHS, stream=stream))
            headers = {"content-type": "application/json", "authorization": f"Bearer {text}"}
            connection.request("POST", CHAT, body, headers)
            until(lambda: hanging.n_open == 1, timeout_s=3)
        until(lambda: hanging.n_open == 0, timeout_s=3)
        hanging.how = "500"
        gateway.post(CHAT, asked(MATHS, stream=stream), authorization=f"Bearer {text}")

        until(lambda: gateway.look(lambda: spending.in_all(id)).answers == 1, timeout_s=3)
        spent = gateway.look(lambda: spending.in_all(id))

    assert spent.tokens > 5
    assert spent.ncr == spent.tokens + (0 if stream else 5)  # its 5 tokens cost twice as much


def test_answers_of_an_upstream_side_by_side_do_not_pass_a_budget_together(gateway):
    ruling = policy("big", fall_back=False)
    ruling["upstreams"]["big"] |= {"answer_price": 10_000_000}
    stalling = Elsewhere("stalls")
    with ruled(gateway, ruling, stalling), key(gateway, budget_ncr=80) as text:
        bearer = {"content-type": "application/json", "authorization": f"Bearer {text}"}
        with http_client(gateway) as connection:
            connection.request("POST", CHAT, json.dumps(asked(MATHS, stream=True)), bearer)
            until(lambda: stalling.n_open == 1, timeout_s=3)
            status, headers, told = gateway.post(CHAT, asked(MATHS), **bearer)

    assert (status, told["error"]["code"]) == (429, "rate_limit_exceeded")
    assert headers["retry-after"] == "1"  # the one that runs may cost less than it holds
    assert "could cost 50 more" in told["error"]["message"]


def test_an_upstream_is_told_the_limit_that_is_held(auto, elsewhere):
    most = auto.bounds.max_tokens
    auto.post(CHAT, {"model": AUTO, "messages": MATHS})
    auto.post("/v1/completions", {"model": AUTO, "prompt": "Prove it"})
    old = auto.gateway.bounds.policy.upstreams["big"].model_copy(update={"drop": [NEWER]})

    assert elsewhere.asked[0][NEWER] == elsewhere.asked[1]["max_tokens"] == most
    assert limited(old, {}, "chat/completions", 7) == {"max_tokens": 7}


NEWER = "max_completion_tokens"


@contextmanager
def http_client(gateway: Live) -> Iterator[http.client.HTTPConnection]:
    """One that leaves without a word."""
    connection = http.client.HTTPConnection(HOST, gateway.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def test_decisions_are_counted_and_explained_without_asking_anybody(auto, elsewhere):
    auto.post(CHAT, asked(MATHS))
    n_asked = len(elsewhere.asked)
    hard = auto.post("/api/v1/explain", asked(MATHS))[2]
    routine = auto.post("/api/v1/explain", asked(), x_manyhands_region="eu")[2]
    plain = auto.post("/api/v1/explain", {"model": "tiny", "prompt": "a"})[2]
    metrics = auto.ask("GET", "/metrics")[2]

    assert len(elsewhere.asked) == n_asked
    assert hard["decision"]["target"] == "big"
    assert hard["decision"]["then"] == ["swarm"]
    assert hard["decision"]["rules"] == [
        {"rule": "proofs", "holds": True, "why": "keyword 1 of its list"}
    ]
    assert routine["decision"]["target"] == "swarm"
    assert routine["limits"] == {"regions": ["eu"]}
    assert routine["route"]["constraint"] == "region"
    assert plain["decision"]["rule"] == "model"
    assert [hop["span"] for hop in plain["route"]["routes"][0]["hops"]] == [[0, 4], [4, 8]]
    assert 'manyhands_route_decisions_total{reason="proofs",tier="upstream"}' in metrics
    assert 'manyhands_requests_total{code="",finish_reason="stop",model="upstream:big"}' in metrics


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"x_manyhands_region": "us"}, {"regions": ["eu"]}, "invalid_value"),
        ({"x_manyhands_data_class": "secret"}, {}, "unsupported_value"),
        ({"x_manyhands_max_price": "cheap"}, {}, "invalid_value"),
        ({"x_manyhands_max_prepaid": "-1"}, {}, "invalid_value"),
        ({"x_manyhands_verify": "dual"}, {}, "unsupported_value"),
        ({}, {"verify": "dual"}, "unsupported_value"),
        ({"x_manyhands_group": "a,"}, {}, "invalid_value"),
    ],
)
def test_headers_that_make_no_sense_or_contradict_the_body_are_refused(
    gateway, headers, body, code
):
    more = {"manyhands": body} if body else {}
    status, _, told = gateway.post(CHAT, {**asked(), "model": "tiny", **more}, **headers)

    assert (status, told["error"]["code"]) == (400, code)
    assert told["error"]["param"].startswith("manyhands")


def test_an_alias_leads_elsewhere_while_answers_run_and_none_fails(gateway):
    from manyhands.gateway import aliases

    inner = gateway.gateway.catalogue
    path = gateway.directory / "aliases.json"
    inner._file = aliases.AliasFile(path)
    models, failed = [], []

    async def load() -> None:
        def ask(n: int) -> None:
            body = {**asked(), "model": "default", "stream": bool(n % 2), "max_tokens": 8}
            status, headers, told = gateway.post(CHAT, body)
            if status != 200 or (n % 2 and events(told)[-1] != "[DONE]"):
                failed.append(told)
            models.append(headers.get("x-manyhands-model", "").partition("@")[0])

        asking = [asyncio.create_task(asyncio.to_thread(ask, n)) for n in range(8)]
        await asyncio.sleep(0.2)
        aliases.write(path, {"default": "org/other", "lost": "nowhere"})
        await asyncio.gather(*asking)
        await asyncio.to_thread(ask, 0)

    try:
        asyncio.run(load())
        lost = gateway.post(CHAT, {**asked(), "model": "lost"})
    finally:
        path.unlink()
        back = gateway.post(CHAT, {**asked(), "model": "default"})
        inner._file = None

    assert failed == []
    assert models[-1] == "org/other"
    assert (lost[0], back[1]["x-manyhands-model"].partition("@")[0]) == (404, "tiny")


def test_without_the_name_that_auto_means_the_other_models_are_listed_still(gateway):
    ruling = policy("big")
    ruling["auto"]["model"] = "was-an-alias"
    with ruled(gateway, ruling, Elsewhere()):
        status, _, told = gateway.ask("GET", "/v1/models")
        one = gateway.ask("GET", f"/v1/models/{AUTO}")
        asks = gateway.post(CHAT, asked(MATHS))

    names = [each["id"] for each in told["data"]]
    assert status == 200
    assert "tiny" in names
    assert AUTO not in names
    assert one[0] == asks[0] == 404


@pytest.mark.parametrize("how", ["well", "500", "breaks"])
def test_neither_a_prompt_nor_an_upstreams_key_is_logged(gateway, caplog, how):
    with caplog.at_level("DEBUG"), ruled(gateway, policy("one"), Elsewhere(how)):
        gateway.post(CHAT, asked(MATHS))
        gateway.post(CHAT, asked(MATHS, stream=True))

    assert caplog.records
    for record in caplog.records:
        logged = record.getMessage() + repr(vars(record))
        assert "xyzzy" not in logged
        assert "sk-theirs" not in logged


RESPONSES, VECTORS = "/v1/responses", "/v1/embeddings"


def test_a_response_goes_where_the_rule_says_and_is_a_response_wherever_it_was_made(
    auto, elsewhere
):
    routine = auto.post(RESPONSES, {"model": AUTO, "input": "Hello", "max_output_tokens": 5})
    hard = auto.post(RESPONSES, {"model": AUTO, "input": MATHS, "instructions": "Be brief."})

    assert routine[1]["x-manyhands-decision"] == "swarm; rule default: no rule held"
    assert routine[2]["manyhands"]["decision"]["tier"] == "swarm"
    assert hard[1]["x-manyhands-decision"] == "big; rule proofs: keyword 1 of its list"
    assert hard[2]["manyhands"]["decision"]["target"] == "big"
    assert hard[2]["output"][0]["content"][0]["text"] == "".join(WORDS)
    assert hard[2]["usage"]["total_tokens"] == 11
    for _, _, told in (routine, hard):
        TypeAdapter(Response).validate_python(told)
        assert told["status"] in ("completed", "incomplete")
    (body,) = elsewhere.asked
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, *MATHS]
    assert body.keys() == {"model", "messages", "max_completion_tokens"}


def test_an_upstreams_chat_is_streamed_as_a_responses_events(auto, elsewhere):
    with OpenAI(base_url=f"{auto.url}/v1", api_key="none", max_retries=0) as client:
        with client.responses.stream(model=AUTO, input=MATHS) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        elsewhere.how = "cut"
        with pytest.raises(openai.APIError) as broken:
            list(client.responses.create(model=AUTO, input=MATHS, stream=True))

    assert final.output_text == "".join(WORDS)
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds.count("response.output_text.delta") == len(WORDS)
    assert kinds[-1] == "response.completed"
    assert broken.value.code == "upstream_failed"


def test_texts_leave_for_vectors_only_where_an_upstream_is_said_to_have_the_same_model(gateway):
    able, unable = Elsewhere(), Elsewhere()
    ruling = policy("without", "with")
    ruling["upstreams"]["with"]["embeddings"] = "their-vectors"
    asked = {"model": AUTO, "input": "Prove it."}
    with ruled(gateway, ruling, unable, able):
        hard = gateway.post(VECTORS, {**asked, "encoding_format": "float"})
        routine = gateway.post(VECTORS, {**asked, "input": "Hello"})
        explained = gateway.post("/api/v1/explain?endpoint=embeddings", asked)
        of_response = gateway.post("/api/v1/explain", asked)
    with ruled(gateway, policy("without"), unable):
        nowhere = gateway.post(VECTORS, asked)

    assert (hard[0], routine[0], nowhere[0]) == (200, 200, 200)
    assert hard[1]["x-manyhands-decision"] == "with; rule proofs: keyword 1 of its list"
    assert hard[2]["data"][0]["embedding"] == [0.6, 0.8]
    assert hard[2]["manyhands"]["decision"]["target"] == "with"
    assert able.asked == [
        {"model": "their-vectors", "input": "Prove it.", "encoding_format": "float"}
    ]
    assert unable.asked == []
    assert len(routine[2]["data"][0]["embedding"]) > 2
    assert routine[1]["x-manyhands-decision"] == "swarm; rule default: no rule held"
    assert nowhere[2]["manyhands"]["decision"]["rules"][0]["why"] == "upstream takes no embeddings"
    assert explained[2]["decision"]["target"] == "with"
    assert of_response[2]["decision"]["target"] == "without"


def test_decisions_about_responses_and_vectors_count_as_others_do(auto):
    def so_far() -> float:
        text = auto.ask("GET", "/metrics")[2]
        line = f'manyhands_route_decisions_total{{reason="default",tier="{SWARM}"}} '
        found = [row for row in text.splitlines() if row.startswith(line)]
        return float(found[0].rsplit(" ", 1)[1]) if found else 0.0

    before = so_far()
    auto.post(RESPONSES, {"model": AUTO, "input": "Hello", "max_output_tokens": 2})
    auto.post(VECTORS, {"model": AUTO, "input": "Hello"})

    assert so_far() == before + 2


BAD_CALL = {"tool_calls": ["none"]}
BAD_ANSWERS = [
    {"error": {"message": "overloaded"}},
    {"error": None, "choices": [1, 2]},
    {"choices": [{"index": 0, "message": BAD_CALL, "finish_reason": "tool_calls"}]},
]


@pytest.mark.parametrize("told", BAD_ANSWERS)
def test_an_answer_with_200_that_is_none_is_followed_by_the_swarm(auto, elsewhere, told):
    elsewhere.told = told

    status, headers, _ = auto.post(RESPONSES, {"model": AUTO, "input": MATHS})

    assert status == 200
    assert headers["x-manyhands-decision"].endswith("after big: upstream_failed")


def test_an_error_with_200_is_the_upstreams_where_nobody_else_is_asked(gateway):
    broken = Elsewhere()
    broken.told = {"error": {"message": "overloaded"}}
    with ruled(gateway, policy("one", fall_back=False), broken):
        status, _, told = gateway.post(CHAT, asked(MATHS))

    assert (status, told["error"]["code"]) == (502, "upstream_failed")


def test_a_response_whose_first_frames_cannot_be_told_on_is_streamed_by_the_swarm(auto, elsewhere):
    elsewhere.told = [
        {"choices": [{"index": 0, "delta": BAD_CALL}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
    ]

    status, headers, told = auto.post(RESPONSES, {"model": AUTO, "input": MATHS, "stream": True})

    assert status == 200
    assert headers["x-manyhands-decision"].startswith("swarm; ")
    assert told.count("event: response.created\n") == 1
    assert "event: response.completed\n" in told or "event: response.incomplete\n" in told


def test_whatever_a_telling_raises_is_the_upstreams_failure_and_ends_the_stream_as_one():
    class Broken:
        def frames(self, told: Any) -> Iterator[bytes]:
            yield b"begun"
            raise KeyError(told)

        hear = whole = end = failed = frames

    telling = Guarded(Broken(), "one")  # type: ignore[arg-type]
    begun, failure = joined(telling.frames([{}]))

    assert begun == b"begun"
    assert failure is not None
    assert failure.code == "upstream_failed"
    ours = joined(Broken().frames([{}]))[1]
    assert ours is not None
    assert ours.code == "internal_error"  # of what the swarm told


def vector(at: Any, *values: Any) -> dict[str, Any]:
    return {"object": "embedding", "index": at, "embedding": list(values)}


BAD_VECTORS = [
    [vector(0, 1.0)],
    [vector(0, 1.0), vector(0, 2.0)],
    [vector(0, 1.0), vector(-5, 2.0)],
    [vector(0, 1.0), vector(1.0, 2.0)],
    [vector(0, 1.0), vector(1, None)],
    [vector(0, 1.0), vector(1, "1")],
    [vector(0, 1.0), vector(1, float("nan"))],
    [vector(0, 1.0), vector(1, 10**400)],
    [vector(0, 1.0), vector(1, 1.0, 2.0)],
    [vector(0), vector(1)],
    [vector(0, 1.0), {"index": 1, "embedding": "AACAPw=="}],
    [vector(0, 1.0), None],
    {},
]


@pytest.mark.parametrize("entries", BAD_VECTORS)
def test_anything_but_one_finite_vector_for_each_text_is_none(entries):
    assert vectors_of(json.dumps({"data": entries}).encode(), 2, is_base64=False) is None


@pytest.mark.parametrize("coded", ["!!", "AACAPw", "AACAfw==", "", "AAAA"])
def test_base64_that_is_no_finite_vector_is_none(coded):
    body = {"data": [{"index": 0, "embedding": coded}]}
    assert vectors_of(json.dumps(body).encode(), 1, is_base64=True) is None


def test_vectors_come_in_the_order_of_their_texts():
    body = {"data": [vector(1, 2), vector(0, 1.0)], "usage": {}}
    told = vectors_of(json.dumps(body).encode(), 2, is_base64=True)
    one = {"data": [{"index": 0, "embedding": "AACAPw=="}]}

    assert told == {"data": [vector(0, 1.0), vector(1, 2)], "usage": {}}
    assert vectors_of(json.dumps(one).encode(), 1, is_base64=True) == one


def test_vectors_that_are_not_those_of_the_texts_are_made_by_the_swarm(gateway):
    wrong, ruling = Elsewhere(), policy("one")
    ruling["upstreams"]["one"]["embeddings"] = "their-vectors"
    wrong.told = {"data": [vector(0, 1.0)]}
    with ruled(gateway, ruling, wrong):
        texts = {"model": AUTO, "input": ["Prove it.", "b", "c"]}
        status, headers, told = gateway.post(VECTORS, texts)

    assert (status, len(told["data"])) == (200, 3)
    assert headers["x-manyhands-decision"].endswith("after one: upstream_failed")


def test_token_ids_do_not_slip_past_rules_about_text(gateway):
    server, answerable = Elsewhere(), {"prompt_tokens": 0, "then": "upstream"}
    secret = {"name": "secret", "keywords": ["prove"], "then": "swarm"}
    ids = gateway.post("/tokenize", {"prompt": "Prove it."})[2]["tokens"]
    ruling = policy("big", rules=(secret, {"name": "rest", **answerable}))
    with ruled(gateway, ruling, server):
        kept = gateway.post("/v1/completions", {"model": AUTO, "prompt": [ids], "max_tokens": 2})
        sent = gateway.post("/v1/completions", {"model": AUTO, "prompt": "Hi", "max_tokens": 2})
    text_alone = {"name": "maths", "pattern": "prove", "then": "upstream"}
    with ruled(gateway, policy("big", rules=(text_alone,)), server):
        unread = gateway.post("/v1/completions", {"model": AUTO, "prompt": ids, "max_tokens": 2})

    assert kept[1]["x-manyhands-decision"].startswith("swarm; rule secret: token ids")
    assert sent[1]["x-manyhands-decision"].startswith("big; rule rest")
    assert unread[1]["x-manyhands-decision"].startswith("swarm; rule default")
    assert len(server.asked) == 1


@pytest.mark.parametrize("input", [[[15339, 1917]], [[1]] * 2049])
def test_ids_of_another_tokenizer_are_refused_and_go_to_no_upstream(gateway, input):
    server, unable = Elsewhere(), {"name": "cannot", "unable": True, "then": "upstream"}
    ruling = policy("big", rules=(unable,))
    ruling["upstreams"]["big"]["embeddings"] = "theirs"
    with ruled(gateway, ruling, server):
        status, _, told = gateway.post(VECTORS, {"model": AUTO, "input": input})

    assert (status, told["error"]["code"]) == (400, "invalid_value")
    assert server.asked == []
