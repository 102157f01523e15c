"""Blocks with a sliding window keep what may still be read, and nobody can tell the difference."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from node.engine import Lease, ShardEngine, StepItem, load_shard
from node.engine.kv_layout import MAX_ROLLBACK, STEP_ROWS, BlockLayout, KVLayout
from node.engine.slabs import SlabLease
from protocol.errors import ContextExceeded, UsageError

WINDOW, LONG = 8, 1000
KEPT = WINDOW - 1 + MAX_ROLLBACK
IDS = torch.randint(3, 320, (LONG,), generator=torch.Generator().manual_seed(7))


class Model:
    """A checkpoint as one engine, and its logits by the library for any ids."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM

        self.whole = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.engine = load_shard(directory, None, dtype="float32")
        self.truth = self.logits(IDS)

    @torch.inference_mode()
    def logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.whole(ids[None]).logits[0]
        return logits


@pytest.fixture(scope="module", params=["mistral", "gemma2"])  # all blocks, and every other one
def model(request: pytest.FixtureRequest, checkpoint: Any) -> Model:
    sizes = {"num_hidden_layers": 2, "max_position_embeddings": 1024}
    return Model(checkpoint(request.param, **sizes))


def feed(engine: ShardEngine, lease: Lease, start: int, stop: int) -> Tensor:
    result = engine.step([StepItem(lease, start, IDS[start:stop], stop - start)])[0]
    assert result.logits is not None
    assert result.hidden.shape[0] == stop - start
    return result.logits


def same(got: Tensor, expected: Tensor) -> bool:
    return bool((got - expected).abs().max() <= 1e-5 * expected.abs().max())


def test_a_long_session_takes_less_room_and_gives_the_same_logits(model: Model) -> None:
    engine, lease = model.engine, model.engine.open(LONG)
    whole = LONG * engine.kv_bytes_per_position
    assert lease.n_bytes == engine.lease_bytes(LONG, entry=0, exit=2)
    assert lease.n_bytes < 0.75 * whole
    assert engine.open(KEPT).n_bytes == KEPT * engine.kv_bytes_per_position, "nothing to forget yet"

    edges = [0, 1, 200, 850, *range(851, 860), 990, LONG]  # 650 rows at once do not fit at once
    got = [feed(engine, lease, *edge) for edge in pairwise(edges)]

    assert same(torch.cat(got), model.truth)
    assert lease.length == LONG


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_sessions_that_go_back_as_far_as_they_may_lose_nothing(
    model: Model, data: st.DataObject
) -> None:
    engine = model.engine
    leases = [engine.open(LONG), engine.open(LONG)]
    highest = {id(lease): 0 for lease in leases}
    for _ in range(6):
        items = []
        for lease in leases:
            least = max(lease.floor, lease.length - MAX_ROLLBACK)
            start = data.draw(st.integers(least, min(lease.length, LONG - 1)))
            rows = min(data.draw(st.sampled_from([1, 50, 120, 300])), LONG - start)
            items.append(StepItem(lease, start, IDS[start : start + rows], rows))
            highest[id(lease)] = max(highest[id(lease)], start + rows)

        for item, result in zip(items, engine.step(items), strict=True):
            assert result.logits is not None
            stop = item.start + len(item.rows)
            assert same(result.logits, model.truth[item.start : stop])
            assert item.lease.length == stop
            assert item.lease.floor <= max(0, highest[id(item.lease)] - MAX_ROLLBACK)


def test_going_back_too_far_is_refused_and_beginning_again_is_not(model: Model) -> None:
    engine, lease = model.engine, model.engine.open(LONG)
    feed(engine, lease, 0, 900)
    floor = lease.floor
    assert 0 < floor <= 900 - MAX_ROLLBACK

    with pytest.raises(UsageError, match="forgotten"):
        feed(engine, lease, floor - 1, floor)
    with pytest.raises(UsageError, match="forgot"):
        lease.cut(floor - 1)

    assert lease.length == 900, "a refusal changes nothing"
    assert same(feed(engine, lease, floor, 910), model.truth[floor:910])
    assert same(feed(engine, lease, 0, 20), model.truth[:20])
    assert lease.floor == 0


def test_what_is_left_of_a_long_session_goes_on_elsewhere(model: Model) -> None:
    engine, lease = model.engine, model.engine.open(LONG)
    feed(engine, lease, 0, 950)
    other = engine.open(980)

    rows = lease.export()
    other.load(rows)
    short = engine.open(960, reuse=lease)

    assert len(rows) == 950
    assert rows.n_bytes < 950 * engine.kv_bytes_per_position
    assert same(feed(engine, other, 950, 960), model.truth[950:960])
    assert same(feed(engine, short, 940, 960), model.truth[940:960])


def test_a_prefix_is_exported_before_it_is_forgotten_or_not_at_all(model: Model) -> None:
    engine, lease, other = model.engine, model.engine.open(LONG), model.engine.open(LONG)
    pieces = []
    for start in range(0, 640, 64):
        feed(engine, lease, start, start + 64)
        pieces.append(lease.export(start, start + 64))
    with pytest.raises(UsageError, match="forgotten"):
        lease.export(0, 64)

    for piece in pieces:
        other.load(piece, piece.start)

    assert same(feed(engine, other, 640, 650), model.truth[640:650])
    with pytest.raises(ContextExceeded):
        engine.open(100).load(lease.export())


def test_blocks_of_other_shapes_have_slabs_of_their_own() -> None:
    device = torch.device("cpu")
    wide = BlockLayout(4, 16, 4, 8, None, device)
    narrow = BlockLayout(2, 16, 2, 16, 3, device)
    layout = KVLayout((wide, narrow, wide, narrow), torch.float32, latent=False)
    lease = SlabLease(layout, entry=4, exit=8, capacity=1000)

    keys, values, new_keys, new_values = lease.views(5)

    assert [tuple(key.shape) for key in keys] == [(1, 4, 5, 16), (1, 2, 5, 16)] * 2
    assert [tuple(value.shape) for value in values] == [(1, 4, 5, 8), (1, 2, 5, 16)] * 2
    for views in (keys, new_keys):
        assert [view.data_ptr() for view in views] == [
            lease.slabs[index % 2].keys[index // 2].data_ptr() for index in range(4)
        ]
    assert [value.shape[2] for value in new_values] == [5] * 4
    kept = 3 - 1 + MAX_ROLLBACK + STEP_ROWS
    assert lease.n_bytes == layout.n_bytes(1000) == 2 * 4 * (1000 * 96 + kept * 64)
    assert layout.part(1, 2).n_bytes(1000) == 4 * kept * 64
