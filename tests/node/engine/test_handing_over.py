"""Keys and values that leave one engine block by block, and go on in another one's lease."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from node.engine import Lease, ShardEngine, StepItem, load_shard
from node.giving import _shape
from node.pulling import _load
from node.rows import bytes_of
from protocol.errors import BadRows, UsageError
from protocol.handover import Part
from protocol.messages import Span

IDS = torch.randint(3, 320, (600,), generator=torch.Generator().manual_seed(7))
LONG = {"num_hidden_layers": 2, "max_position_embeddings": 1024}


def part(lease: Lease, start: int, stop: int, entry: int, exit: int) -> Part:
    blocks = lease.block_rows(start, stop, entry, exit)
    views = [bytes_of(x.clone()) for block in blocks for x in (block.keys, block.values)]
    return Part(
        profile="",
        start=start,
        stop=stop,
        length=lease.length,
        item_bytes=4,
        blocks=tuple(map(_shape, blocks)),
        journal_row_bytes=0,
        journal_from=start,
        body=b"".join(views),
    )


def hand_over(giver: Lease, taker: Lease, step: int) -> None:
    while taker.length < giver.length:
        stop = min(giver.length, taker.length + step)
        sent = part(giver, taker.length, stop, taker.entry, taker.exit).encode()
        _load(Part.decode(sent), taker, torch.float32)


def fed(engine: ShardEngine, lease: Lease, rows: torch.Tensor, start: int) -> torch.Tensor:
    return engine.step([StepItem(lease, start, rows, 0)])[0].hidden


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon_alibi"])
def test_a_session_goes_on_in_another_engine_as_if_it_had_always_been_there(
    checkpoint: Any, family: str
) -> None:
    """All rows, some blocks with a window, and a family whose sessions cannot be batched."""
    directory = checkpoint(family, **LONG)
    whole = load_shard(directory, None, dtype="float32")
    inner = load_shard(directory, Span(1, 2), dtype="float32")
    giver, before = whole.open(600), whole.open(600, entry=0, exit=1)
    for start in range(0, 500, 100):
        fed(whole, giver, IDS[start : start + 100], start)
        fed(whole, before, IDS[start : start + 100], start)
    taker = inner.open(600)

    hand_over(giver, taker, 64)

    assert max(taker.floor, 1) <= taker.length == 500
    expected = fed(whole, giver, IDS[500:508], 500)
    got = fed(inner, taker, fed(whole, before, IDS[500:508], 500), 500)
    assert torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_or_of_another_shape_is_not_taken_in(checkpoint: Any) -> None:
    engine = load_shard(checkpoint("llama"), None, dtype="float32")
    giver, taker = engine.open(64), engine.open(64)
    fed(engine, giver, IDS[:20], 0)
    sound = part(giver, 0, 20, giver.entry, giver.exit)

    spoilt = bytearray(sound.body)
    spoilt[:4] = torch.tensor([float("nan")]).numpy().tobytes()
    with pytest.raises(BadRows):
        _load(replace(sound, body=bytes(spoilt)), taker, torch.float32)
    fewer = part(giver, 0, 20, giver.entry, giver.exit - 1)
    with pytest.raises(ValueError, match="blocks of rows"):
        _load(fewer, taker, torch.float32)
    with pytest.raises(ValueError, match="do not go on here"):
        _load(part(giver, 5, 20, giver.entry, giver.exit), taker, torch.float32)
    assert taker.length == 0

    _load(sound, taker, torch.float32)
    assert taker.length == 20


def test_recurrent_states_are_not_handed_over(checkpoint: Any) -> None:
    engine = load_shard(checkpoint("qwen3_next"), None, dtype="float32")
    lease = engine.open(32)
    fed(engine, lease, IDS[:8], 0)

    with pytest.raises(UsageError, match="run the rows again"):
        lease.block_rows(0, 8, 0, 1)
