"""The packed engine: the rows of all sessions of a step in one forward, over our own slabs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from node.engine.adapter_rows import Packing
from node.engine.forward import ALL_ROWS, Forward, Wanted
from node.engine.kv_cache import PackedCache
from node.engine.kv_layout import KVLayout
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
    def kv_bytes_per_position(self) -> int:
        return sum(self._layout.bytes_per_position)

    @property
    def kv_bytes_per_block(self) -> int:
        return max(self._layout.bytes_per_position)

    def lease_bytes(self, capacity: int, *, entry: int, exit: int) -> int:
        return self._part(entry, exit).n_bytes(capacity)

    def _lease(self, capacity: int, entry: int, exit: int, reuse: Lease | None) -> Lease:
        if reuse is not None:
            return _slab(reuse).grown(capacity)
        return SlabLease(self._part(entry, exit), entry=entry, exit=exit, capacity=capacity)

    def _part(self, entry: int, exit: int) -> KVLayout:
        return self._layout.part(entry - self.span.start, exit - self.span.start)

    def _run(self, items: Sequence[StepItem]) -> list[StepResult]:
        for item in items:
            item.lease.cut(item.start)
        if all(item.rows.shape[0] <= _slab(item.lease).step_rows for item in items):
            return self._run_at_once(items)
        results: list[list[StepResult]] = [[] for _ in items]
        try:
            for pieces in _in_pieces(items):
                ran = self._run_at_once([piece for _, piece in pieces])
                for (index, _), result in zip(pieces, ran, strict=True):
                    results[index].append(result)
        except BaseException:
            for item in items:  # what the first pieces made it forget does not come back
                item.lease.cut(item.start if item.start >= item.lease.floor else 0)
            raise
        return [_joined(parts) for parts in results]

    def _run_at_once(self, items: Sequence[StepItem]) -> list[StepResult]:
        """From border to border: where sessions enter or leave, the rows are packed anew."""
        results = [StepResult(item.rows, None) for item in items]
        borders = {border for item in items for border in (item.lease.entry, item.lease.exit)}
        for first, last in pairwise(sorted(borders)):
            inside = [
                i
                for i, item in enumerate(items)
                if item.lease.entry <= first and last <= item.lease.exit
            ]
            ran = self._through(
                [items[i] for i in inside], [results[i] for i in inside], first, last
            )
            for i, result in zip(inside, ran, strict=True):
                results[i] = result
        for item in items:
            _slab(item.lease).length += item.rows.shape[0]
        return results

    def _through(
        self, items: Sequence[StepItem], so_far: Sequence[StepResult], first: int, last: int
    ) -> list[StepResult]:
        """Of sessions that all run blocks `[first, last)`, what comes out behind them."""
        if not items:
            return []
        leases = [_slab(item.lease) for item in items]
        counts = [item.rows.shape[0] for item in items]
        skips = [first - lease.entry for lease in leases]
        packed = PackedCache(leases, counts, first - self.span.start, skips)
        hiddens = [result.hidden for result in so_far]
        rows = hiddens[0] if len(items) == 1 else torch.cat(hiddens)
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
                first - self.span.start,
                last - self.span.start,
                _wanted(items, counts, rows.device) if last == self.n_blocks else None,
            )
        return _unpack(items, counts, hidden, logits)


def _slab(lease: Lease) -> SlabLease:
    if not isinstance(lease, SlabLease):
        raise ValueError("that lease is another engine's")
    return lease


def _in_pieces(items: Sequence[StepItem]) -> Iterator[list[tuple[int, StepItem]]]:
    """The items step by step, (index, piece), no piece larger than its lease takes at once."""
    at = 0
    while True:
        pieces = []
        for index, item in enumerate(items):
            start, count = at * _slab(item.lease).step_rows, item.rows.shape[0]
            if start >= count:
                continue
            rows = item.rows[start : start + _slab(item.lease).step_rows]
            stop = start + rows.shape[0]
            n_logits = max(0, stop - max(start, count - item.n_logits))
            pieces.append((index, StepItem(item.lease, item.start + start, rows, n_logits)))
        if not pieces:
            return
        yield pieces
        at += 1


def _joined(parts: Sequence[StepResult]) -> StepResult:
    if len(parts) == 1:
        return parts[0]
    logits = [part.logits for part in parts if part.logits is not None]
    hidden = torch.cat([part.hidden for part in parts])
    return StepResult(hidden, torch.cat(logits) if logits else None)


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
