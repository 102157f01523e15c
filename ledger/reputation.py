"""How far an account's work is to be trusted, by what looks at it found.

A Beta distribution of matches and mismatches, per account, model and execution profile, of which
the lower 5 % bound counts: little evidence is little trust. Evidence halves in 14 days. Nothing is
inherited: neither by a new account, nor by another model or profile of the same one. Volume alone
counts for nothing, since only looks are counted.
"""

import math
from dataclasses import dataclass
from typing import Self

HALF_LIFE_S = 14 * 86_400.0
LOWER = 0.05
STEPS = 60  # halvings of [0, 1]: more than a double has bits


@dataclass(frozen=True, slots=True)
class Standing:
    """What looks found, as of `at_s` (wall clock, seconds)."""

    passed: float = 0.0
    failed: float = 0.0
    at_s: float = 0.0

    def aged(self, now_s: float) -> Self:
        keep = 0.5 ** (max(0.0, now_s - self.at_s) / HALF_LIFE_S)
        return type(self)(self.passed * keep, self.failed * keep, max(now_s, self.at_s))

    def after(self, is_match: bool, at_s: float) -> Self:
        """With one more look. One that is older than what is known has aged meanwhile."""
        late = 0.5 ** (max(0.0, self.at_s - at_s) / HALF_LIFE_S)
        then = self.aged(at_s)
        good = (late, 0.0) if is_match else (0.0, late)
        return type(self)(then.passed + good[0], then.failed + good[1], then.at_s)

    @property
    def reputation(self) -> float:
        """The share of good work of which one can be sure but for 5 %; 0.05 of whom nobody saw."""
        return beta_quantile(LOWER, 1.0 + self.passed, 1.0 + self.failed)


UNSEEN = Standing()


def beta_quantile(share: float, a: float, b: float) -> float:
    """Where the Beta(a, b) distribution has `share` of its weight below, by halving."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if beta_below(middle, a, b) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def beta_below(x: float, a: float, b: float) -> float:
    """The weight of Beta(a, b) below x: the regularised incomplete beta function.

    By its continued fraction (NIST DLMF 8.17.22), from whichever side it converges faster.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x > 0.0)
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_below(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log1p(-x)) / a
    return front * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """By Lentz's method; many looks need many terms."""
    tiny = 1e-300
    top, bottom = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1) or tiny)
    value = bottom
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            bottom = 1.0 / (1.0 + factor * bottom or tiny)
            top = 1.0 + factor / top or tiny
            value *= top * bottom
        if abs(top * bottom - 1.0) < 1e-12:
            break
    return value
