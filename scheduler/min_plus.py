"""Cheapest ways through a row of matrices: products in the (min, +) algebra, kept as a tree.

In: matrices of costs, each from the places of one stage to those of the next. Out: the cheapest
cost from every place of the first stage to every one of the last, and the places in between for a
pair of them (Cuninghame-Green, Minimax Algebra, 1979; matrices multiply in any grouping, so
neighbours are multiplied all at once, level by level). Infinity: no way.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]

AT_ONCE = 1 << 17  # sums: what a processor's cache holds


class Product:
    """The product of `factors`, [n, width, width]; of none, the unit."""

    def __init__(self, factors: Numbers) -> None:
        width = factors.shape[2]
        self._levels = [factors]
        while len(self._levels[-1]) > 1:
            self._levels.append(_halved(self._levels[-1]))
        if len(factors):
            self.cost: Numbers = self._levels[-1][0]
        else:
            self.cost = np.where(np.eye(width, dtype=bool), 0, np.inf).astype(np.float32)

    def way(self, first: int, last: int) -> list[int]:
        """The places of every stage on the cheapest way from `first` to `last`."""
        if not len(self._levels[0]):
            return [first]
        places = np.array([first, last])
        for level in self._levels[-2::-1]:
            n = len(level) // 2
            pair = np.arange(n)
            left, right = level[2 * pair, places[:n]], level[2 * pair + 1, :, places[1 : n + 1]]
            finer = np.empty(len(level) + 1, places.dtype)
            finer[0 : 2 * n + 1 : 2] = places[: n + 1]
            finer[1 : 2 * n : 2] = (left + right).argmin(axis=1)
            finer[2 * n :] = places[n:]
            places = finer
        return [int(place) for place in places]


def _halved(factors: Numbers) -> Numbers:
    """Each pair of neighbours multiplied; a last one without a neighbour stays."""
    n, width = len(factors) // 2, factors.shape[2]
    left, right = factors[: 2 * n : 2], factors[1 : 2 * n : 2]
    size = max(1, AT_ONCE // width**3)
    runs = [slice(start, min(n, start + size)) for start in range(0, n, size)]
    return np.concatenate([*(_times(left[run], right[run]) for run in runs), factors[2 * n :]])


def _times(left: Numbers, right: Numbers) -> Numbers:
    """[n, from, to] each; both are laid out in full, so that long runs of numbers are added."""
    n, width = left.shape[:2]
    sums = np.repeat(left.transpose(2, 0, 1), width, axis=2)  # [through, n, from * to]
    sums += np.tile(right.transpose(1, 0, 2), (1, 1, width))
    product: Numbers = sums.min(axis=0).reshape(n, width, width)
    return product
