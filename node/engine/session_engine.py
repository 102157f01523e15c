"""The per-session engine: each session runs the family's own forward, with a cache of its own.

For families whose attention cannot be packed: position biases built for one history, masks that
cut it into chunks, states that are not keys and values. It is the same engine to all others, but
sessions of one step run one after another, so that batching gains nothing. Recurrent blocks
cannot go back; there a rollback restores an older state and runs the rows from there on again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from node.engine.adapter_rows import Adapter, Packing
from node.engine.forward import ALL_ROWS, GatedModel, Wanted
from node.engine.lease import BlockRows, KVRows, Lease
from node.engine.session_cache import Past, SessionCache, SessionLayout
from node.engine.shard import ShardEngine, StepItem, StepResult
from node.engine.weights import LoadedSpan
from protocol.errors import ContextExceeded, OutOfMemory, UsageError


class SessionLease:
    """A `node.engine.lease.Lease` over a cache of the library's kind."""

    def __init__(
        self,
        cache: SessionCache,
        past: Past | None,
        *,
        entry: int,
        exit: int,
        capacity: int,
        n_bytes: int,
    ) -> None:
        self.entry, self.exit, self.capacity, self.n_bytes = entry, exit, capacity, n_bytes
        self.cache, self.past = cache, past
        self.adapter: Adapter | None = None

    @property
    def length(self) -> int:
        return self.cache.length

    @property
    def floor(self) -> int:
        return 0

    def cut(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} positions to {length}")
        self.cache.set_length(length)

    def export(self, start: int = 0, stop: int | None = None) -> KVRows:
        """Recurrent blocks go along as their state, which lies behind the newest row alone;
        rows exported without it are run again where they are loaded.
        """
        stop = self.length if stop is None else stop
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"positions {start}:{stop} are not among the {self.length} known")
        rows = [part for slab in self.cache.slabs for part in slab.rows(start, stop)]
        state: list[Tensor] = []
        if self.past is not None:
            rows.append(self.past.rows[start:stop])
            state = self.past.state(stop)
        tensors = [part.clone(memory_format=torch.contiguous_format) for part in rows]
        return KVRows(self.entry, self.exit, start, stop, (*tensors, *state))

    def load(self, rows: KVRows, at: int | None = None) -> None:
        at = rows.start if at is None else at
        if (rows.entry, rows.exit, rows.start) != (self.entry, self.exit, at) or at > self.length:
            raise ValueError(
                f"rows {rows.start}:{rows.stop} of blocks {rows.entry}:{rows.exit} do not go on "
                f"at {at} in blocks {self.entry}:{self.exit}, where {self.length} are known"
            )
        if rows.stop > self.capacity:
            raise ContextExceeded(f"{rows.stop} positions do not fit a lease of {self.capacity}")
        if self.past is not None:
            self.past.rewind(at)
        room = [part for slab in self.cache.slabs for part in slab.rows(at, rows.stop)]
        if self.past is not None:
            room.append(self.past.rows[at : rows.stop])
        given, state = rows.tensors[: len(room)], rows.tensors[len(room) :]
        if [tensor.shape for tensor in given] != [part.shape for part in room]:
            raise ValueError("these keys and values have other shapes")
        for part, tensor in zip(room, given, strict=True):
            part.copy_(tensor)
        if self.past is not None and state:
            self.past.take_state(state, rows.stop)
        self.cache.set_length(rows.stop)

    def block_rows(self, start: int, stop: int, entry: int, exit: int) -> list[BlockRows]:
        self._check_keeps_rows()
        if not (0 <= start <= stop <= self.length and self.entry <= entry < exit <= self.exit):
            raise ValueError(f"no rows {start}:{stop} of blocks {entry}:{exit} here")
        slabs = self.cache.slabs[entry - self.entry : exit - self.entry]
        return [BlockRows(start, *slab.rows(start, stop)) for slab in slabs]

    def load_block_rows(self, rows: Sequence[BlockRows], stop: int) -> None:
        self._check_keeps_rows()
        start, slabs = self.length, self.cache.slabs
        if len(rows) != len(slabs) or stop < start:
            raise ValueError(f"{len(rows)} blocks of rows up to {stop} for {len(slabs)}")
        if stop > self.capacity:
            raise ContextExceeded(f"{stop} positions do not fit a lease of {self.capacity}")
        room = [part for slab in slabs for part in slab.rows(start, stop)]
        given = [part for held in rows for part in (held.keys, held.values)]
        alike = [(part.shape, part.dtype) for part in room]
        if any(held.first != start for held in rows) or alike != [
            (part.shape, part.dtype) for part in given
        ]:
            raise ValueError("these keys and values have other shapes, or do not go on here")
        for part, tensor in zip(room, given, strict=True):
            part.copy_(tensor)
        self.cache.set_length(stop)

    def _check_keeps_rows(self) -> None:
        """Raises UsageError: some block keeps a state, or nothing."""
        if self.past is not None or len(self.cache.slabs) != self.exit - self.entry:
            raise UsageError("these blocks keep more than keys and values: run the rows again")

    def close(self) -> None:
        self.capacity = self.n_bytes = 0
        self.cache.clear()
        self.past = self.adapter = None


class SessionEngine(ShardEngine):
    """A loaded span that runs its sessions one by one."""

    def __init__(
        self, loaded: LoadedSpan, gated: GatedModel, layout: SessionLayout, max_positions: int
    ) -> None:
        super().__init__(loaded, max_positions)
        self.gated, self._layout = gated, layout
        self._config: Any = loaded.model.config

    @property
    def forward_kind(self) -> str:
        return "SessionForward"

    @property
    def kv_bytes_per_position(self) -> int:
        return self._layout.position_bytes(0, len(self.span))

    @property
    def kv_bytes_per_block(self) -> int:
        blocks = range(len(self.span))
        return max(self._layout.position_bytes(block, block + 1) for block in blocks)

    def lease_bytes(self, capacity: int, *, entry: int, exit: int) -> int:
        layout, inner = self._layout, (entry - self.span.start, exit - self.span.start)
        kept = layout.fixed_bytes(*inner)
        if kept:  # and the rows that lead from one kept state to the next; ids take less
            kept += capacity * self.row_bytes
        return kept + capacity * layout.position_bytes(*inner)

    def _lease(self, capacity: int, entry: int, exit: int, reuse: Lease | None) -> Lease:
        layout, inner = self._layout, (entry - self.span.start, exit - self.span.start)
        try:
            cache = SessionCache(self._config, layout, capacity, *inner)
            past = None
            if cache.recurrent:
                shape = (capacity,) if entry == 0 else (capacity, self.hidden_size)
                dtype = torch.int64 if entry == 0 else self.dtype
                past = Past(cache, torch.empty(shape, dtype=dtype, device=layout.device))
        except (RuntimeError, MemoryError) as error:
            raise OutOfMemory(
                f"no room for the KV cache of {capacity} positions in {exit - entry} blocks",
                hint="serve with a smaller --kv-cache",
            ) from error
        n_bytes = self.lease_bytes(capacity, entry=entry, exit=exit)
        lease = SessionLease(
            cache, past, entry=entry, exit=exit, capacity=capacity, n_bytes=n_bytes
        )
        if reuse is not None:
            lease.load(reuse.export(0, min(reuse.length, capacity)))
            reuse.close()
        return lease

    def _run(self, items: Sequence[StepItem]) -> list[StepResult]:
        try:
            return [self._run_one(item) for item in items]
        except BaseException:
            for item in items:
                item.lease.cut(min(item.start, item.lease.length))
            raise

    def _run_one(self, item: StepItem) -> StepResult:
        lease, rows, start = item.lease, item.rows, item.start
        if not isinstance(lease, SessionLease):
            raise ValueError("that lease is another engine's")
        lease.cut(start)
        if lease.past is not None:
            self._catch_up(lease, lease.past, start)
            lease.past.begin(start, rows)
        n_logits = item.n_logits if lease.exit == self.n_blocks else 0
        hidden, logits = self._forward(lease, rows, n_logits)
        if lease.past is not None:
            lease.past.end(lease.length)
        return StepResult(hidden, logits)

    def _catch_up(self, lease: SessionLease, past: Past, start: int) -> None:
        """Bring the recurrent blocks to `start`."""
        known = past.rewind(start)
        if known == start:
            return
        rows = past.rows[known:start].clone()
        past.begin(known, rows)
        lease.cut(known)
        try:
            self._forward(lease, rows, 0)
        finally:
            lease.cache.set_length(start)
        past.end(start)

    def _forward(
        self, lease: SessionLease, rows: Tensor, n_logits: int
    ) -> tuple[Tensor, Tensor | None]:
        """Rows behind a session's last, by which the lease grows."""
        start, count = lease.length, rows.shape[0]
        wanted: Wanted = None
        if n_logits:
            last = torch.arange(count - n_logits, count, device=rows.device)
            wanted = ALL_ROWS if n_logits == count else last
        adapted = Packing.of([lease.adapter], [count], [start + count], [n_logits])
        with self.adapters.applied(adapted):
            hidden, logits = self.gated.run(
                rows,
                range(start, start + count),
                lease.entry - self.span.start,
                lease.exit - self.span.start,
                wanted,
                past_key_values=lease.cache,
                use_cache=True,
            )
        lease.cache.set_length(start + count)
        return hidden.contiguous(), logits
