"""How sure a difference is. Pure; everything random comes from a seed.

Wilson's interval for shares (Wilson 1927), the percentile bootstrap for quantiles and differences
(Efron 1979), McNemar's exact test for pairs (McNemar 1947).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
RESAMPLES = 2000
MAX_CELLS = 2_000_000  # of a table of resamples: 16 MB
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, and where it lies with a confidence of 95 %."""

    value: float
    low: float
    high: float


def share(n_right: int, n: int) -> Estimate | None:
    """n_right of n; None of none."""
    if n == 0:
        return None
    p, z2 = n_right / n, Z95 * Z95
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low = 0.0 if n_right == 0 else max(0.0, middle - half)
    high = 1.0 if n_right == n else min(1.0, middle + half)
    return Estimate(p, low, high)


def quantile(values: Sequence[float], q: float, seed: int) -> Estimate | None:
    return _bootstrap(np.asarray(values, float), lambda x: np.quantile(x, q, axis=-1), seed)


def mean(values: Sequence[float], seed: int) -> Estimate | None:
    return _bootstrap(np.asarray(values, float), lambda x: x.mean(axis=-1), seed)


def same_chance(n_a: int, n_b: int) -> float:
    """How likely a split as uneven as this is, where only one of a pair won, by chance alone."""
    n, least = n_a + n_b, min(n_a, n_b)
    if n == 0:
        return 1.0
    # In logarithms: 2 ** n has no float for the largest comparisons.
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _bootstrap(values: Values, of: Callable[[Values], Values], seed: int) -> Estimate | None:
    if values.size == 0:
        return None
    rng = np.random.default_rng(seed)
    at_once = max(1, MAX_CELLS // values.size)
    drawn = np.concatenate(
        [
            of(values[rng.integers(values.size, size=(n, values.size))])
            for n in _portions(RESAMPLES, at_once)
        ]
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(of(values)), float(low), float(high))


def _portions(n: int, most: int) -> list[int]:
    return [min(most, n - at) for at in range(0, n, most)]
