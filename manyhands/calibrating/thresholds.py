"""From honest distances to thresholds: above all that were seen, and above what chance would bring.

In: distances of honest windows. Out: thresholds. The quantile of false rejects that is wanted is
beyond what so few windows show. The excess over a high quantile is about exponential (Pickands
1975: a bound for the lighter tails that bounded errors have), so the tail is drawn on from there;
never below the largest that was seen. Above it comes a margin for what this machine could not try:
other processors and other libraries.
"""

from collections.abc import Sequence
from math import log
from statistics import fmean

import numpy as np

from protocol.fingerprint import Distance
from protocol.fp_profile import Thresholds

FALSE_REJECTS = 1e-6  # of honest windows
MARGIN = 1.25
TAIL = 0.1  # of the windows: those by which the rest of the tail is drawn on
LEAST = 1e-4
"""No threshold is below: float32 rounds alike on one machine, and otherwise on another."""

LEAST_DRAWN = 1e-3  # in logits


def set_thresholds(distances: Sequence[Distance]) -> tuple[Thresholds, Thresholds]:
    """(thresholds, the largest that were seen) of windows from one depth."""
    told = {
        name: [getattr(distance, name) for distance in distances]
        for name in ("mean", "median", "worst")
    }
    seen = {name: max(values) for name, values in told.items()}
    set_to = {name: max(LEAST, MARGIN * quantile(values)) for name, values in told.items()}
    return Thresholds(**set_to), Thresholds(**seen)


def set_drawn(shortfalls: Sequence[float]) -> float:
    """By how much honest draws may fall short: of near-ties, which are few."""
    return max(LEAST_DRAWN, MARGIN * quantile(shortfalls or [0.0]))


def quantile(values: Sequence[float], share: float = FALSE_REJECTS) -> float:
    """What at most this share of honest values exceeds; 0 where none differs at all."""
    n_above = sum(1 for value in values if value > 0)
    if not n_above:
        return 0.0
    tail = min(TAIL, n_above / len(values))
    begin = float(np.quantile(values, 1 - tail))
    excess = fmean([value - begin for value in values if value >= max(begin, 1e-300)])
    return max(max(values), begin + excess * log(tail / share))
