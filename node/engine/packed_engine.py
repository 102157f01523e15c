"""The packed engine: the rows of all sessions of a step in one forward, over our own slabs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from node.engine.adapter_rows import Packing
from node.engine.forward import ALL_ROWS, Forward, Wanted
from node.engine.kv_cache import KVLayout, PackedCache
from node.engine.lease import Lease
from node.engine.shard import ShardEngine, StepItem, StepResult
from node.engine.slabs import SlabLease
from node.engine.weights import LoadedSpan


class PackedEngine(ShardEngine):
    """A loaded span that batches its sessions."""

    def __init__(
        self, loaded: LoadedSpan, forward: Forward, layout: KVLayout, max_positions: int
    ) -> None:
        super().__init__(loaded, max_positions)
        self._forward, self._layout = forward, layout

    @property
    def forward_kind(self) -> str:
        return type(self._forward).__name__

    @property
    def kv_bytes_per_block(self) -> int:
        return self._layout.bytes_per_position

    def lease_bytes(self, capacity: int, *, entry: int, exit: int) -> int:
        return capacity * (exit - entry) * self.kv_bytes_per_block

    def _lease(self, capacity: int, entry: int, exit: int, reuse: Lease | None) -> Lease:
        if reuse is not None:
            return _slab(reuse).grown(capacity)
        return SlabLease(self._layout, entry=entry, exit=exit, capacity=capacity)

    def _run(self, items: Sequence[StepItem], entry: int, exit: int) -> list[StepResult]:
        leases = [_slab(item.lease) for item in items]
        for lease, item in zip(leases, items, strict=True):
            lease.cut(item.start)
        counts = [item.rows.shape[0] for item in items]
        first = entry - self.span.start
        packed = PackedCache(leases, counts, first)
        rows = items[0].rows if len(items) == 1 else torch.cat([item.rows for item in items])
        adapted = Packing.of(
            [item.lease.adapter for item in items],
            counts,
            packed.stops,
            [item.n_logits for item in items],
        )
        with self.adapters.applied(adapted):
            hidden, logits = self._forward.run(
                rows,
                packed,
                _positions(items, counts),
                first,
                exit - self.span.start,
                _wanted(items, counts, rows.device) if exit == self.n_blocks else None,
            )
        for lease, count in zip(leases, counts, strict=True):
            lease.length += count
        return _unpack(items, counts, hidden, logits)


def _slab(lease: Lease) -> SlabLease:
    if not isinstance(lease, SlabLease):
        raise ValueError("that lease is another engine's")
    return lease


def _positions(items: Sequence[StepItem], counts: Sequence[int]) -> Sequence[int]:
    if len(items) == 1:
        return range(items[0].start, items[0].start + counts[0])
    return [
        position
        for item, count in zip(items, counts, strict=True)
        for position in range(item.start, item.start + count)
    ]


def _wanted(items: Sequence[StepItem], counts: Sequence[int], device: torch.device) -> Wanted:
    """Which packed rows need logits: None when none does, a slice when all do."""
    total = sum(item.n_logits for item in items)
    if total in (0, sum(counts)):
        return ALL_ROWS if total else None
    index: list[int] = []
    stop = 0
    for item, count in zip(items, counts, strict=True):
        stop += count
        index.extend(range(stop - item.n_logits, stop))
    return torch.tensor(index, device=device)


def _unpack(
    items: Sequence[StepItem], counts: Sequence[int], hidden: Tensor, logits: Tensor | None
) -> list[StepResult]:
    hiddens = hidden.split_with_sizes(counts) if len(items) > 1 else (hidden,)
    if logits is None:
        return [StepResult(rows, None) for rows in hiddens]
    parts = logits.split_with_sizes([item.n_logits for item in items])
    return [
        StepResult(rows, part if item.n_logits else None)
        for item, rows, part in zip(items, hiddens, parts, strict=True)
    ]
