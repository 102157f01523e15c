"""What one turn of one variant gave, what all of them come to, and whether goals hold.

The plain form of a row (`Row.to_json`) is that of every system in `benchmarks/`: whoever measures
another one writes `{"schema": "manyhands/linklab/v1", "scenario": NAME, "rows": [...]}` with the
same keys, and `--beside FILE` lays its rows beside ours.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmarks.linklab.scenario import MANYHANDS, Goal, Scenario, Variant
from benchmarks.oracle_node import is_right

SCHEMA = "manyhands/linklab/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One turn. Times are medians over its sessions; of hops, their last step.

    system: manyhands, transformers, petals, … sessions: at once. tokens: of each session.
    tokens_per_s: of all sessions together, from the first token out to the last.
    compute_ms: of all hops for one token. busiest_ms: of the slowest hop. bytes_between: of peers,
    with headers, for all of the turn; bytes_client: to and from the client. 0: not known.
    late_ms: how much longer links between peers took than asked, in the mean: the lab's own error.
    same_tokens: as the other lossless variants with these prompts; None: nothing to compare.
    """

    scenario: str
    variant: str
    system: str = MANYHANDS
    round: int = 0
    sessions: int = 1
    prompt_tokens: int = 0
    tokens: int = 0
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    tokens_per_s: float = 0.0
    compute_ms: float = 0.0
    busiest_ms: float = 0.0
    bytes_between: int = 0
    bytes_client: int = 0
    packets_lost: int = 0
    late_ms: float = 0.0
    failovers: int = 0
    pause_ms: float = 0.0  # the longest of any session
    same_tokens: bool | None = None
    load: float = 0.0  # of the machine, at the end of the turn

    @property
    def speed(self) -> float:
        """Tokens/s of one session behind its first."""
        return 1000 / self.tpot_ms if self.tpot_ms else 0.0

    @property
    def bytes_per_token(self) -> float:
        """Between peers, for each token that was run or drawn."""
        n_tokens = self.sessions * (self.prompt_tokens + self.tokens)
        return self.bytes_between / n_tokens if n_tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> "Row":
        """Of whoever wrote it; keys that we do not know are left out.

        Raises:
            TypeError: scenario or variant is missing.
        """
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in names})


def median(rows: Sequence[Row], measure: str) -> float:
    told = telling(rows, measure)
    return statistics.median(getattr(row, measure) for row in told) if told else 0.0


def telling(rows: Sequence[Row], measure: str) -> list[Row]:
    """Those that say something of it: no turn tells of pauses whose faults met no answer."""
    return [row for row in rows if measure != "pause_ms" or row.failovers]


def of(rows: Sequence[Row], variant: str) -> list[Row]:
    return [row for row in rows if row.variant == variant]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and what was measured of it; None: nothing was."""

    goal: Goal
    value: float | None

    @property
    def holds(self) -> bool | None:
        return None if self.value is None else self.goal.holds(self.value)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.goal.name, "goal": str(self.goal), "value": self.value} | {
            "holds": self.holds
        }


def judged(scenario: Scenario, rows: Sequence[Row]) -> list[Verdict]:
    return [Verdict(goal, _value(scenario, goal, rows)) for goal in scenario.goals]


def _value(scenario: Scenario, goal: Goal, rows: Sequence[Row]) -> float | None:
    """Of each round by itself, then the median: a busy moment slows both sides of it."""
    ours = telling(of(rows, goal.of), goal.measure)
    if not ours:
        return None
    if not goal.beside:
        return median(ours, goal.measure)
    variant = next(each for each in scenario.variants if each.name == goal.of)
    if goal.beside == "floor":
        floor_ms = floor(scenario, variant, ours)
        return median(ours, "tpot_ms") / floor_ms if floor_ms else None
    ratios = []
    for row in ours:
        others = of(rows, goal.plain or goal.beside)
        beside = [other for other in others if other.round == row.round] or others
        if not beside:
            continue
        if goal.beside == "bound":
            ratios.append(bound_ms(variant, beside[0]) / row.tpot_ms)
        elif theirs := median(beside, goal.measure):
            ratios.append(getattr(row, goal.measure) / theirs)
    return statistics.median(ratios) if ratios else None


def floor(scenario: Scenario, variant: Variant, rows: Sequence[Row]) -> float:
    """What a token takes at least, in ms: the links of the ring, as long as they really were, and
    what its hops computed.
    """
    n_links = len(scenario.peers)
    links_ms = variant.distances.ring_ms(n_links) + n_links * median(rows, "late_ms")
    return links_ms + median(rows, "compute_ms")


def bound_ms(variant: Variant, plain: Row) -> float:
    """Per token, that no drafter of this acceptance can pass (docs/speed.md)."""
    share = acceptance(variant)
    return (1 - share) * plain.tpot_ms + share * plain.busiest_ms


def acceptance(variant: Variant) -> float:
    """How many of an oracle's guesses came out right over this answer; 0: of no oracle."""
    asked = variant.workload
    if asked.oracle is None:
        return 0.0
    places = range(asked.prompt_tokens, asked.prompt_tokens + asked.tokens)
    return sum(is_right(place, asked.oracle) for place in places) / asked.tokens
