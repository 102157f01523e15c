"""Sessions of families that cannot be packed: what they keep, how they go back, what it costs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from node.engine import Lease, ShardEngine, StepItem, load_shard
from node.engine.session_cache import STATE_ROWS
from node.engine.session_engine import SessionEngine, SessionLease
from protocol.errors import ContextExceeded, OutOfMemory, UsageError
from protocol.messages import Span

RECURRENT, BIASED = "qwen3_next", "falcon_alibi"
IDS = torch.randint(0, 320, (256,), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module", params=[RECURRENT, BIASED])
def engine(request: pytest.FixtureRequest, checkpoint: Any) -> ShardEngine:
    return load_shard(checkpoint(request.param), None, dtype="float32")


@pytest.fixture(scope="module")
def recurrent(checkpoint: Any) -> ShardEngine:
    return load_shard(checkpoint(RECURRENT), None, dtype="float32")


def feed(engine: ShardEngine, lease: Lease, start: int, ids: Tensor) -> Tensor:
    """Logits of all rows."""
    logits = engine.step([StepItem(lease, start, ids, len(ids))])[0].logits
    assert logits is not None
    return logits


def is_close(got: Tensor, expected: Tensor) -> bool:
    return bool((got - expected).abs().max() <= 1e-5 * expected.abs().max())


@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_a_session_may_go_back_to_any_position(engine: ShardEngine, data: st.DataObject) -> None:
    lease, text = engine.open(256), torch.empty(0, dtype=torch.int64)
    for _ in range(data.draw(st.integers(2, 7))):
        start = data.draw(st.integers(0, len(text)))
        stop = min(256, start + data.draw(st.integers(1, 90)))
        shift = data.draw(st.integers(0, 5))
        text = torch.cat([text[:start], IDS.roll(shift)[start:stop]])

        got = feed(engine, lease, start, text[start:])

        expected = feed(engine, engine.open(256), 0, text)[start:]
        assert is_close(got, expected)


def test_a_repeated_step_is_the_same_to_the_last_bit(engine: ShardEngine) -> None:
    lease = engine.open(64)
    feed(engine, lease, 0, IDS[:20])

    first, second = feed(engine, lease, 20, IDS[20:24]), feed(engine, lease, 20, IDS[20:24])

    assert torch.equal(first, second)


def test_a_short_rollback_runs_few_rows_again(recurrent: ShardEngine) -> None:
    lease = recurrent.open(256)
    assert isinstance(lease, SessionLease)
    assert lease.past is not None
    feed(recurrent, lease, 0, IDS[:40])
    for position in range(40, 250):
        feed(recurrent, lease, position, IDS[position : position + 1])

    for start in (249, 240, 250 - STATE_ROWS):
        lease.cut(start)
        known = lease.past.rewind(start)

        assert start - known <= 2 * STATE_ROWS
        feed(recurrent, lease, start, IDS[start : start + 1])


def test_rows_exported_without_their_state_are_run_again(engine: ShardEngine) -> None:
    source, target = engine.open(64), engine.open(64)
    feed(engine, source, 0, IDS[:30])

    target.load(source.export(0, 12))
    target.load(source.export(12, 20))
    got = feed(engine, target, 20, IDS[20:30])

    assert target.length == 30
    assert is_close(got, feed(engine, engine.open(64), 0, IDS[:30])[20:])


def test_a_finished_sessions_rows_start_the_next_one(engine: ShardEngine) -> None:
    old, kept = engine.open(40), engine.open(64)
    for lease in (old, kept):
        feed(engine, lease, 0, IDS[:30])

    new = engine.open(64, reuse=old)

    assert (new.length, new.capacity, old.capacity) == (30, 64, 0)
    assert torch.equal(feed(engine, new, 30, IDS[30:33]), feed(engine, kept, 30, IDS[30:33]))


def test_a_part_of_the_span_takes_its_share_of_the_bytes(engine: ShardEngine) -> None:
    whole = engine.open(64)
    parts = [engine.open(64, entry=block, exit=block + 1) for block in range(6)]

    assert whole.n_bytes == engine.lease_bytes(64, entry=0, exit=6)
    assert all(held_bytes(lease) <= lease.n_bytes for lease in (whole, *parts))
    assert sum(part.n_bytes for part in parts) >= whole.n_bytes


def test_what_a_session_holds_is_what_was_reserved_for_it(recurrent: ShardEngine) -> None:
    lease = recurrent.open(256)
    for start in range(0, 250, 50):
        feed(recurrent, lease, start, IDS[start : start + 50])

    held = held_bytes(lease)

    unused = 256 * (recurrent.row_bytes - torch.int64.itemsize)  # these rows were ids
    assert held == lease.n_bytes - unused


def held_bytes(lease: Lease) -> int:
    assert isinstance(lease, SessionLease)
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors_of(lease))


def tensors_of(lease: SessionLease) -> Iterator[Tensor]:
    for slab in lease.cache.slabs:
        yield from (slab.key_slab, slab.value_slab)
    for layer in lease.cache.recurrent:
        states = (*layer.conv_states.values(), *layer.recurrent_states.values())
        yield from (state for state in states if state is not None)
    if lease.past is not None:
        yield lease.past.rows
        for _, states_of_blocks in lease.past.kept:
            yield from (part for state in states_of_blocks for part in state)


def test_a_closed_lease_holds_nothing(engine: ShardEngine) -> None:
    lease = engine.open(64)
    feed(engine, lease, 0, IDS[:10])

    lease.close()

    assert (lease.capacity, lease.length, lease.n_bytes, held_bytes(lease)) == (0, 0, 0, 0)


def test_rows_of_other_blocks_or_too_many_are_refused(engine: ShardEngine) -> None:
    source = engine.open(64)
    feed(engine, source, 0, IDS[:30])
    rows = source.export()

    with pytest.raises(ValueError, match="do not go on"):
        engine.open(64, entry=0, exit=3).load(rows)
    with pytest.raises(ValueError, match="do not go on"):
        engine.open(64).load(source.export(10, 20))
    with pytest.raises(ContextExceeded):
        engine.open(20).load(rows)
    with pytest.raises(ValueError, match="among the 30 known"):
        source.export(0, 31)


def test_a_gap_is_refused_and_the_session_goes_on(engine: ShardEngine) -> None:
    lease = engine.open(64)
    feed(engine, lease, 0, IDS[:10])

    with pytest.raises(UsageError):
        feed(engine, lease, 12, IDS[12:13])

    assert is_close(
        feed(engine, lease, 10, IDS[10:12]), feed(engine, engine.open(64), 0, IDS[:12])[10:]
    )


def test_a_step_that_ran_out_of_memory_leaves_every_session_where_it_was(
    engine: ShardEngine,
) -> None:
    leases = [engine.open(64) for _ in range(2)]
    for lease in leases:
        feed(engine, lease, 0, IDS[:10])
    items = [StepItem(lease, 8, IDS[10:14], 4) for lease in leases]
    calls = []

    def fail_in_the_second_session(*_: Any) -> None:
        calls.append(1)
        if len(calls) >= 2:
            raise torch.OutOfMemoryError("no room")

    assert isinstance(engine, SessionEngine)
    hook = engine.gated.blocks[3].register_forward_hook(fail_in_the_second_session)
    with pytest.raises(OutOfMemory):
        engine.step(items)
    hook.remove()

    assert [lease.length for lease in leases] == [8, 8]
    expected = feed(engine, engine.open(64), 0, torch.cat([IDS[:8], IDS[10:14]]))[8:]
    got = [result.logits for result in engine.step(items)]
    assert all(logits is not None and is_close(logits, expected) for logits in got)


def test_a_part_of_a_span_that_attends_nowhere_still_counts_positions(checkpoint: Any) -> None:
    engine = load_shard(checkpoint(RECURRENT), Span(0, 2), dtype="float32")
    lease = engine.open(64)

    pieces = [engine.step([StepItem(lease, n, IDS[n : n + 8])])[0].hidden for n in (0, 8, 16)]

    whole = engine.step([StepItem(engine.open(64), 0, IDS[:24])])[0].hidden
    assert lease.length == 24
    assert is_close(torch.cat(pieces), whole)
