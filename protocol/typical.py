"""What something usually takes: the one estimate that both sides of a promise use.

A node says what its steps take, a client sees what tokens take. Times have long tails, so that
means lie above medians: were one side to say the one and the other to see the other, honest nodes
would promise too much. A mean alone is a hiccup's plaything.
"""

import statistics
from collections.abc import Sequence

PARTS = 8


def typical(times: Sequence[float]) -> float:
    """The median over `PARTS` parts of neighbours, each the mean of its own (the median of means,
    Nemirovsky and Yudin 1983); of one time at least, in its unit.

    What does not fill a part at the end is left out.
    """
    size = max(1, len(times) // PARTS)
    starts = range(0, len(times) - size + 1, size)
    return statistics.median(statistics.fmean(times[at : at + size]) for at in starts)
