"""Prepacked linear layers give what plain ones give, and a row the same in any company."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from node.engine.prepacked import LEAST_ROWS, PrepackedLinear, padded_rows, plain_weights, prepack

pytestmark = pytest.mark.skipif(
    prepack(nn.Sequential(nn.Linear(64, 64))) == 0, reason="this processor has no such kernels"
)


class Own(nn.Linear):
    """A family's own kind."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 80)
        self.middle = nn.Linear(80, 96)
        self.own, self.small = Own(96, 80), nn.Linear(4, 4)
        self.head = nn.Linear(80, 100, bias=False)
        self.head.weight = self.embed.weight


def test_plain_layers_are_replaced_and_ties_small_ones_and_other_kinds_stay():
    model = Model()
    weight, bias = model.middle.weight.detach().clone(), model.middle.bias

    assert prepack(model) == 1

    assert isinstance(model.middle, PrepackedLinear)
    assert type(model.own) is Own
    assert type(model.small) is nn.Linear
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.middle.weight, weight)
    assert model.middle.bias is bias
    assert "middle.weight" in dict(plain_weights(model))
    assert prepack(model) == 0


def test_rows_are_filled_up_to_few_numbers_so_that_code_is_made_for_few():
    sizes = {n: padded_rows(n) for n in range(1, 2049)}

    assert len(set(sizes.values())) < 40
    assert all(n <= size <= max(LEAST_ROWS, n * 4 / 3) for n, size in sizes.items())
    assert all(sizes[size] == size for size in sizes.values() if size in sizes)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(64, 300), st.integers(64, 2100)),
    n_rows=st.integers(0, 70),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_products_are_right_and_a_row_is_the_same_to_the_bit_alone_and_among_others(
    sizes, n_rows, bias, dtype, seed
):
    n_out, n_in = sizes
    torch.manual_seed(seed)
    linear = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    model = nn.Sequential(nn.Sequential(linear))
    n_packed = prepack(model)
    assert n_packed == 1 or dtype is torch.bfloat16
    x = torch.randn(n_rows, n_in, dtype=dtype)
    with torch.inference_mode():
        together, expected = model(x), linear(x)
        alone = [model(x[i : i + 1]) for i in range(n_rows)]
        pairs = [model(x[i : i + 2]) for i in range(0, n_rows, 2)]
    assert together.shape == expected.shape == (n_rows, n_out)
    assert torch.allclose(
        together.float(),
        expected.float(),
        atol=2e-2 if n_packed and dtype is torch.bfloat16 else 1e-5,
    )
    if n_packed:
        assert n_rows == 0 or torch.equal(torch.cat(alone), together)
        assert n_rows == 0 or torch.equal(torch.cat(pairs), together)


def test_leading_dimensions_are_kept():
    model = nn.Sequential(nn.Linear(64, 80))
    x = torch.randn(2, 3, 64)
    expected = model(x)
    prepack(model)
    with torch.inference_mode():
        assert model(x).shape == (2, 3, 80)
        assert torch.allclose(model(x), expected, atol=1e-5)


def test_weights_that_are_not_numbers_stay_where_they_can_be_found():
    model = nn.Sequential(nn.Linear(64, 80))
    model[0].weight.data[3, 4] = float("nan")
    assert prepack(model) == 0
    assert type(model[0]) is nn.Linear
