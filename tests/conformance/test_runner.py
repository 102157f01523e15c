"""The runner itself, without any client: what it needs is there, and what it writes is kept."""

import json
import re

import pytest

from tests.conformance import report
from tests.conformance.trials import TRIALS
from tests.recipes import RECIPES


@pytest.mark.parametrize("trial", TRIALS.values(), ids=TRIALS)
def test_a_trial_has_its_program_and_pins_what_it_needs(trial):
    wanted = trial.requirements.read_text()

    assert trial.program.exists()
    if trial.is_node:
        (pinned,) = re.findall(rf'"{trial.package}": "(\d+\.\d+\.\d+)"', wanted)
        locked = json.loads(trial.lock.read_text())["packages"][f"node_modules/{trial.package}"]
        assert locked["version"] == pinned
    else:
        assert all("==" in line for line in wanted.splitlines())
    assert all((RECIPES / f"{page}.md").exists() for page in trial.recipes)


def test_a_row_says_what_failed_and_why():
    told = [{"what": "chat", "why": ""}, {"what": "stream", "why": "it | broke\noff"}]

    assert str(report.row("x", "1", told)) == "| x | 1 | chat, stream | stream: it / broke off |"
    assert report.row("x", "1", told[:1]).result == "passed"
    assert report.row("x", "1", []).result == "its program checked nothing"


def test_rows_of_clients_that_were_not_run_stay(tmp_path):
    page = tmp_path / "page.md"

    report.write([report.Row("b", "1", "chat", "passed")], ["a", "b"], page)
    report.write([report.Row("a", "2", "chat", "passed")], ["a", "b"], page)
    report.write([report.Row("b", "3", "chat", "passed")], ["a", "b"], page)

    rows = [line for line in page.read_text().splitlines() if re.match(r"\| [ab] ", line)]
    assert rows == ["| a | 2 | chat | passed |", "| b | 3 | chat | passed |"]


def test_what_could_not_be_tried_leaves_what_was_known(tmp_path):
    page = tmp_path / "page.md"
    not_tried = [report.Row(name, "", "", "not tried: no npm", is_tried=False) for name in "ab"]

    report.write([report.Row("a", "1", "chat", "passed")], ["a", "b"], page)
    report.write(not_tried, ["a", "b"], page)

    rows = [line for line in page.read_text().splitlines() if re.match(r"\| [ab] ", line)]
    assert rows == ["| a | 1 | chat | passed |", "| b |  |  | not tried: no npm |"]
