"""Adapters over HTTP: `BASE:ADAPTER` is a model of its own to whoever asks."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from manyhands.models import BUILT_IN
from tests.adapters import write_adapter
from tests.gateway.live import Live, until
from tests.test_adapters import look, put

ASKED = {
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 12,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def poet(gateway: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An adapter on both nodes, which the gateway has heard of."""
    adapter = write_adapter(tmp_path_factory.mktemp("adapters") / "poet", BUILT_IN)
    nodes = gateway.swarm.nodes
    for local in nodes:
        put(local, "poet", adapter)
    gateway.run(look(*nodes))

    def is_listed() -> bool:
        listed = gateway.ask("GET", "/v1/models")[2]["data"]
        return "tiny:poet" in [model["id"] for model in listed]

    until(is_listed, timeout_s=60)
    yield
    for local in nodes:
        shutil.rmtree(local.home / "adapters" / "poet")
    gateway.run(look(*nodes))


def said(gateway: Live, model: str) -> tuple[str, dict[str, Any]]:
    status, _, told = gateway.post("/v1/chat/completions", {**ASKED, "model": model})
    assert status == 200, told
    return told["choices"][0]["message"]["content"], told


def test_an_adapter_is_asked_for_as_base_and_name_and_answers_otherwise(
    gateway: Live, poet: None
) -> None:
    base, _ = said(gateway, "tiny")
    answer, told = said(gateway, "tiny:poet")
    alias, _ = said(gateway, "default:poet")

    assert answer != base
    assert alias == answer
    assert told["model"] == "tiny:poet"
    assert said(gateway, "tiny")[0] == base  # beside it, and after it


def test_an_adapter_that_nobody_serves_is_named(gateway: Live, poet: None) -> None:
    body = {**ASKED, "model": "tiny:nobody", "manyhands": {"wait_s": 0}}
    status, _, told = gateway.post("/v1/chat/completions", body)

    assert (status, told["error"]["code"]) == (503, "swarm_incomplete")
    assert "nobody" in told["error"]["message"]
