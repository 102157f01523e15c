"""What was measured, as figures: medians, ratios, goals, a table, JSON, a picture.

In: answers with the times of their tokens, round by round. Out: for each case and side the median,
and how ours stands to Petals, as the median of the rounds' ratios: the sides of a round are
minutes apart at most, so that a busy machine slows both alike.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.drawing import bars
from benchmarks.petals.asked import Answer, Failed

PLAIN, PETALS, EACH, OURS = "transformers", "Petals", "Petals, a client each", "Manyhands"
SIDES = (PLAIN, PETALS, EACH, OURS)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is measured. goal: of ours, as a multiple of Petals'."""

    name: str
    unit: str
    goal: float
    higher_is_better: bool = True

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.goal if self.higher_is_better else ratio <= self.goal

    @property
    def goal_text(self) -> str:
        return f"{'>=' if self.higher_is_better else '<='} {self.goal:g}"


ONE = Case("one session", "tokens/s", 2.0)
EIGHT = Case("8 sessions at once", "tokens/s", 4.0)
FIRST = Case("first token of 512 ids", "ms", 0.7, higher_is_better=False)
CASES = (ONE, EIGHT, FIRST)


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """Of all together, while all of them decode: from the last one's first token to the first
    one's last.

    Raises:
        Failed: they never did.
    """
    begin_s = max(answer.at_s[0] for answer in answers)
    end_s = min(answer.at_s[-1] for answer in answers)
    if end_s <= begin_s:
        raise Failed("the sessions were never all under way at once: ask for more tokens")
    came = sum(begin_s < at_s <= end_s for answer in answers for at_s in answer.at_s)
    return came / (end_s - begin_s)


def figure(case: Case, answers: Sequence[Answer]) -> float:
    """What `case` tells of these."""
    return 1000 * answers[0].first_token_s if case is FIRST else tokens_per_s(answers)


@dataclass(slots=True)
class Scenario:
    """All rounds over the same links. values[case][side]: of each round.

    has_goals: whether ours are measured against those of `CASES` here.
    waits_ms: like `values`, for first tokens of every case; the median where there are many.
    """

    name: str
    links: str
    has_goals: bool = True
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    waits_ms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)  # where tokens were not those of the others
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, case: Case, round_no: int, told: Mapping[str, Sequence[Answer]]) -> None:
        """One round of one case, of all sides. Tokens are compared with the first side's."""
        reference, *others = told
        wanted = [answer.ids for answer in told[reference]]
        for side in others:
            if [answer.ids for answer in told[side]] != wanted:
                self.differing.append(f"{case.name}, round {round_no}: {side}, not {reference}")
        for side, answers in told.items():
            wait_s = statistics.median(answer.first_token_s for answer in answers)
            for kept, value in (
                (self.values, figure(case, answers)),
                (self.waits_ms, 1000 * wait_s),
            ):
                kept.setdefault(case.name, {}).setdefault(side, []).append(value)

    def median(self, case: Case, side: str) -> float | None:
        values = self.values.get(case.name, {}).get(side)
        return statistics.median(values) if values else None

    def rival(self, case: Case) -> str:
        """Whichever way to use Petals is the faster one here."""
        ways = [(self.median(case, way), way) for way in (PETALS, EACH)]
        known = [(value, way) for value, way in ways if value is not None]
        return (max if case.higher_is_better else min)(known)[1]

    def ratio(self, case: Case) -> float:
        """Ours to the better Petals: the median of the rounds' ratios."""
        values = self.values[case.name]
        pairs = zip(values[OURS], values[self.rival(case)], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    @property
    def cases(self) -> list[Case]:
        return [case for case in CASES if case.name in self.values]

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.name,
            "links": self.links,
            "tokens_equal": not self.differing,
            "differing": self.differing,
            "cases": [
                {
                    "case": case.name,
                    "unit": case.unit,
                    "medians": {side: self.median(case, side) for side in SIDES},
                    "rounds": self.values[case.name],
                    "ratio": self.ratio(case),
                    "against": self.rival(case),
                    "goal": case.goal_text if self.has_goals else None,
                    "met": case.is_met(self.ratio(case)) if self.has_goals else None,
                    "first_token_ms": self.waits_ms[case.name],
                }
                for case in self.cases
            ],
            **self.facts,
        }

    def rows(self) -> list[list[str]]:
        """Of the table, under `HEADING`."""
        rows = []
        for case in self.cases:
            medians = [self.median(case, side) for side in SIDES]
            ratio = self.ratio(case)
            is_met = "yes" if case.is_met(ratio) else "no"
            goal = [case.goal_text, is_met] if self.has_goals else ["", ""]
            name = f"{case.name}, {case.unit}"
            rows.append([name, *map(_number, medians), f"{ratio:.2f}", *goal])
            if case is ONE:
                each_ms = [1000 / speed if speed else None for speed in medians]
                row = ["the same, ms/token", *map(_number, each_ms), f"{1 / ratio:.2f}", "", ""]
                rows.append(row)
        return rows


HEADING = ("", *SIDES, "Manyhands / Petals", "goal", "met")


def picture(scenario: Scenario) -> str:
    """Tokens per second as SVG; of Petals' ways the faster one."""
    groups = {}
    for case in scenario.cases:
        if case.higher_is_better:
            sides = {PLAIN: PLAIN, PETALS: scenario.rival(case), OURS: OURS}
            medians = {name: scenario.median(case, side) for name, side in sides.items()}
            groups[case.name] = {name: value or 0.0 for name, value in medians.items()}
    return bars(f"Four peers, {scenario.links}", "tokens per second", groups, digits=1)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
