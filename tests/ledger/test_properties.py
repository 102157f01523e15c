"""The list of what the ledger must keep to, and the tests that say which of it they are about."""

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMED = re.compile(r"def test_(\d+)(?:_and_(\d+))?_[a-z]")
LISTED = re.compile(r"^(\d+)\. ", re.MULTILINE)


def test_every_law_and_attack_of_the_list_has_a_test_that_bears_its_number():
    listed = [int(number) for number in LISTED.findall((HERE / "properties.md").read_text())]
    sources = (path.read_text() for path in HERE.parent.rglob("test_*.py"))
    named = {int(each) for text in sources for pair in NAMED.findall(text) for each in pair if each}

    assert listed == [*range(1, len(listed) + 1)]
    assert named == {*listed}
