"""Petals beside us: what needs no Petals. Figures, refusals, and programs that leave nothing."""

import json
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.petals import environment
from benchmarks.petals.asked import PROGRAMS, Answer, Failed, members, running
from benchmarks.petals.environment import Missing
from benchmarks.petals.results import (
    EACH,
    EIGHT,
    FIRST,
    HEADING,
    ONE,
    OURS,
    PETALS,
    PLAIN,
    Scenario,
    figure,
    picture,
    tokens_per_s,
)


def steady(rate, *, n=11, asked_s=100.0, wait_s=1.0, ids=None):
    """An answer of `n` tokens, `rate` of them a second, the first after `wait_s`."""
    at_s = tuple(asked_s + wait_s + i / rate for i in range(n))
    return Answer(asked_s, tuple(ids or range(n)), at_s)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 1000), st.integers(2, 50), st.floats(0, 100))
def test_one_session_decodes_as_fast_as_its_tokens_come_however_long_the_first_took(rate, n, wait):
    assert tokens_per_s([steady(rate, n=n, wait_s=wait)]) == pytest.approx(rate, rel=1e-6)


def test_sessions_together_are_counted_while_all_of_them_decode():
    early, late = steady(10, n=101), steady(5, n=51, wait_s=4.0)

    assert tokens_per_s([early, late]) == pytest.approx(15, rel=0.05)


def test_sessions_that_never_decode_together_have_no_speed():
    with pytest.raises(Failed, match="more tokens"):
        tokens_per_s([steady(10), steady(10, wait_s=50.0)])


def test_a_first_token_is_waited_for_from_the_question_on():
    assert figure(FIRST, [steady(10, wait_s=0.25)]) == pytest.approx(250)


def test_an_answer_has_a_time_for_every_token_and_tokens():
    for told in ({"ids": [1, 2], "at_s": [1.0]}, {"ids": [], "at_s": []}):
        with pytest.raises(ValueError, match="times"):
            Answer.from_json({"asked_s": 0.0, **told})


def rounds(*speeds):
    """A scenario with these tokens/s of (transformers, Petals, a client each, ours) in each."""
    scenario = Scenario("loopback", "loopback")
    for n, round_speeds in enumerate(speeds, 1):
        told = dict(zip((PLAIN, PETALS, EACH, OURS), round_speeds, strict=True))
        scenario.add(EIGHT, n, {side: [steady(speed)] * 8 for side, speed in told.items()})
    return scenario


def test_ours_is_held_against_the_faster_way_to_use_petals_round_by_round():
    scenario = rounds((40, 1, 2, 10), (40, 1, 4, 16), (40, 1, 3, 18))

    assert scenario.rival(EIGHT) == EACH
    assert scenario.ratio(EIGHT) == pytest.approx(5)


def test_links_without_goals_have_ratios_alone():
    scenario = Scenario("far", "long", has_goals=False)
    scenario.add(ONE, 1, {PLAIN: [steady(9)], PETALS: [steady(2)], OURS: [steady(4)]})

    speed, ms = scenario.rows()
    [case] = scenario.to_json()["cases"]

    assert speed[-3:] == ["2.00", "", ""]
    assert ms[2:5] == ["500", "", "250"]
    assert (case["goal"], case["met"], case["first_token_ms"][OURS]) == (None, None, [1000.0])


def test_goals_are_met_upwards_for_speed_and_downwards_for_waiting():
    assert ONE.is_met(2.0)
    assert not ONE.is_met(1.99)
    assert FIRST.is_met(0.7)
    assert not FIRST.is_met(0.71)


def test_other_tokens_than_those_of_transformers_are_told_with_case_round_and_side():
    scenario = Scenario("loopback", "loopback")
    right, wrong = [steady(10, n=3)], [steady(10, n=3, ids=(0, 1, 9))]

    scenario.add(ONE, 1, {PLAIN: right, PETALS: right, OURS: right})
    assert scenario.to_json()["tokens_equal"]
    scenario.add(ONE, 2, {PLAIN: right, PETALS: right, OURS: wrong})

    assert scenario.differing == ["one session, round 2: Manyhands, not transformers"]
    assert not scenario.to_json()["tokens_equal"]


def test_the_report_has_every_round_and_the_table_a_cell_for_every_column():
    scenario = rounds((40, 1, 2, 10), (40, 1, 2, 7))
    scenario.facts["load"] = [1.0]

    told = json.loads(json.dumps(scenario.to_json()))
    [case] = told["cases"]
    [row] = scenario.rows()

    assert case["rounds"][OURS] == pytest.approx([80, 56])
    assert (case["met"], case["against"], told["load"]) == (True, EACH, [1.0])
    assert len(row) == len(HEADING)
    assert row[-3:] == ["4.25", ">= 4", "yes"]
    assert OURS in picture(scenario)


# --- Without Petals ------------------------------------------------------------------------------


def test_without_petals_it_is_told_how_to_install_it(tmp_path):
    with pytest.raises(Missing, match="not installed") as refused:
        environment.petals_python(tmp_path)

    assert environment.INSTALL in refused.value.fix


def test_an_environment_of_other_versions_is_refused(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "installed").write_text("another list")

    with pytest.raises(Missing, match="other versions"):
        environment.petals_python(tmp_path)


def test_a_python_of_another_version_is_passed_over(tmp_path, monkeypatch):
    for version in ("3.10.1", "3.10.2"):
        python = tmp_path / "versions" / version / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho {'3 10' if version == '3.10.1' else '3 11'}\n")
        python.chmod(0o755)
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert environment.find_python() == tmp_path / "versions" / "3.10.1" / "bin" / "python"


def test_no_python_at_all_is_told_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_candidates", lambda: iter(()))

    with pytest.raises(Missing, match=r"3\.10"):
        environment.find_python()


def script(path, says, code=0):
    path.write_text(f"#!/bin/sh\necho {says}\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_an_interpreter_that_will_not_do_is_refused_before_anything_is_deleted(tmp_path):
    folder = tmp_path / "petals"
    (folder / "venv").mkdir(parents=True)
    (folder / "installed").write_text("what was there")
    (tmp_path / "notes.txt").touch()
    for python, why in {
        tmp_path / "nowhere": "is no Python",
        tmp_path: "is no Python",
        tmp_path / "notes.txt": "is no Python",
        script(tmp_path / "broken", "3 10", code=1): "is no Python",
        script(tmp_path / "strange", "hello"): "is no Python",
        script(tmp_path / "later", "3 12"): r"is Python 3\.12",
    }.items():
        with pytest.raises(Missing, match=why):
            environment.install(folder, python)

    assert (folder / "venv").exists()
    assert (folder / "installed").exists()


def test_an_environment_that_somebody_else_made_is_left_alone(tmp_path):
    python = script(tmp_path / "python3.10", "3 10")
    theirs = tmp_path / "venv" / "pyvenv.cfg"
    theirs.parent.mkdir()
    theirs.touch()

    with pytest.raises(Missing, match="was not made by this command"):
        environment.install(tmp_path, python)

    assert theirs.exists()


def test_an_installation_of_ours_that_failed_is_begun_anew(tmp_path):
    python = script(tmp_path / "python3.10", "3 10")  # makes no environment
    folder = tmp_path / "petals"
    for _ in range(2):
        with pytest.raises((Missing, OSError)):
            environment.install(folder, python)
        (folder / "venv").mkdir()

    assert (folder / environment.OURS).exists()


def test_all_versions_are_pinned_once_and_nothing_else_is_installed():
    lines = environment.REQUIREMENTS.read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]

    assert all(len(pin) == 2 for pin in pins)
    assert len({name.lower() for name, _ in pins}) == len(pins)
    assert ["petals", "2.2.0.post1"] in pins


# --- Programs ------------------------------------------------------------------------------------

ECHO = f"""
import os, subprocess, sys
sys.path.insert(0, {str(PROGRAMS)!r})
import worker
lines = worker.own_output()
print("noise of a library")
child = subprocess.Popen(["sleep", "600"])

def answers(prompts, n):
    heard = worker.Heard()
    for _ in range(1 + n):
        heard.put(None)
    return [heard.answer([child.pid] * n) for _ in prompts]

worker.serve(answers, lines)
if sys.argv[1] == "tidy":
    worker.end_others()
"""


@pytest.fixture
def echo(tmp_path):
    script = tmp_path / "echo.py"
    script.write_text(textwrap.dedent(ECHO))
    return script


@pytest.mark.parametrize(("habit", "n_left"), [("tidy", 0), ("untidy", 1)])
async def test_a_program_answers_ends_with_its_input_and_leaves_nothing(
    echo, tmp_path, habit, n_left
):
    log = tmp_path / "echo.log"
    async with running(log, sys.executable, str(echo), habit) as program:
        assert await program.line(60) == {"ready": True}
        first, second = await program.answers([[1], [2]], 3)
        group = program.process.pid

    assert len(first.ids) == len(second.ids) == 3
    assert first.first_token_s >= 0
    assert "noise" in log.read_text()
    assert program.n_left == n_left  # what it left is told, and ended
    assert not members(group)


async def test_a_program_that_ends_by_itself_is_an_error_with_its_log(tmp_path):
    async with running(tmp_path / "gone.log", sys.executable, "-c", "pass") as program:
        with pytest.raises(Failed, match=r"gone\.log"):
            await program.answers([[1]], 1)


def test_the_command_refuses_without_petals_and_without_a_traceback(tmp_path):
    command = [sys.executable, "-m", "benchmarks.petals", "--folder", str(tmp_path)]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=PROGRAMS.parents[2], check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-2].startswith("error: Petals is not installed in")
    assert ended.stderr.splitlines()[-1].startswith("fix: python -m benchmarks.petals install")
