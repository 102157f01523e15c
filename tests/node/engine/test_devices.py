"""Blocks go where there is room, and a span over several devices computes what it did on one."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from node.engine import ShardEngine, StepItem, load_shard
from node.engine.devices import lay_out
from protocol.errors import OutOfMemory


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.lists(st.integers(0, 30), min_size=1, max_size=3),
)
def test_blocks_are_laid_out_in_runs_that_leave_the_most_where_there_is_least(
    block_bytes: list[int], free: list[int]
) -> None:
    layouts = [
        (min(left), places)
        for places in _all_runs(len(block_bytes), len(free))
        if min(left := _left(block_bytes, free, places)) >= 0
    ]
    if not layouts:
        with pytest.raises(OutOfMemory, match="do not fit on devices"):
            lay_out(block_bytes, free)
        return

    places = lay_out(block_bytes, free)

    assert places == sorted(places)
    assert min(_left(block_bytes, free, places)) == max(layouts)[0]


def _all_runs(n_blocks: int, n_devices: int, first: int = 0) -> list[list[int]]:
    if not n_blocks:
        return [[]]
    return [
        [device, *rest]
        for device in range(first, n_devices)
        for rest in _all_runs(n_blocks - 1, n_devices, device)
    ]


def _left(block_bytes: list[int], free: list[int], places: list[int]) -> list[int]:
    """On each device that has blocks."""
    used = dict.fromkeys(places, 0)
    for n_bytes, device in zip(block_bytes, places, strict=True):
        used[device] += n_bytes
    return [free[device] - n_bytes for device, n_bytes in used.items()]


@pytest.mark.parametrize("family", ["llama", "gpt2"])  # blocks alone, and the family's forward
def test_a_span_over_two_devices_is_the_same_model(checkpoint: Any, family: str) -> None:
    """Both are this machine's CPU: what moves rows and lays out blocks runs all the same."""
    directory = checkpoint(family)
    one = load_shard(directory, None, dtype="float32")
    two = load_shard(directory, None, dtype="float32", device="cpu,cpu")

    results = [_two_steps(engine) for engine in (one, two)]

    assert two.forward_kind == one.forward_kind
    assert torch.equal(*results)


def _two_steps(engine: ShardEngine) -> torch.Tensor:
    lease = engine.open(16)
    logits = []
    for start, ids in ((0, [5, 6, 7, 8]), (4, [9])):
        result = engine.step([StepItem(lease, start, torch.tensor(ids), len(ids))])[0]
        assert result.logits is not None
        logits.append(result.logits)
    return torch.cat(logits)
