"""The doctor on what answers HTTP: a real gateway, and words that none of ours would say."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from manyhands.doctor.answering import Answer, exposure_finding, metrics_finding
from manyhands.doctor.case import Asked, Case
from manyhands.doctor.examining import examine
from manyhands.doctor.finding import Finding, Verdict
from manyhands.doctor.registry import chosen
from manyhands.home import Home
from manyhands.local import free_ports
from manyhands.running import Running, recorded
from tests.gateway.test_access import key


@pytest.fixture
def home(tmp_path) -> Home:
    return Home.at(tmp_path / "home")


@contextmanager
def runs(home: Home, url: str) -> Iterator[None]:
    with recorded(
        home, Running(command="gateway", pid=os.getpid(), model="tiny", addresses=(), url=url)
    ):
        yield


def look(home: Home, check: str, **environment: str) -> Finding:
    asked = Asked(home=home.root, environment=environment)

    async def run() -> Finding:
        [result] = await examine(chosen((check,), ()), Case(asked))
        return result.finding

    return asyncio.run(run())


def test_a_gateway_for_this_machine_alone_is_well_and_prometheus_reads_it(home, gateway):
    with runs(home, gateway.url):
        exposure, metrics = look(home, "exposure"), look(home, "metrics")

    assert (exposure.verdict, "without a key" in exposure.reason) == (Verdict.OK, True)
    assert metrics.verdict is Verdict.OK
    assert f"{gateway.url}/metrics has " in metrics.reason


def test_what_asks_for_a_key_is_read_with_one(home, gateway):
    with runs(home, gateway.url), key(gateway) as text:
        exposure, without = look(home, "exposure"), look(home, "metrics")
        having = look(home, "metrics", MANYHANDS_API_KEY=text)

    assert "with a key" in exposure.reason
    assert (without.verdict, having.verdict) == (Verdict.SKIP, Verdict.OK)


def test_a_gateway_that_strangers_reach_is_an_error_without_keys_and_a_warning_in_the_clear(
    home, gateway
):
    wide = f"http://0.0.0.0:{gateway.port}"  # as if it had been made to listen there
    with runs(home, wide):
        open_to_all = look(home, "exposure")
        with key(gateway):
            in_the_clear = look(home, "exposure")

    assert (open_to_all.verdict, "key new" in open_to_all.fix) == (Verdict.FAIL, True)
    assert (in_the_clear.verdict, "--tls-cert" in in_the_clear.fix) == (Verdict.WARN, True)
    assert exposure_finding("https://0.0.0.0:8400", Answer(401, "")).verdict is Verdict.OK


def test_what_does_not_answer_or_is_no_page_of_metrics_is_named(home):
    [port] = free_ports(1)
    with runs(home, f"http://127.0.0.1:{port}"):
        assert look(home, "exposure").verdict is Verdict.WARN
        assert look(home, "metrics").verdict is Verdict.FAIL

    url = "http://127.0.0.1:8400"
    assert "something else" in metrics_finding(url, Answer(200, "up 1\n")).reason
    assert "nothing that" in metrics_finding(url, Answer(200, "<html>what\n")).reason


def test_where_nothing_runs_there_is_nothing_to_look_at(home):
    assert look(home, "exposure").verdict is Verdict.SKIP
    assert look(home, "metrics").verdict is Verdict.SKIP
