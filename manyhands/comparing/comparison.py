"""A finished comparison: what each side did on each case, and what that says of both.

Pure. In: cases, replies, grades. Out: plain values that every report is made from. The same replies
and the same seed give the same values to the last digit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from manyhands.comparing import statistics
from manyhands.comparing.cases import Case
from manyhands.comparing.grading import UNGRADED, Grade
from manyhands.comparing.side import Reply, Side

SCHEMA = "manyhands/compare/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """replies: of A and B, by the case's id. grades: those there are. dated: an ISO day."""

    sides: tuple[Side, Side]
    cases: Sequence[Case]
    replies: Mapping[str, Sequence[Reply]]
    grades: Mapping[str, Grade]
    seed: int = 0

    def view(self) -> dict[str, Any]:
        grades = [self.grades.get(case.id, UNGRADED) for case in self.cases]
        graded = [grade for grade in grades if grade.is_graded]
        won = [sum(grade.better == at for grade in graded) for at in (0, 1)]
        return {
            "schema": SCHEMA,
            "seed": self.seed,
            "prompts": len(self.cases),
            "sides": [self._side(at) for at in (0, 1)],
            "quality": {
                "graded": len(graded),
                "a_better": won[0],
                "b_better": won[1],
                "neither": len(graded) - sum(won),
                "by_chance": round(statistics.same_chance(*won), 6),
            },
            "latency_difference_ms": _told(self._difference()),
            "cases": [
                self._case(case, grade) for case, grade in zip(self.cases, grades, strict=True)
            ],
        }

    def _side(self, at: int) -> dict[str, Any]:
        side = self.sides[at]
        replies = [self.replies[case.id][at] for case in self.cases]
        good = [reply for reply in replies if not reply.error]
        ruled = [grade.right[at] for grade in self.grades.values() if grade.right is not None]
        cost = sum((side.cost(reply) for reply in good), Decimal(0))
        return {
            "name": side.name,
            "model": side.model,
            "url": side.url,
            "answered": len(good),
            "failed": len(replies) - len(good),
            "right": _told(statistics.share(sum(ruled), len(ruled)), 4),
            "total_ms_p50": _told(self._quantile([r.total_ms for r in good], 0.5)),
            "total_ms_p95": _told(self._quantile([r.total_ms for r in good], 0.95)),
            "ttft_ms_p50": _told(self._quantile([r.ttft_ms for r in good], 0.5)),
            "prompt_tokens": sum(reply.n_prompt for reply in good),
            "completion_tokens": sum(reply.n_completion for reply in good),
            "cost": _money(cost),
            "cost_per_thousand": _money(cost * 1000 / len(good)) if good else None,
        }

    def _quantile(self, values: Sequence[float], q: float) -> statistics.Estimate | None:
        return statistics.quantile(values, q, self.seed)

    def _difference(self) -> statistics.Estimate | None:
        """How much longer B takes, over the prompts that both answered."""
        pairs = [self.replies[case.id] for case in self.cases]
        both = [pair for pair in pairs if not any(reply.error for reply in pair)]
        return statistics.mean([b.total_ms - a.total_ms for a, b in both], self.seed)

    def _case(self, case: Case, grade: Grade) -> dict[str, Any]:
        return {
            "id": case.id,
            "graded": grade.is_graded,
            "better": None if grade.better is None else "AB"[grade.better],
            "right": None if grade.right is None else list(grade.right),
            "replies": [
                {
                    "text": reply.text,
                    "error": reply.error,
                    "ttft_ms": round(reply.ttft_ms, 1),
                    "total_ms": round(reply.total_ms, 1),
                    "prompt_tokens": reply.n_prompt,
                    "completion_tokens": reply.n_completion,
                    "cost": _money(side.cost(reply)),
                }
                for side, reply in zip(self.sides, self.replies[case.id], strict=True)
            ],
        }


def _told(estimate: statistics.Estimate | None, digits: int = 1) -> dict[str, float] | None:
    if estimate is None:
        return None
    return {
        "value": round(estimate.value, digits),
        "low": round(estimate.low, digits),
        "high": round(estimate.high, digits),
    }


def _money(amount: Decimal) -> str:
    """In full: whoever adds up cents must find the same sum."""
    return f"{amount.normalize() + 0:f}"
