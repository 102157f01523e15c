"""Two endpoints, a hundred prompts, and what can be worked out by hand."""

import asyncio
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manyhands.comparing.cases import read_cases
from manyhands.comparing.command import compare
from protocol.errors import UsageError
from tests.comparing.endpoints import Answerer, endpoint

N, FEW = 100, 20


def prompts(tmp_path: Path, line: Callable[[int], dict[str, Any]], n_lines: int = FEW) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line(n)) + "\n" for n in range(n_lines)))
    return path


def question(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def knows(n_right: int) -> Answerer:
    """Answers the first so many rightly: what was asked, and `wrong` to all after."""
    return lambda body: question(body) if int(question(body)) < n_right else "wrong"


def run(one: Answerer, other: Answerer, path: Path, *flags: str) -> Result:
    """The command against two endpoints, each on a loop of its own."""

    async def both() -> Result:
        async with endpoint(one) as a, endpoint(other) as b:
            given = [f"m1@{a}", f"m2@{b}", "--prompts", str(path), *flags]
            return await asyncio.to_thread(CliRunner().invoke, compare, given)

    return asyncio.run(both())


def viewed(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    view: dict[str, Any] = json.loads(result.stdout)
    return view


def test_a_hundred_prompts_give_the_win_rate_and_the_cost_to_the_cent(tmp_path: Path) -> None:
    path = prompts(tmp_path, lambda n: {"id": f"q{n}", "prompt": str(n), "expect": str(n)}, N)
    prices = ("--price-a", "10/20", "--price-b", "0/0", "--at-once", "8", "--json")
    view = viewed(run(knows(90), knows(60), path, *prices))
    a, b = view["sides"]
    assert (a["right"]["value"], b["right"]["value"]) == (0.9, 0.6)
    assert view["quality"]["a_better"] == 30
    assert view["quality"]["b_better"] == 0
    assert view["quality"]["by_chance"] < 0.001
    # 100 prompts of 100 tokens at 10; 10 digits, 80 pairs of digits and 10 times "wrong" at 20.
    assert a["cost"] == str((100 * 100 * 10 + (10 + 160 + 50) * 20) / 1e6)
    assert b["cost"] == "0"
    assert a["total_ms_p50"]["low"] <= a["total_ms_p50"]["value"] <= a["total_ms_p95"]["high"]


def test_what_ends_a_line_to_python_alone_ends_no_answer(tmp_path: Path) -> None:
    said = "one\u2028two\u2029three\x85four"
    path = prompts(tmp_path, lambda n: {"id": f"q{n}", "prompt": str(n), "expect": said}, 2)

    a, b = viewed(run(lambda _: said, lambda _: said, path, "--json"))["sides"]

    assert (a["right"]["value"], b["right"]["value"]) == (1, 1)


def test_the_same_answers_and_seed_give_the_same_report(tmp_path: Path) -> None:
    path = prompts(tmp_path, lambda n: {"id": f"q{n}", "prompt": str(n), "regex": f"^{n}$"})
    first = tmp_path / "first.json"
    run(knows(15), knows(9), path, "--out", str(first), "--seed", "5")
    flags = ("m1", "m2", "--prompts", str(path), "--from", str(first), "--seed", "5", "--json")
    again = [CliRunner().invoke(compare, flags).stdout for _ in range(2)]
    assert again[0] == again[1]
    assert json.loads(again[0])["quality"] == json.loads(first.read_text())["quality"]


def test_reports_are_written_in_every_form_and_take_no_markup_from_models(tmp_path: Path) -> None:
    path = prompts(tmp_path, lambda n: {"id": f"=q{n}", "prompt": str(n), "expect": "<b>"})
    outs = [tmp_path / f"report.{kind}" for kind in ("md", "csv", "html", "json")]
    flags = [flag for out in outs for flag in ("--out", str(out))]
    result = run(lambda _: "<b>", lambda _: "=1+1", path, *flags)
    assert "A was better 20 times, B 0 times" in result.stdout
    page = outs[2].read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<svg" in page
    rows = list(csv.DictReader(outs[1].open()))
    assert len(rows) == 2 * FEW
    assert {row["text"] for row in rows} == {"<b>", "'=1+1"}
    assert rows[0]["id"] == "'=q0"


def test_a_schema_grades_json(tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    path = prompts(tmp_path, lambda n: {"prompt": str(n), "schema": schema})
    view = viewed(run(lambda _: '{"n": 1}', lambda _: '{"n": "1"}', path, "--json"))
    assert [side["right"]["value"] for side in view["sides"]] == [1.0, 0.0]


def test_a_judge_is_asked_both_ways_and_believed_when_it_agrees_with_itself(
    tmp_path: Path,
) -> None:
    path = prompts(tmp_path, lambda n: {"prompt": str(n)})

    def judge(body: dict[str, Any]) -> str:
        """Likes the longer answer; of the prompts from 15 on, whatever stands first."""
        asked = question(body)
        request = int(asked.split("Request:\n")[1].split("\n")[0])
        first = asked.split("Answer 1:\n")[1].split("\n")[0]
        return "1" if request >= 15 or first == "a long answer" else "2"

    async def three() -> Result:
        async with (
            endpoint(lambda _: "a long answer") as a,
            endpoint(lambda _: "short") as b,
            endpoint(judge) as j,
        ):
            given = [f"m@{a}", f"m@{b}", "--prompts", str(path), "--judge", f"j@{j}", "--json"]
            return await asyncio.to_thread(CliRunner().invoke, compare, given)

    quality = viewed(asyncio.run(three()))["quality"]
    assert (quality["graded"], quality["a_better"]) == (15, 15)


def test_people_grade_a_sheet_that_does_not_say_who_is_who(tmp_path: Path) -> None:
    path = prompts(tmp_path, lambda n: {"id": f"q{n}", "prompt": str(n)})
    sheet, report = tmp_path / "sheet.csv", tmp_path / "report.json"
    flags = ("--human", str(sheet), "--seed", "3")
    run(lambda _: "from a", lambda _: "from b", path, *flags, "--out", str(report))
    rows = list(csv.DictReader(sheet.open()))
    assert {row["answer_1"] for row in rows} == {"from a", "from b"}  # some are swapped
    for row in rows:
        row["better"] = "1" if row["answer_1"] == "from b" else "2"
    with sheet.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    result = run(knows(0), knows(0), path, *flags, "--from", str(report), "--json")
    assert viewed(result)["quality"]["b_better"] == FEW


def test_a_side_that_fails_loses_and_says_why(tmp_path: Path) -> None:
    path = prompts(tmp_path, lambda n: {"id": f"q{n}", "prompt": str(n), "expect": str(n)})
    out = tmp_path / "report.csv"

    def cut(body: dict[str, Any]) -> str | int | None:
        return None if int(question(body)) % 2 else 503

    view = viewed(run(knows(FEW), cut, path, "--json", "--out", str(out)))
    assert (view["sides"][1]["failed"], view["quality"]["a_better"]) == (FEW, FEW)
    errors = {row["error"] for row in csv.DictReader(out.open()) if row["side"] == "B"}
    assert errors == {"HTTP 503: too busy", "the stream ended without a finish reason"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"id": "a"}', "neither a prompt nor messages"),
        ('{"prompt": "a", "expect": "b", "regex": "c"}', "one of them grades"),
        ('{"prompt": "a", "regex": "("}', "does not compile"),
        ('{"prompt": "a", "schema": {"type": "robot"}}', "not a JSON schema"),
        ('{"prompt": 3}', "not a text"),
    ],
)
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + line + "\n")
    with pytest.raises(UsageError, match=f"line 2.*{why}"):
        read_cases(path)
