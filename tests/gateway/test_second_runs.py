"""Answers that a gateway runs again after it sent them, because their callers asked for that."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ledger.findings import Findings
from ledger.verdicts import MATCH, MISMATCH
from manyhands.auditing.own_engine import IsGivenUp, OwnEngine, Waiting
from manyhands.gateway.catalogue import served_of
from manyhands.gateway.faults import ApiError
from manyhands.gateway.grants import ANYBODY, Caller
from manyhands.gateway.second_runs import MAX_DUE, MAX_OF_ONE, Outcome, SecondRuns, Wish
from manyhands.home import Home
from manyhands.models import BUILT_IN, find_model
from node.recomputing import GivenUp
from protocol.signing import OPEN_SWARM_ID
from protocol.wire import Rows
from scheduler.wanted import ANY_PEER
from tests.gateway.live import Live, events, live, until
from tests.local_swarm import Swarm
from tests.test_audits import Swarms, scaled, spoilt_by

CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What should I know about bread?"}],
    "temperature": 0,
}


def outcome_of(gateway: Live, id: str) -> Any:
    """What a second run found of the request `id`, once it is there."""
    found: list[Any] = []

    def is_there() -> bool:
        _, _, told = gateway.ask("GET", "/api/v1/requests")
        found[:] = [one["verification"] for one in told["requests"] if one["id"] == id]
        return bool(found and found[0] and found[0]["state"] != "pending")

    until(is_there, timeout_s=60)
    return found[0]


def test_an_answer_is_run_again_after_it_was_sent_and_its_outcome_is_told(gateway: Live) -> None:
    body = {**CHAT, "stream": True, "manyhands": {"verify": "full"}}

    status, headers, text = gateway.post("/v1/chat/completions", body)

    assert status == 200
    assert headers["x-manyhands-verify"] == "full"
    told = events(text)[-2]["manyhands"]["verification"]
    assert told == {
        "asked": "full",
        "request": headers["x-request-id"],
        "at": "/api/v1/requests",
    }
    outcome = outcome_of(gateway, told["request"])
    assert outcome["state"] == "matches", outcome
    _, _, metrics = gateway.ask("GET", "/metrics")
    assert 'manyhands_second_runs_total{model="tiny",state="matches"} 1.0' in metrics
    with Findings.open(gateway.directory / "client", OPEN_SWARM_ID) as findings:
        assert len(findings.looks()) >= len(gateway.swarm.nodes)


class Cheated(Live):
    """Its first node's weights are not the model's."""

    def new_swarm(self) -> Swarm:
        built = Swarms(BUILT_IN, self.directory, self.transport)
        built.cheat, built.load = 0, spoilt_by(scaled, self.directory / "spoilt")
        return built


@pytest.mark.slow
def test_a_node_that_computes_something_else_is_found_out_and_counted(tmp_path: Path) -> None:
    with live(tmp_path, kind=Cheated) as running:
        body = {**CHAT, "manyhands": {"verify": "full"}}
        status, headers, told = running.post("/v1/chat/completions", body)
        assert (status, told["manyhands"]["verification"]["asked"]) == (200, "full")

        outcome = outcome_of(running, headers["x-request-id"])
        _, _, metrics = running.ask("GET", "/metrics")
        cheat = running.swarm.nodes[0].node.peer_id

    assert outcome["state"] == "deviates"
    assert cheat in outcome["why"]
    assert 'manyhands_verification_failures_total{reason="mismatch"} 1.0' in metrics
    with Findings.open(tmp_path / "client", OPEN_SWARM_ID) as findings:
        assert [look.result for look in findings.looks()] == [MISMATCH]


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, "vectors"),
        ("/v1/chat/completions", CHAT | {"model": "tiny:poet"}, "adapter"),
    ],
)
def test_what_cannot_be_run_again_is_refused_by_name(
    gateway: Live, path: str, body: dict[str, Any], why: str
) -> None:
    status, _, told = gateway.post(path, {**body, "manyhands": {"verify": "spot"}})

    assert (status, told["error"]["code"]) == (400, "unsupported_value")
    assert told["error"]["param"] == "manyhands.verify"
    assert why in told["error"]["message"]


def test_who_runs_it_again_follows_from_the_gateway_and_the_key(tmp_path: Path) -> None:
    home, (tiny,) = Home.at(tmp_path), served_of([find_model("tiny")])
    files = tuple(
        replace(file, n_bytes=1 << 40) if file.is_weights else file
        for file in tiny.model.manifest.files
    )
    manifest = replace(tiny.model.manifest, files=files)
    large = replace(tiny, model=replace(tiny.model, manifest=manifest))
    bounded = replace(ANYBODY, grant=replace(ANYBODY.grant, budget_ncr=1000))

    def asked(by: Any, served: Any, caller: Caller) -> str:
        try:
            wish = SecondRuns(home, by).wish("spot", served, caller, "id", lambda *_: None)
        except ApiError as error:
            return error.code
        return wish.references

    assert asked("auto", tiny, ANYBODY) == "auto"
    assert asked("auto", large, ANYBODY) == "peers"
    assert asked("peers", tiny, ANYBODY) == "peers"
    assert asked("own", large, ANYBODY) == "own"
    assert asked("auto", tiny, bounded) == "own"
    assert asked("auto", large, bounded) == "unsupported_value"
    assert asked("nobody", tiny, ANYBODY) == "unsupported_value"


def test_only_so_many_answers_wait_to_be_run_again_and_not_all_of_one_caller(
    tmp_path: Path,
) -> None:
    (tiny,) = served_of([find_model("tiny")])
    runs = SecondRuns(Home.at(tmp_path))

    def wish(caller: Caller) -> Wish:
        return runs.wish("spot", tiny, caller, "id", lambda *_: None)

    many, few = wish(ANYBODY), wish(OTHER)
    many.require_room(MAX_OF_ONE)
    many.take(MAX_OF_ONE)
    with pytest.raises(ApiError, match="48 of them yours") as caught:
        wish(ANYBODY).require_room(1)
    assert caught.value.code == "overloaded"
    few.require_room(MAX_DUE - MAX_OF_ONE)
    few.take(MAX_DUE - MAX_OF_ONE)
    with pytest.raises(ApiError, match="16 of them yours"):
        wish(OTHER).require_room(1)
    for each in (many, few):
        each.settle()  # its answers failed: there is nothing to run again

    assert runs.n_due == 0


async def test_hops_that_let_us_wait_hold_up_the_second_runs_of_others_for_a_while_only(
    tmp_path: Path,
) -> None:
    (tiny,) = served_of([find_model("tiny")])
    (tmp_path / "client").mkdir()
    runs = SecondRuns(Home.at(tmp_path), look_s=0.05)
    wish = runs.wish("spot", tiny, ANYBODY, "id", lambda *_: None)
    looked_at(runs, wish, lambda: asyncio.Event().wait())

    outcomes = await asyncio.gather(*(look(runs, wish) for _ in range(2)))

    assert [each.state for each in outcomes] == ["unknown", "unknown"]
    assert "not done within 0.05 s" in outcomes[0].why


async def test_several_answers_are_run_again_at_a_time_and_the_others_are_told_that_they_wait(
    tmp_path: Path,
) -> None:
    (tiny,) = served_of([find_model("tiny")])
    (tmp_path / "client").mkdir()
    runs, told = SecondRuns(Home.at(tmp_path), at_once=3), Counter[str]()
    both_look, may_go, all_told = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def tell(index: int, outcome: Outcome) -> None:
        states[index].append(outcome.state)
        told[outcome.why] += 1
        if all(each[-1:] == ["unknown"] for each in states.values()):
            all_told.set()

    async def looked() -> SimpleNamespace:
        if runs.n_running == 2:
            both_look.set()
        await may_go.wait()
        return SimpleNamespace(looks=[], notes=["nothing was looked at"], faults=[])

    states: dict[int, list[str]] = {index: [] for index in range(3)}
    wish = runs.wish("spot", tiny, ANYBODY, "id", tell)
    wish.take(3)
    looked_at(runs, wish, looked)
    for index in states:
        wish.begin(CLIENT, index, ASKED, cast("Any", None), cast("Any", None))
    async with asyncio.timeout(600):  # torch is loaded meanwhile
        await both_look.wait()
        assert (runs.n_running, runs.n_waiting, runs.n_due) == (2, 1, 3)
        assert states == {0: ["pending"] * 2, 1: ["pending"] * 2, 2: ["pending"]}
        may_go.set()
        await all_told.wait()

    assert runs.n_due == 0
    assert told["it waits to be run again, behind 2 others"] == 1


async def test_of_two_slow_answers_one_is_given_up_and_the_one_behind_it_is_looked_at(
    tmp_path: Path,
) -> None:
    (tiny,) = served_of([find_model("tiny")])
    (tmp_path / "client").mkdir()
    runs, engine = (
        SecondRuns(Home.at(tmp_path), look_s=0.05),
        OwnEngine(tiny.model, cast("Any", None)),
    )
    states: dict[str, list[str]] = {"slow": [], "behind": []}
    began, all_told = threading.Event(), asyncio.Event()

    def wish(caller: Caller, name: str) -> Wish:
        def tell(index: int, outcome: Outcome) -> None:
            states[name].append(outcome.state)
            if all(each[-1:] not in ([], ["pending"]) for each in states.values()):
                all_told.set()

        return runs.wish("full", tiny, caller, name, tell)

    def endless(is_given_up: IsGivenUp) -> Rows:
        began.set()
        while not is_given_up():
            time.sleep(0.001)  # in the thread that runs them
        raise GivenUp

    def look_by(run: Callable[[IsGivenUp], Rows]) -> Any:
        def beside(findings: Findings, rate_ppm: int | None, waiting: Waiting) -> SimpleNamespace:
            async def look(*_: Any) -> SimpleNamespace:
                await engine._in_turn(run, waiting)
                return SimpleNamespace(looks=[SimpleNamespace(result=MATCH)], notes=[], faults=[])

            return SimpleNamespace(look=look)

        return cast("Any", SimpleNamespace(beside=beside))

    slow, behind = wish(ANYBODY, "slow"), wish(OTHER, "behind")
    behind.references = "another desk"
    digest = tiny.model.manifest.digest
    runs._desks[digest, slow.references] = look_by(endless)
    runs._desks[digest, behind.references] = look_by(lambda is_given_up: ROWS)
    async with asyncio.timeout(600):  # torch is loaded meanwhile
        slow.take(1)
        slow.begin(CLIENT, 0, ASKED, cast("Any", None), cast("Any", None))
        await asyncio.to_thread(began.wait)
        runs._look_s = 600.0  # of the other, which is to be looked at on any machine
        behind.take(1)
        behind.begin(CLIENT, 0, ASKED, cast("Any", None), cast("Any", None))
        await all_told.wait()

    assert states == {
        "slow": ["pending", "pending", "unknown"],
        "behind": ["pending", "pending", "matches"],
    }
    assert (runs.n_due, runs.n_running) == (0, 0)


ROWS = np.zeros((1, 1), np.float32)
OTHER = replace(ANYBODY, id="another key")
CLIENT = cast("Any", SimpleNamespace(swarm_id=OPEN_SWARM_ID))
ASKED = cast("Any", SimpleNamespace(limits=ANY_PEER))


def looked_at(runs: SecondRuns, wish: Wish, how: Callable[[], Awaitable[Any]]) -> None:
    """Have a desk that does nothing else look at its answers."""
    desk = SimpleNamespace(beside=lambda *_: SimpleNamespace(look=lambda *_: how()))
    runs._desks[wish.served.model.manifest.digest, wish.references] = cast("Any", desk)


async def look(runs: SecondRuns, wish: Wish) -> Outcome:
    return await runs.look(wish, CLIENT, ASKED, cast("Any", None), cast("Any", None))


def test_an_outcome_is_as_bad_as_its_worst_window() -> None:
    states = {
        (): "unknown",
        ("match",): "matches",
        ("match", "unopened"): "unopened",
        ("unopened", "mismatch"): "deviates",
    }
    for results, state in states.items():
        assert Outcome("", cast("Any", results)).state == state
