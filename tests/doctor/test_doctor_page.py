"""The page that explains the doctor's ids has all of them, in its order and words."""

import re
from pathlib import Path

from manyhands.doctor.registry import CHECKS

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def test_the_table_of_ids_is_the_registry():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+?) \|", PAGE, re.MULTILINE)

    told = [(name, words.replace("`", "")) for name, words in rows]
    assert told == [(check.id, check.looks_at) for check in CHECKS]
