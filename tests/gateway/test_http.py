"""The gateway as a stranger meets it: bytes on a socket, most of them wrong."""

import json
import socket

import pytest

from tests.gateway.live import HOST, Live, events, until

CHAT = "/v1/chat/completions"
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0}
HALF = {"role": "user", "content": "\ud800"}  # of a character
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
LONG = {**HELLO, "ignore_eos": True, "max_tokens": 900}


def request_bytes(body: object, path: str = CHAT) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def test_a_stream_is_framed_so_that_a_strict_reader_understands_it(gateway):
    status, headers, text = gateway.post(CHAT, {**HELLO, "stream": True})

    *chunks, done = events(text)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len(chunks[-1]["manyhands"]["receipts"]) == 2
    assert not any("usage" in chunk or "manyhands" in chunk for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_in_every_chunk_for_who_asks_for_that(gateway):
    options = {"include_usage": True, "continuous_usage_stats": True}

    told = events(gateway.post(CHAT, {**HELLO, "stream": True, "stream_options": options})[2])

    counts = [chunk["usage"]["completion_tokens"] for chunk in told[:-1]]
    assert counts == sorted(counts)
    assert counts[0] <= 1
    assert counts[-1] > 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_caller_who_leaves_frees_the_room_on_every_node_within_a_second(gateway, is_streamed):
    with socket.create_connection((HOST, gateway.port)) as caller:
        caller.sendall(request_bytes({**LONG, "stream": is_streamed}))
        until(lambda: gateway.open_sessions() == 2, timeout_s=5)
        if is_streamed:
            assert b"data: " in caller.recv(1 << 16) + caller.recv(1 << 16)

    until(lambda: gateway.open_sessions() == 0, timeout_s=1)
    until(lambda: gateway.look(lambda: gateway.gateway.n_running) == 0, timeout_s=1)


def test_callers_who_vanish_at_any_moment_leave_nothing_behind(gateway):
    tasks = gateway.look(lambda: len(gateway.gateway._running))
    data = request_bytes({**LONG, "stream": True})

    for cut in (0, 1, 20, len(data) - 1, len(data)):
        with socket.create_connection((HOST, gateway.port)) as caller:
            caller.sendall(data[:cut])

    until(lambda: gateway.open_sessions() == 0, timeout_s=3)
    until(lambda: gateway.look(lambda: len(gateway.gateway._running)) == tasks, timeout_s=1)
    assert gateway.post(CHAT, {**HELLO, "max_tokens": 1})[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_value", None),
        (b"{", 400, "invalid_json", None),
        (b"\xff\xfe{}", 400, "invalid_json", None),
        (b"[" * 100_000, 400, "invalid_json", None),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400, "invalid_json", None),
        (b"[]", 400, "invalid_value", None),
        (b"null", 400, "invalid_value", None),
        ({}, 400, "invalid_value", "model"),
        ({**HELLO, "messages": []}, 400, "invalid_value", "messages"),
        ({**HELLO, "messages": "hi"}, 400, "invalid_value", "messages"),
        ({**HELLO, "messages": [{"role": "king"}]}, 400, "unsupported_value", "messages.0.role"),
        ({**HELLO, "model": 7}, 400, "invalid_value", "model"),
        ({**HELLO, "model": "../../etc/passwd"}, 404, "model_not_found", "model"),
        ({**HELLO, "model": "x" * 100_000}, 400, "invalid_value", "model"),
        ({**HELLO, "stop": ["a"] * 100_000}, 400, "invalid_value", "stop"),
        ({**HELLO, "stop": [""]}, 400, "invalid_value", "stop.0"),
        ({**HELLO, "stop": "\ud800"}, 400, "invalid_value", "stop.0"),
        ({**HELLO, "temperature": float("nan")}, 400, "invalid_value", "temperature"),
        ({**HELLO, "temperature": "1"}, 400, "invalid_value", "temperature"),
        ({**HELLO, "n": 9}, 400, "invalid_value", "n"),
        ({**HELLO, "seed": 1 << 70}, 400, "invalid_value", "seed"),
        ({**HELLO, "max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({**HELLO, "max_tokens": 1021}, 400, "context_length_exceeded", "messages"),
        ({**HELLO, "stream": "yes"}, 400, "invalid_value", "stream"),
        ({**HELLO, "tools": [{}]}, 400, "invalid_value", "tools"),
        ({**HELLO, "top_logprobs": 3}, 400, "invalid_value", "top_logprobs"),
        ({**HELLO, "messages": PICTURE}, 400, "unsupported_value", "messages.0.content.0.type"),
        ({**HELLO, "manyhands": {"speed": "x"}}, 400, "unsupported_parameter", None),
        ({**HELLO, "manyhands": {"avoid": ["me"]}}, 400, "invalid_value", "manyhands"),
        (
            {**HELLO, "messages": [{"role": "user", "content": "\ud800"}]},
            400,
            "invalid_value",
            None,
        ),
        (b'{"model":"tiny"}' + b" " * (1 << 20), 413, "request_too_large", None),
    ],
    ids=range(31),
)
def test_bad_bodies_are_refused_by_name_and_nothing_else_happens(
    gateway, body, status, code, param
):
    answered, headers, told = gateway.post(CHAT, body)

    assert (answered, told["error"]["code"]) == (status, code)
    assert param is None or told["error"]["param"] == param
    assert set(told["error"]) == {"message", "type", "param", "code"}
    assert headers["x-request-id"]
    assert len(told["error"]["message"]) <= 2000
    assert gateway.open_sessions() == 0


def test_what_is_missing_or_cannot_be_read_is_said_in_words(gateway):
    _, _, nothing = gateway.post(CHAT, b"")
    _, _, picture = gateway.post(CHAT, {**HELLO, "messages": PICTURE})

    assert nothing["error"]["message"] == "there is no body; send a JSON object"
    assert "'image_url' are not read here, only text and refusals" in picture["error"]["message"]


def test_a_refusal_goes_back_as_a_part_of_the_conversation(gateway):
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I had rather not."}]},
    ]

    with_it = gateway.post("/tokenize", {"messages": turns})[2]["count"]
    without = gateway.post("/tokenize", {"messages": turns[:1]})[2]["count"]

    assert with_it > without + 3


def test_a_prompt_larger_than_the_context_is_counted_not_cut(gateway):
    said = [{"role": "user", "content": "word " * 40_000}]

    status, _, told = gateway.post(CHAT, {**HELLO, "messages": said})

    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/images/generations", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404, "model_not_found"),
        ("GET", "/docs", 404, "not_found"),
    ],
)
def test_paths_that_are_not_there_say_so_in_the_same_shape(gateway, method, path, status, code):
    answered, _, told = gateway.ask(method, path)

    assert (answered, told["error"]["code"]) == (status, code)


def test_ignored_fields_are_listed_and_only_their_names(gateway):
    more = {"user": "u", "metadata": {"a": 1}, "bad\r\nname": 1, "documents": [], "logprobs": False}

    status, headers, _ = gateway.post(CHAT, {**HELLO, "max_tokens": 1, **more})

    assert status == 200
    assert headers["x-manyhands-ignored-params"] == "documents, metadata, user"


def test_pages_of_other_sites_can_neither_ask_nor_read(gateway):
    simple = gateway.ask("POST", CHAT, HELLO, content_type="text/plain")
    rebound = gateway.ask("GET", "/v1/models", host="evil.example:8400")
    asked = gateway.ask("OPTIONS", CHAT, origin="https://evil.example")

    assert (simple[0], simple[2]["error"]["code"]) == (415, "unsupported_media_type")
    assert (rebound[0], rebound[2]["error"]["code"]) == (403, "host_not_allowed")
    assert not [name for name in asked[1] if name.startswith("access-control")]


def test_a_header_bomb_is_refused_and_the_next_caller_served(gateway):
    with socket.create_connection((HOST, gateway.port)) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\n" + b"x-a: " + b"b" * 200_000)
        answer = caller.recv(1 << 16)

    assert answer.startswith(b"HTTP/1.1 400")
    assert gateway.ask("GET", "/health")[0] == 200


def test_health_says_whether_an_answer_could_be_had(gateway):
    assert gateway.ask("GET", "/health")[2] == {"status": "ok"}
    assert gateway.ask("GET", "/health/live")[0] == 200
    status, _, told = gateway.ask("GET", "/health/ready")

    assert (status, told["models"]) == (200, {"tiny": "ok", "org/other": "ok"})


def test_the_tokenizer_is_there_for_tools_that_count(gateway):
    told = gateway.post("/tokenize", {"prompt": "Once upon a time"})[2]
    back = gateway.post("/detokenize", {"tokens": told["tokens"]})[2]
    chat = gateway.post("/tokenize", {"messages": HELLO["messages"]})[2]
    outside = gateway.post("/detokenize", {"tokens": [1 << 20]})[2]
    info = gateway.ask("GET", "/tokenizer_info")[2]

    assert told["count"] == len(told["tokens"]) > 0
    assert told["max_model_len"] == 1024
    assert back == {"prompt": "Once upon a time"}
    assert chat["count"] == gateway.post(CHAT, HELLO)[2]["usage"]["prompt_tokens"]
    assert outside["error"]["code"] == "invalid_value"
    assert info["eos_token"] == "<|end|>"
    assert info["chat_template"]


def test_metrics_count_what_was_asked_and_what_is_served(gateway):
    gateway.post(CHAT, HELLO)

    text = gateway.ask("GET", "/metrics")[2]

    assert 'manyhands_requests_total{code="",finish_reason="stop",model="tiny"}' in text
    assert 'manyhands_layer_replicas{layer="7",model="tiny"} 1.0' in text
    assert 'manyhands_swarm_ready{model="tiny"} 1.0' in text
    assert 'manyhands_requests_running{model="tiny"} 0.0' in text
    assert 'manyhands_peers{path="direct",state="serving"} 2.0' in text


def test_keys_let_in_whoever_shows_one_until_it_is_revoked(gateway):
    from manyhands.gateway.keys import Keys

    keys, text = Keys().made("laptop")
    try:
        keys.write(gateway.keys)
        without = gateway.ask("GET", "/v1/models")
        wrong = gateway.ask("GET", "/v1/models", authorization="Bearer mh-nonsense")
        right = gateway.ask("GET", "/v1/models", authorization=f"Bearer {text}", host="a.example")
        health = gateway.ask("GET", "/health")
        keys.revoked("laptop").write(gateway.keys)
        late = gateway.ask("GET", "/v1/models", authorization=f"Bearer {text}")
    finally:
        gateway.keys.unlink()

    assert [each[0] for each in (without, wrong, right, health, late)] == [401, 401, 200, 200, 401]
    assert without[1]["www-authenticate"] == "Bearer"
    assert text not in json.dumps([*keys.all[0].__slots__, keys.all[0].hash])


def test_no_word_of_a_prompt_is_logged(gateway, caplog):
    canary = "xyzzy canary"
    with caplog.at_level("DEBUG"):
        gateway.post(CHAT, {**HELLO, "messages": [{"role": "user", "content": canary}]})
        gateway.post(CHAT, {**HELLO, "messages": [{"role": "king", "content": canary}]})
        gateway.post("/tokenize", {"prompt": canary})
        gateway.ask("GET", f"/health?x={canary.replace(' ', '%20')}")

    assert caplog.records
    for record in caplog.records:
        assert "xyzzy" not in record.getMessage() + repr(vars(record))


@pytest.mark.slow
def test_a_node_lost_for_good_in_mid_stream_ends_it_with_an_error_and_no_done(gateway: Live):
    """A stream that merely closes looks complete: the official client raises nothing."""
    with socket.create_connection((HOST, gateway.port)) as caller:
        caller.sendall(request_bytes({**LONG, "stream": True, "manyhands": {"wait_s": 0.5}}))
        read = b""
        while read.count(b"data: ") < 3:
            read += caller.recv(1 << 16)
        last = gateway.swarm.nodes[-1]
        try:
            gateway.run(gateway.swarm.stop(last))
            caller.settimeout(20)
            while b'"error"' not in read and (more := caller.recv(1 << 16)):
                read += more
        finally:
            gateway.run(gateway.swarm.start((4, 8)))

    assert b'"code":"swarm_incomplete"' in read or b'"code":"peer_failed"' in read
    assert b"[DONE]" not in read
