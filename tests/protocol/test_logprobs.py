"""Log-probabilities are the model's own, and the same wherever they are worked out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import PeerMisbehaved
from protocol.likelihoods import logprobs_of
from protocol.logprobs import FLOOR, Logprobs

rows = st.lists(st.integers(-400, 400), min_size=1, max_size=60).map(
    lambda values: np.array(values, dtype=np.float32) / 8
)


@given(rows, st.integers(0, 20), st.data())
def test_they_are_the_log_softmax_of_the_logits(logits, n_top, data):
    import torch

    token_id = data.draw(st.integers(0, len(logits) - 1))
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0).numpy()

    told = logprobs_of(logits, token_id, n_top)

    assert told.drawn == pytest.approx(expected[token_id], abs=1e-5)
    assert len(told.ids) == min(n_top, len(logits))
    assert told.values == pytest.approx(expected[list(told.ids)], abs=1e-5)


@given(rows, st.integers(1, 20))
def test_the_likeliest_come_first_and_of_equals_the_lower_id(logits, n_top):
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))

    assert list(logprobs_of(logits, 0, n_top).ids) == order[:n_top]


def test_what_the_model_holds_impossible_is_told_as_a_number_that_json_has():
    logits = np.array([1.0, -np.inf, 0.0], dtype=np.float32)

    told = logprobs_of(logits, 1, 3)

    assert told.drawn == FLOOR
    assert told.ids == (0, 2, 1)
    assert told.values[2] == FLOOR


def test_a_certain_token_has_a_log_probability_of_zero_and_never_above():
    assert logprobs_of(np.array([500.0, -500.0], dtype=np.float32), 0, 1).drawn == 0.0


@pytest.mark.parametrize("values", [(0.1,), (float("nan"),), (-1e5,)])
def test_no_others_can_be(values):
    with pytest.raises(PeerMisbehaved):
        Logprobs(-1.0, (3,), values)
