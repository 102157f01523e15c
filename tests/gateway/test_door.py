"""Who is let in, and what counts against a key, without a swarm behind the door."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import Headers

from manyhands.dashboard.routes import MAX_WATCHERS, Panel, page_router
from manyhands.gateway.allowances import Allowances
from manyhands.gateway.app import bare_app
from manyhands.gateway.door import Door, admission, admit_own
from manyhands.gateway.faults import FAULTS, ApiError
from manyhands.gateway.gateway import Bounds
from manyhands.gateway.grants import Grant
from manyhands.gateway.keys import KeyFile, Keys
from manyhands.gateway.policy import Policy
from manyhands.gateway.ruled import require_proof
from protocol.errors import ConfigError

PEER = "12D3KooWGRUfSxbfJRpmPjYNGWpMNcJtjQGmgxPDVzRZxCyPqT1E"


@pytest.mark.parametrize("data_class", ["internal", "restricted"])
def test_a_group_of_any_class_needs_proof_where_nobody_certifies_groups(data_class):
    client: Any = SimpleNamespace(certifies_groups=False)
    certified: Any = SimpleNamespace(certifies_groups=True)
    policy = Policy.model_validate({"classes": {data_class: {"groups": ["lab"]}}})

    with pytest.raises(ConfigError, match="group lab") as refused:
        require_proof(client, policy)

    assert "lab=PEER" in refused.value.hint
    assert require_proof(certified, policy) is certified
    assert require_proof(client, Policy()) is client


@pytest.mark.parametrize("name", ["forwarded", "via", "x-real-ip", "X-Forwarded-For"])
def test_without_keys_nothing_that_a_proxy_passes_on_is_taken(name):
    with pytest.raises(ApiError, match="make a key") as refused:
        admit_own(Headers({"host": "127.0.0.1:8400", name: "203.0.113.7"}))

    assert refused.value.code == "host_not_allowed"


def test_with_a_key_a_proxy_may_stand_in_front(tmp_path):
    keys, text = Keys().made("one")
    keys.write(tmp_path / "keys.json")
    sent = {"host": "ai.example", "via": "1.1 proxy", "authorization": f"Bearer {text}"}

    assert admission(KeyFile(tmp_path / "keys.json"))(Headers(sent)).name == "one"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("POST", "/api/v1/explain"),
        ("POST", "/api/v1/route"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/api/v1/ledger/verify"),
    ],
)
async def test_whatever_makes_the_gateway_work_counts_as_a_request_of_the_key(
    tmp_path, method, path
):
    keys, text = Keys().made("one", Grant(requests_per_minute=2))
    keys.write(tmp_path / "keys.json")
    admit = admission(KeyFile(tmp_path / "keys.json"))
    door = Door(bare_app("test"), Bounds(), admit, Allowances())
    headers = {"authorization": f"Bearer {text}"}

    statuses = [(await ask(door, method, path, headers))[0] for _ in range(3)]
    looked_at = await ask(door, "GET", "/api/v1/state", headers)

    assert statuses == [404, 404, 429]
    assert looked_at[0] == 404  # what is looked at costs nothing


async def test_the_pages_own_errors_have_the_one_shape_that_all_have():
    panel = Panel(n_watchers=MAX_WATCHERS)
    app = bare_app("test")
    app.include_router(page_router(panel))

    for path, code in (
        ("/page/none", "not_found"),
        ("/page/x.js", "not_found"),
        ("/api/v1/events", "overloaded"),
    ):
        status, headers, told = await ask(app, "GET", path, {})
        error = told["error"]
        assert (status, error["code"]) == (FAULTS[code].status, code)
        assert error["type"] == FAULTS[code].type
        assert set(error) == {"message", "type", "param", "code"}
    assert headers["retry-after"] == "30"


async def ask(
    app: Any, method: str, path: str, headers: dict[str, str]
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and body of what an app answers."""
    told: list[Any] = []
    sent = {"host": "localhost", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        told.append(message)

    await app(scope, receive, send)
    named = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return told[0]["status"], named, json.loads(told[1]["body"])


async def test_a_body_that_does_not_arrive_in_time_ends_its_connection():
    told: list[Any] = []

    async def reads(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def never() -> Any:
        await asyncio.Event().wait()

    async def hear(message: Any) -> None:
        told.append(message)

    door = Door(reads, Bounds(body_s=0.01), admit_own, Allowances())
    host = [(b"host", b"localhost")]
    await door({"type": "http", "method": "GET", "path": "/x", "headers": host}, never, hear)

    assert told[0]["status"] == 408
    assert (b"connection", b"close") in told[0]["headers"]
