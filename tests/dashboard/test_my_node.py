"""A node's own page, over HTTP as a browser asks, in front of a real node."""

import asyncio
import http.client
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.datastructures import Headers

from manyhands.dashboard.beside import About, page_beside
from manyhands.dashboard.guard import TOKEN_HEADER, Guard
from manyhands.dashboard.my_node import condition
from manyhands.gateway.faults import ApiError
from manyhands.home import Home
from manyhands.loads import Loads
from protocol.errors import ConfigError
from protocol.measured import Measured, State
from protocol.path import Path as Way
from protocol.reachability import Nat, Reach, Verdict
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, Token
from tests.announcing import announce
from tests.checkpoints import write_checkpoint
from tests.local_swarm import LocalNode, Swarm, add_byte_tokenizer, swarm, whole

LOADS = Loads(Counter(fetched=7), {"fetched": 0.5})
ABOUT = About(why="you named them", limits={"Hours": "always"}, loads=LOADS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


class Browser:
    """Asks as a script of the page does."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.token = ""

    async def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any]:
        return await asyncio.to_thread(self._ask, method, path, body, headers)

    async def act(self, name: str, **wish: object) -> Any:
        status, told = await self.ask("POST", f"/api/v1/node/{name}", wish)
        assert status == 200, told
        return told

    def _ask(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        named = {"content-type": "application/json", TOKEN_HEADER: self.token}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, named)
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.headers["content-type"].startswith("application/json")
            return response.status, json.loads(text) if is_json else text
        finally:
            connection.close()


@asynccontextmanager
async def page(running: Swarm, local: LocalNode, home: Path) -> AsyncIterator[Browser]:
    transport = running.transport_of(running.new_identity())
    async with page_beside(local.node, transport, Home.at(home), range(1), ABOUT) as url:
        browser = Browser(url)
        browser.token = (await browser.ask("GET", "/api/v1/node"))[1]["token"]
        yield browser


async def test_an_owner_pauses_a_node_from_its_page_and_no_answer_is_dropped(
    model: Path, tmp_path: Path
) -> None:
    network = MemoryNetwork()
    transport_of = lambda identity: network.transport(identity, OPEN_SWARM_ID)  # noqa: E731
    async with swarm(model, tmp_path, transport_of) as alone:
        [local] = await alone.start((0, 6))
        async with page(alone, local, local.home.parent / "home") as browser, alone.client() as who:
            before = (await browser.ask("GET", "/api/v1/node"))[1]
            request = alone.request([5, 6], max_tokens=200, ignore_eos=True)
            expected = (await whole(who.generate(request))).token_ids
            async with who.generate(request) as run:
                async for event in run:
                    if isinstance(event, Token) and event.index == 3:
                        paused = await browser.act("pause", minutes=30)
                    if isinstance(event, Finished):
                        result = event.result
            state = (await browser.ask("GET", "/api/v1/state"))[1]
            resumed = await browser.act("resume")
            drained = await browser.act("drain")

            own = {"token": browser.token}
            refused = [
                await browser.ask("POST", "/api/v1/node/pause", {}, **headers)
                for headers in (
                    {"origin": "http://elsewhere.example"},
                    {"host": "elsewhere.example"},
                    {"sec_fetch_site": "cross-site"},
                    {"x_manyhands_token": "guessed"},
                )
            ]
            wrong = await browser.ask("POST", "/api/v1/node/pause", {"minutes": -1})
            other = await browser.ask("POST", "/api/v1/node/pause", {"hours": 1})

    assert before["state"] == "serving"
    assert before["sentence"].startswith("Your node serves all 6 blocks of test")
    assert before["why_these"] == "you named them"
    assert result.token_ids == expected
    assert paused["state"] == "paused"
    assert paused["sentence"].startswith(
        "You paused this node. No new answer begins here. 1 answer runs"
    )
    assert paused["held_by_owner"]["hands_over"]
    assert paused["pause"]["back_s"] > 0
    assert state["tone"] == "bad"  # nobody else serves the model
    assert resumed["state"] == "serving"
    assert not drained["held_by_owner"]["hands_over"]
    assert [(status, told["error"]["code"]) for status, told in refused] == [
        (403, "origin_not_allowed"),
        (403, "host_not_allowed"),
        (403, "origin_not_allowed"),
        (403, "invalid_page_token"),
    ]
    assert own["token"]
    assert [(status, told["error"]["code"]) for status, told in (wrong, other)] == [
        (400, "invalid_value"),
        (400, "unsupported_parameter"),
    ]


async def test_a_taken_port_is_passed_over_and_one_that_was_named_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody: Any = None  # who opens no page needs no node
    home = Home.at(tmp_path)
    async with page_beside(nobody, nobody, home, range(1), ABOUT) as url:
        port = urlsplit(url).port
        assert port is not None
        async with page_beside(nobody, nobody, home, range(port, port + 3), ABOUT) as other:
            assert urlsplit(other).port in (port + 1, port + 2)
        with pytest.raises(ConfigError, match=f"port {port}") as error:
            async with page_beside(nobody, nobody, home, range(port, port + 1), ABOUT):
                pass
        assert "--page off" in error.value.hint
        async with page_beside(nobody, nobody, home, [port, port], ABOUT) as none:
            assert none == ""
        assert f"no page: ports {port} to {port}" in capsys.readouterr().err
    async with page_beside(nobody, nobody, home, range(0), ABOUT) as off:
        assert off == ""


def test_only_the_page_that_was_told_the_token_may_act() -> None:
    guard = Guard()
    assert Guard().token != guard.token
    own = {"host": "127.0.0.1:8401", "origin": "http://127.0.0.1:8401", TOKEN_HEADER: guard.token}
    guard.require(Headers(own))

    for change, code in (
        ({"host": "evil.example"}, "host_not_allowed"),
        ({"origin": "http://127.0.0.1:8400"}, "origin_not_allowed"),
        ({"origin": "null"}, "origin_not_allowed"),
        ({TOKEN_HEADER: ""}, "invalid_page_token"),
        ({TOKEN_HEADER: "\u00fc"}, "invalid_page_token"),
    ):
        with pytest.raises(ApiError) as refusal:
            guard.require(Headers({**own, **change}))
        assert refusal.value.code == code


@pytest.mark.parametrize(
    ("changes", "status", "tone", "words"),
    [
        ({}, {}, "well", "Your node serves all 8 blocks of tiny. No answer runs"),
        (
            {"reach": Reach(verdict=Verdict.NAT, nat=Nat.UNKNOWN)},
            {},
            "warn",
            "but it is behind a router",
        ),
        ({}, {"held": "the rules say no"}, "bad", "does not let this node serve: the rules say"),
        ({}, {"paused": {"why": "in use"}}, "warn", "It is paused: in use. No new answer"),
        ({"measured": Measured(state=State.MOVING)}, {}, "warn", "moving to other blocks"),
        ({"measured": Measured(state=State.DRAINING)}, {}, "warn", "is leaving"),
    ],
)
def test_a_sentence_says_how_the_node_is(
    changes: dict[str, Any], status: dict[str, Any], tone: str, words: str
) -> None:
    told = condition(announce(1, **changes), status, n_sessions=0)
    assert told[0] == tone
    assert words in told[1]


async def test_a_nodes_metrics_tell_its_room_its_work_and_its_ways_to_others(
    model: Path, tmp_path: Path
) -> None:
    network = MemoryNetwork()
    async with swarm(model, tmp_path, lambda i: network.transport(i, OPEN_SWARM_ID)) as pair:
        [local, _] = await pair.start((0, 3), (3, 6))
        async with page(pair, local, tmp_path / "home") as browser, pair.client() as client:
            await browser.ask("GET", "/metrics")
            local.node.gossip.links.heard(0.004, Way.RELAYED)
            async with client.generate(pair.request([5, 6], max_tokens=200)) as generation:
                async for event in generation:
                    if isinstance(event, Token) and event.index == 2:
                        _, running = await browser.ask("GET", "/metrics")

    told = dict(line.rsplit(" ", 1) for line in running.splitlines() if line[0] != "#")
    assert 0 < float(told['manyhands_kv_cache_usage_ratio{model="test"}']) < 1
    assert float(told['manyhands_node_sessions{model="test"}']) == 1
    assert float(told['manyhands_node_rows_total{model="test"}']) >= 3
    assert float(told['manyhands_hop_latency_seconds_count{path="relay"}']) == 1
    assert float(told['manyhands_download_bytes_total{model="fetched"}']) == 7
    assert float(told['manyhands_model_load_seconds{model="fetched"}']) == 0.5
