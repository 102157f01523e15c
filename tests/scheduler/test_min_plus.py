"""Cheapest ways through matrices: the tree of products finds what trying all ways finds."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scheduler.min_plus import Product

COSTS = st.one_of(st.integers(0, 9).map(float), st.just(np.inf))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 3))
def test_the_product_and_its_ways_are_the_cheapest_of_all(data, n, width):
    factors = data.draw(arrays(np.float32, (n, width, width), elements=COSTS))
    found = Product(factors)

    for first, last in product(range(width), repeat=2):
        between = product(range(width), repeat=max(0, n - 1))
        ways = [(first, *middle, last) for middle in between] if n else []
        costs = [_cost(factors, way) for way in ways] or [0.0 if first == last else np.inf]

        assert found.cost[first, last] == pytest.approx(min(costs))
        if n and min(costs) < np.inf:
            way = found.way(first, last)
            assert (way[0], way[-1], len(way)) == (first, last, n + 1)
            assert _cost(factors, way) == pytest.approx(min(costs))


def _cost(factors, way):
    return sum(float(factors[i][one][other]) for i, (one, other) in enumerate(pairwise(way)))
