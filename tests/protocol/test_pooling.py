"""One vector of a prompt, whatever pieces its rows come in and however often they come again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import UsageError
from protocol.pooling import Pool


@settings(max_examples=100)
@given(st.data())
def test_a_session_that_is_cut_back_and_goes_on_gives_the_same_vector(data):
    n = data.draw(st.integers(1, 40))
    rows = np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)
    mean, last = Pool("mean", n), Pool("last", n)
    at = length = 0  # where the next piece begins; rows of pieces that were handed over

    for _ in range(data.draw(st.integers(0, 12))):
        if at < n and data.draw(st.booleans()):
            stop = data.draw(st.integers(at + 1, n))
            for pool in (mean, last):
                pool.add(at, rows[at:stop], length)
            at = stop
            length = data.draw(st.sampled_from([length, at]))  # its result may still be on its way
        else:  # the epoch was raised: as `ChainSession` cuts a last hop
            at = length = min(length, n - 1)
    while at < n or at == 0:
        for pool in (mean, last):
            pool.add(at, rows[at:], length)
        at = n

    np.testing.assert_allclose(
        np.frombuffer(mean.vector(), "<f4"), rows.mean(axis=0, dtype=np.float64), atol=1e-6
    )
    np.testing.assert_array_equal(np.frombuffer(last.vector(), "<f4"), rows[-1])


def test_rows_that_follow_on_nothing_are_refused():
    with pytest.raises(UsageError, match="before"):
        Pool("mean", 8).add(3, np.zeros((2, 4), np.float32), 0)
