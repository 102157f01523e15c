"""A node that knows the answer beforehand, to measure what guessing is worth: for benchmarks only.

In: `manyhands` commands, and in ORACLE the path of a file with a sequence of ids. Out: the same
node, with drafters called `oracle-0.75` and so on beside its own: each of their guesses is right
with that probability, whatever the model. No real drafter is that regular, and none is this wise.
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from node.drafting import DRAFTERS

PERCENTS = range(0, 101, 5)


class Oracle:
    """A `protocol.actions.Drafter`. What it says of a position does not change."""

    def __init__(self, acceptance: float) -> None:
        self._acceptance = acceptance
        self._truth: list[int] = json.loads(Path(os.environ["ORACLE"]).read_text())

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        start = len(ids)
        return [
            true if is_right(position, self._acceptance) else true ^ 1
            for position, true in enumerate(self._truth[start : start + most], start)
        ]


def is_right(position: int, acceptance: float) -> bool:
    return random.Random(position).random() < acceptance


def name_of(acceptance: float) -> str:
    return f"oracle-{acceptance:g}"


if __name__ == "__main__":
    from manyhands.cli import main

    for percent in PERCENTS:
        DRAFTERS[name_of(percent / 100)] = partial(Oracle, percent / 100)
    main()
