"""Callers who mean harm, against a real swarm: each is refused in words, and the next is served."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from manyhands.gateway.asked import CompletionAsked
from tests.gateway.live import HOST, Live

PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
HELLO = [{"role": "user", "content": "Hello"}]
FIELDS = {"messages": HELLO, "prompt": "Hello", "input": "Hello"}


def body(path: str, **more: object) -> dict[str, object]:
    wanted = {PATHS[0]: "messages", PATHS[1]: "prompt"}.get(path, "input")
    return {"model": "tiny", wanted: FIELDS[wanted], **more}


@pytest.mark.parametrize("path", PATHS)
def test_every_endpoint_says_no_to_what_is_no_request(gateway, path):
    deep = b'{"model":"tiny","input":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    for data in (b"", b"{", b"\xff\xfe", b"[1]", b"null", b'"text"', deep, b"{" * 9_000):
        status, _, told = gateway.post(path, data)

        assert status == 400, data[:20]
        assert told["error"]["code"] in ("invalid_json", "invalid_value"), data[:20]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "tiny/../tiny",
        "tiny\x00",
        "%2e%2e/tiny",
        "tiny@../..",
        "tiny:../x",
        "\u202e",
    ],
)
def test_a_models_name_leads_nowhere_but_to_models(gateway, path, name):
    status, _, told = gateway.post(path, {**body(path), "model": name})

    assert (status, told["error"]["code"]) == (404, "model_not_found")


def test_paths_of_a_models_page_lead_nowhere_either(gateway):
    for path in ("/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"):
        assert gateway.ask("GET", path)[0] == 404


@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_of_ten_megabytes_is_turned_away_before_it_is_read(gateway, path):
    status, _, told = gateway.post(path, json.dumps(body(path, pad="x" * (10 << 20))).encode())

    assert (status, told["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (PATHS[1], {"prompt": [1 << 20]}, "prompt"),
        (PATHS[1], {"prompt": [-1]}, None),
        (PATHS[1], {"prompt": [[1], "a"]}, None),
        (PATHS[1], {"prompt": ["a"] * 33}, "prompt"),
        (PATHS[1], {"prompt": "a", "stop": ["x"] * 100_000}, "stop"),
        (PATHS[1], {"prompt": "a", "logit_bias": {str(1 << 20): 1}}, None),
        (PATHS[1], {"prompt": "a", "stop_token_ids": [1 << 20]}, None),
        (PATHS[2], {"input": [{"role": "user", "content": "\ud800"}]}, None),
        (PATHS[2], {"input": [{}] * 10_001}, "input"),
        (PATHS[2], {"tools": [{"type": "function", "name": ""}]}, None),
        (PATHS[3], {"input": "\ud800"}, None),
        (PATHS[3], {"input": [""] * 3}, "input"),
    ],
)
def test_values_out_of_range_are_refused_and_nothing_runs(gateway, path, more, param):
    status, _, told = gateway.post(path, body(path) | more)

    assert status == 400
    assert param is None or told["error"]["param"] == param
    assert gateway.open_sessions() == 0


def test_many_headers_and_long_ones_end_a_connection_and_no_more(gateway):
    for head in (b"x: y\r\n" * 50_000, b"x: " + b"y" * 100_000, b"\x00\x01\r\n", b"a" * 70_000):
        with socket.create_connection((HOST, gateway.port), timeout=10) as caller:
            try:
                caller.sendall(b"GET /health HTTP/1.1\r\n" + head + b"\r\n")
                answer = caller.recv(1 << 16)
            except ConnectionError:
                answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400")

    assert gateway.ask("GET", "/health")[0] == 200


def test_streams_that_nobody_reads_hold_up_nobody_else(gateway: Live):
    asked = json.dumps(body(PATHS[0], stream=True, ignore_eos=True, max_tokens=200)).encode()
    head = f"POST {PATHS[0]} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(asked)}\r\n\r\n"
    deaf = [socket.create_connection((HOST, gateway.port)) for _ in range(4)]
    try:
        for caller in deaf:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            caller.sendall(head.encode() + asked)
        with ThreadPoolExecutor(2) as others:
            told = list(others.map(lambda _: gateway.post(PATHS[0], body(PATHS[0])), range(2)))
    finally:
        for caller in deaf:
            caller.close()

    assert [status for status, _, _ in told] == [200, 200]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (PATHS[0], {"messages": [{"role": "user", "content": "a " * 400_000}]}),
        (PATHS[1], {"prompt": "a" * 900_000}),
        (PATHS[1], {"prompt": ["a " * 25_000] * 16}),
        (PATHS[2], {"input": "a " * 400_000}),
        (PATHS[3], {"input": "a " * 400_000}),
    ],
)
def test_of_a_text_that_cannot_fit_only_the_beginning_is_read(gateway, path, more):
    status, _, told = gateway.post(path, body(path) | more)

    assert (status, told["error"]["code"]) == (400, "context_length_exceeded")
    assert "at least" in told["error"]["message"]


@pytest.mark.parametrize("prompt", [[1] * 100_000 + ["a"], [[1]] * 100_000 + [1]])
def test_the_first_wrong_item_of_a_long_list_ends_it(prompt):
    with pytest.raises(ValidationError) as complained:
        CompletionAsked.model_validate({"model": "tiny", "prompt": prompt})

    assert complained.value.error_count() <= 4
