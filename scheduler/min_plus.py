"""Cheapest ways through a row of matrices: products in the (min, +) algebra, kept as a tree.

In: matrices of costs, each from the places of one stage to those of the next. Out: the cheapest
cost from every place of the first stage to every one of the last, and the places in between for a
pair of them (Cuninghame-Green, Minimax Algebra, 1979; matrices multiply in any grouping, so
neighbours are multiplied all at once, level by level). Infinity: no way.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32]


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
    product = np.full((n, width, width), np.inf, np.float32)
    through = np.empty_like(product)
    for place in range(width):
        np.add(left[:, :, place, None], right[:, place, None, :], out=through)
        np.minimum(product, through, out=product)
    return np.concatenate([product, factors[2 * n :]])
