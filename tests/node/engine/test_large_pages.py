"""Weights move to large pages and stay what they were."""

import torch
from torch import nn

from node.engine.large_pages import LARGE, into_large_pages


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 640)
        self.middle = nn.Linear(640, 640, dtype=torch.bfloat16)
        self.head = nn.Linear(640, 1000, bias=False)
        self.head.weight = self.embed.weight
        self.other = nn.Linear(3, 5)
        self.other.weight.data = torch.randn(3, 5).T  # not contiguous: stays where it is


def test_values_shapes_and_ties_stay():
    model = Tied()
    before = {name: p.clone() for name, p in model.state_dict().items()}

    into_large_pages(model)

    for name, parameter in model.state_dict().items():
        assert torch.equal(parameter, before[name])
        assert parameter.dtype == before[name].dtype
    assert model.head.weight.data_ptr() == model.embed.weight.data_ptr()
    assert model.embed.weight.data_ptr() % 64 == 0


def test_the_stretch_begins_where_a_large_page_does_and_small_models_stay():
    large, small = nn.Linear(1024, 1024), nn.Linear(8, 8)
    was = small.weight.data_ptr()

    into_large_pages(large)
    into_large_pages(small)

    assert large.weight.data_ptr() % LARGE == 0
    assert small.weight.data_ptr() == was
