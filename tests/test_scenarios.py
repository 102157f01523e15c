"""Scenario files of the link lab: what they may say, and how one hears what is wrong with them."""

import json

import pytest

from benchmarks.linklab.__main__ import in_json, rows_of
from benchmarks.linklab.control import OUTSIDE, Orders
from benchmarks.linklab.reading import SCENARIOS, BadScenario, find, read
from benchmarks.linklab.report import picture, text
from benchmarks.linklab.rows import Row, judged
from benchmarks.linklab.ways import Way
from protocol.errors import ConfigError

WHOLE = """\
title = "two peers"

[[peers]]
span = [0, 4]
uplink_mbit_per_s = 8
[[peers]]
span = [4, 8]
slow = 2

[links]
one_way_ms = 25
[[links.between]]
from = 0
to = 1
both_ways = false
one_way_ms = 40

[client]
one_way_ms = 100

[workload]
tokens = 10

[[variants]]
name = "plain"
[[variants]]
name = "guessing"
workload = { drafter = "oracle-0.75", sessions = 2 }
[variants.links]
loss = 0.01

[[faults]]
kill = 1
at_token = 5

[[goals]]
name = "speed"
measure = "speed"
of = "guessing"
beside = "plain"
at_least = 2
"""


def scenario(tmp_path, said=WHOLE):
    path = tmp_path / "lab.toml"
    path.write_text(said)
    return read(path)


def test_every_scenario_that_comes_with_the_lab_can_be_read():
    files = sorted(SCENARIOS.glob("*.toml"))

    assert {path.stem for path in files} >= {"ring", "oracle", "sessions", "loss", "prefill-100"}
    for path in files:
        assert read(path).name == path.stem


def test_a_variant_lies_over_what_the_scenario_says(tmp_path):
    plain, guessing = scenario(tmp_path).variants

    assert plain.workload.tokens == guessing.workload.tokens == 10
    assert guessing.workload.sessions == 2
    assert guessing.workload.oracle == 0.75
    assert guessing.distances.link == Way(25, loss=0.01)
    assert plain.distances.link == Way(25)


def test_ways_are_those_of_links_of_the_client_and_of_exceptions(tmp_path):
    read_ = scenario(tmp_path)

    ways = read_.variants[0].distances.ways(2)
    assert ways == {
        (0, 1): Way(40), (1, 0): Way(25),
        (0, OUTSIDE): Way(100), (OUTSIDE, 0): Way(100),
        (1, OUTSIDE): Way(100), (OUTSIDE, 1): Way(100),
    }  # fmt: skip
    assert read_.variants[0].distances.ring_ms(2) == 65
    assert read_.uplinks() == {0: 1e6}
    assert read_.slow() == {1: 2}


@pytest.mark.parametrize(
    ("said", "instead", "line", "complaint"),
    [
        ("span = [4, 8]", "span = [5, 8]", 0, r"nobody serves the blocks \[4\]"),
        ("span = [4, 8]", "span = [4, 9]", 0, r"has 8 blocks, not the blocks \[8\]"),
        ("span = [4, 8]", "span = 4", 7, r"peers\[1\].span: is to be a list"),
        ("span = [4, 8]", "span = [8, 4]", 7, r"peers\[1\].span: a span runs forward"),
        ("slow = 2", "slow = 0.5", 6, r"peers\[1\]: slow is 1 or more"),
        ("one_way_ms = 25", "one_way = 25", 11, r"links.one_way: .* did you mean one_way_ms\?"),
        ("one_way_ms = 25", "one_way_ms = -1", 11, r"links.one_way_ms: is 0 or more"),
        ("one_way_ms = 25", 'one_way_ms = "far"', 11, "links.one_way_ms: is to be a number"),
        ("one_way_ms = 25", "one_way_ms = true", 11, "links.one_way_ms: is to be a number"),
        ("one_way_ms = 25", "one_way_ms 25", 11, "no TOML"),
        ("to = 1", "to = 2", 14, r"links.between\[0\].to: there is no peer 2"),
        ("tokens = 10", "tokens = 1.5", 22, "workload.tokens: is to be a whole number"),
        ("loss = 0.01", "loss = 1.5", 29, r"variants\[1\].links: a loss is a share"),
        ("oracle-0.75", "oracle-much", 28, "could not convert"),
        ("at_token = 5", "", 32, "a fault has either at_token or at_s"),
        ("kill = 1", "kill = 7", 33, r"faults\[0\].kill: there is no peer 7"),
        ('beside = "plain"', 'beside = "plane"', 40, r"goals\[0\].beside: is one of"),
        ('measure = "speed"', 'measure = "joy"', 36, "'joy' is not measured"),
        ('title = "two peers"', "", 0, "title: is missing"),
        ("[[peers]]", 'picture = "joy"\n[[peers]]', 3, "picture: is one of ttft_ms, tpot_ms"),
        ('name = "guessing"', 'name = "plain"', 0, "two have the same name"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_key(tmp_path, said, instead, line, complaint):
    assert said in WHOLE

    with pytest.raises(BadScenario, match=complaint) as raised:
        scenario(tmp_path, WHOLE.replace(said, instead, 1))

    assert raised.value.line == line
    assert isinstance(raised.value, ConfigError)


def test_a_name_that_nobody_knows_gets_the_nearest(tmp_path):
    assert find("ring").name == "ring.toml"
    with pytest.raises(BadScenario, match="did you mean sessions"):
        find("session")


def row(variant, ms, **more):
    return Row(scenario="lab", variant=variant, prompt_tokens=64, tokens=10, tpot_ms=ms, **more)


def test_goals_are_judged_round_by_round(tmp_path):
    read_ = scenario(tmp_path)
    rows = [
        row("plain", 100, round=0), row("guessing", 40, round=0),
        row("plain", 300, round=1), row("guessing", 100, round=1),
    ]  # fmt: skip

    [verdict] = judged(read_, rows)

    assert verdict.value == pytest.approx(2.75)
    assert verdict.holds
    assert judged(read_, rows[:1])[0].holds is None


def test_turns_whose_fault_met_no_answer_tell_nothing_of_pauses():
    missed, struck = row("plain", 90), row("plain", 90, failovers=1, pause_ms=8000.0)
    killed = read(find("killed"))

    assert judged(killed, [missed])[0].holds is None
    [verdict] = judged(killed, [missed, struck])
    assert verdict.value == 8000.0
    assert not verdict.holds


def test_rows_of_another_system_are_laid_beside_ours(tmp_path):
    read_, path = scenario(tmp_path), tmp_path / "petals.json"
    theirs = {"variant": "plain", "system": "petals", "tpot_ms": 120.5, "what is this": 1}
    path.write_text(json.dumps({"scenario": "lab", "rows": [theirs]}))

    rows = [row("plain", 40.0), *rows_of(path)]

    assert "| plain | petals | 1 | 0 | 120.5 |" in text(read_, rows, [])
    assert "plain (petals)" in picture(read_, rows)


def test_rows_that_are_there_can_be_read_while_later_scenarios_run(tmp_path):
    path = tmp_path / "rows.json"
    first = {"scenario": "lab", "rows": [row("plain", 40.0).to_json()]}

    for n_scenarios in (1, 2):
        path.write_text(in_json([first], n_scenarios))
        assert [each.tpot_ms for each in rows_of(path)] == [40.0]
    assert isinstance(json.loads(in_json([first], 2)), list)


@pytest.mark.parametrize("said", ["", "[]x", '{"rows": 3}', '{"rows": [{}]}', "[1]"])
def test_a_file_that_has_no_rows_is_refused(tmp_path, said):
    path = tmp_path / "rows.json"
    path.write_text(said)

    with pytest.raises(BadScenario, match="no rows"):
        rows_of(path)


def test_orders_survive_the_pipe():
    orders = Orders(
        ways={(0, OUTSIDE): Way(1, 2, 3, 0.5)}, uplinks={0: 8.0}, seed=3, pids={77: 1},
        stand_before=((0, 1, 2),),
    )  # fmt: skip

    assert Orders.from_line(orders.to_line()) == orders
