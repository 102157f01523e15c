"""docs/models.md says what is true: each of its rows can be found out again."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import FAMILIES, SEEING

ROOT = Path(__file__).parent.parent


def check(*families: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "scripts/models_table.py", "--check", *families]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_family_of_the_tests_has_its_row() -> None:
    rows = (ROOT / "docs" / "models.md").read_text().splitlines()

    for family in (*FAMILIES, *(f"{family}, the text part" for family in SEEING)):
        assert any(row.startswith(f"| {family} |") for row in rows), family


def test_no_row_says_that_something_is_wrong() -> None:
    page = (ROOT / "docs" / "models.md").read_text()

    for complaint in ("NO |", "NO EFFECT", "NO NUMBERS", "WRONG", "NOT REFUSED"):
        assert complaint not in page


@pytest.mark.slow
def test_a_row_is_found_out_again() -> None:
    run = check("falcon_alibi")

    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_all_rows_are_found_out_again() -> None:
    run = check()

    assert run.returncode == 0, run.stderr
