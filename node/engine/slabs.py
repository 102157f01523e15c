"""Keys and values in slabs: contiguous memory per session, sized when it is admitted.

A slab is contiguous, so that attention reads it without gathering: on a CPU the copy a block table
needs costs half as much as the step itself. Pages that were never written take no memory. Blocks
that cache alike share a slab. One of blocks with a sliding window holds positions from `base` on:
when it is full, what may still be needed moves to its front.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from node.engine.adapter_rows import Adapter
from node.engine.kv_layout import STEP_ROWS, BlockLayout, KVLayout
from node.engine.lease import BlockRows, KVRows
from node.engine.pages import pages
from protocol.errors import ContextExceeded, OutOfMemory, UsageError


class Slab:
    """Keys and values of the blocks of one kind, [blocks, 1, heads, room, dim] each."""

    __slots__ = ("base", "keys", "members", "n_kept", "room", "values", "window")

    def __init__(
        self, kind: BlockLayout, members: Sequence[int], capacity: int, dtype: torch.dtype
    ) -> None:
        self.members, self.window = members, kind.window or 1
        self.room = kind.room(capacity)
        self.n_kept = self.room if kind.n_kept is None else kind.n_kept
        self.base = 0  # the position of the first one held
        self.keys, self.values = (
            pages((len(members), 1, heads, self.room, dim), dtype, kind.device)
            for heads, dim in (
                (kind.key_heads, kind.key_dim),
                (kind.value_heads, kind.value_dim),
            )
        )

    @property
    def n_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def floor(self) -> int:
        """The first position, besides 0, whose row finds all that it sees."""
        return self.base + self.window - 1 if self.base else 0

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Views of positions `[start, stop)`, [blocks, heads, rows, dim]."""
        at, count = start - self.base, stop - start
        return self.keys[:, 0].narrow(2, at, count), self.values[:, 0].narrow(2, at, count)

    def held(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Those of positions `[start, stop)` that are still here: the last ones."""
        return self.rows(min(max(start, self.base), stop), stop)

    def make_room(self, length: int, stop: int) -> None:
        """Before rows `[length, stop)` are written: forget what is in their way."""
        if stop - self.base > self.room:
            self._forget(length - self.n_kept, length)

    def put(self, keys: Tensor, values: Tensor, length: int, stop: int) -> None:
        """Behind the first `length` positions, rows that end at `stop`."""
        start = stop - keys.shape[2]
        if start > length:  # what lies before a gap is of no use
            self.base = length = start
        oldest = stop - self.n_kept
        if stop - self.base > self.room:
            if oldest < length:
                self._forget(oldest, length)
            else:
                self.base = length = oldest
        for room, new in zip(self.rows(length, stop), (keys, values), strict=True):
            room.copy_(new.narrow(2, length - start, stop - length))

    def _forget(self, base: int, length: int) -> None:
        """Hold `[base, length)` alone."""
        kept = length - base
        for slab in (self.keys, self.values):
            for block in slab:  # one by one: what is copied in between stays small
                block.narrow(2, 0, kept).copy_(block.narrow(2, base - self.base, kept).clone())
        self.base = base


class SlabLease:
    """A `node.engine.lease.Lease` over slabs."""

    __slots__ = ("adapter", "capacity", "entry", "exit", "layout", "length", "slabs")

    def __init__(self, layout: KVLayout, *, entry: int, exit: int, capacity: int) -> None:
        """`layout` is that of blocks `[entry, exit)` alone."""
        self.layout, self.entry, self.exit = layout, entry, exit
        self.capacity, self.length = capacity, 0
        self.adapter: Adapter | None = None
        members: dict[BlockLayout, list[int]] = {}
        for index, kind in enumerate(layout.blocks):
            members.setdefault(kind, []).append(index)
        try:
            self.slabs = [
                Slab(kind, which, capacity, layout.dtype) for kind, which in members.items()
            ]
        except (RuntimeError, MemoryError) as error:
            raise OutOfMemory(
                f"no room for the KV cache of {capacity} positions in {exit - entry} blocks",
                hint="serve with a smaller --kv-cache",
            ) from error

    @property
    def floor(self) -> int:
        return max((slab.floor for slab in self.slabs), default=0)

    @property
    def n_bytes(self) -> int:
        return sum(slab.n_bytes for slab in self.slabs)

    @property
    def step_rows(self) -> int:
        """How many rows may be written at once."""
        forgets = any(slab.room < self.capacity for slab in self.slabs)
        return STEP_ROWS if forgets else self.capacity

    def cut(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} positions to {length}")
        if length and length < self.floor:
            raise UsageError(
                f"cannot go back from {self.length} positions to {length}: "
                f"blocks with a sliding window forgot what lies below {self.floor}",
                hint="begin again from position 0",
            )
        self.length = length
        if not length:
            for slab in self.slabs:
                slab.base = 0

    def views(self, count: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """By block, [1, heads, rows, dim]: keys and values of all positions held once `count`
        rows are written, and of those rows alone.
        """
        length, stop = self.length, self.length + count
        every: tuple[list[Tensor], ...] = tuple([] for _ in range(4))
        for slab in self.slabs:
            slab.make_room(length, stop)
            n_held = stop - slab.base
            parts = [
                part
                for start, n_rows in ((0, n_held), (n_held - count, count))
                for part in (
                    slab.keys.narrow(3, start, n_rows),
                    slab.values.narrow(3, start, n_rows),
                )
            ]
            for views, part in zip(every, parts, strict=True):
                views.extend(part.unbind())
        if len(self.slabs) > 1:
            order = [index for slab in self.slabs for index in slab.members]
            every = tuple(_in_order(views, order) for views in every)
        keys, values, new_keys, new_values = every
        return keys, values, new_keys, new_values

    def export(self, start: int = 0, stop: int | None = None) -> KVRows:
        stop = self.length if stop is None else stop
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"positions {start}:{stop} are not among the {self.length} known")
        if stop < self.floor:
            raise UsageError(
                f"what a session needs to go on at {stop} is forgotten below {self.floor}"
            )
        tensors = tuple(
            part.clone(memory_format=torch.contiguous_format)
            for slab in self.slabs
            for part in slab.held(start, stop)
        )
        return KVRows(self.entry, self.exit, start, stop, tensors)

    def load(self, rows: KVRows, at: int | None = None) -> None:
        at = rows.start if at is None else at
        if (rows.entry, rows.exit, rows.start) != (self.entry, self.exit, at) or at > self.length:
            raise ValueError(
                f"rows {rows.start}:{rows.stop} of blocks {rows.entry}:{rows.exit} do not go on "
                f"at {at} in blocks {self.entry}:{self.exit}, where {self.length} are known"
            )
        if rows.stop > self.capacity:
            raise ContextExceeded(f"{rows.stop} positions do not fit a lease of {self.capacity}")
        shapes = [part.shape[:2] + part.shape[3:] for s in self.slabs for part in s.rows(0, 0)]
        if [tensor.shape[:2] + tensor.shape[3:] for tensor in rows.tensors] != shapes:
            raise ValueError("these keys and values have other shapes")
        self.cut(at)
        for index, slab in enumerate(self.slabs):
            slab.put(rows.tensors[2 * index], rows.tensors[2 * index + 1], at, rows.stop)
        self.length = rows.stop

    def block_rows(self, start: int, stop: int, entry: int, exit: int) -> list[BlockRows]:
        if not (0 <= start <= stop <= self.length and self.entry <= entry < exit <= self.exit):
            raise ValueError(f"no rows {start}:{stop} of blocks {entry}:{exit} here")
        rows: dict[int, BlockRows] = {}
        for slab in self.slabs:
            first = min(max(start, slab.base), stop)
            held = slab.rows(first, stop) if first < stop else slab.rows(slab.base, slab.base)
            for member, keys, values in zip(slab.members, *held, strict=True):
                rows[self.entry + member] = BlockRows(first, keys, values)
        return [rows[block] for block in range(entry, exit)]

    def load_block_rows(self, rows: Sequence[BlockRows], stop: int) -> None:
        check_block_rows(rows, self.layout, self.length, stop, self.capacity)
        for slab in self.slabs:
            members = [rows[member] for member in slab.members]
            if len({member.first for member in members}) != 1:
                raise ValueError("blocks that cache alike have forgotten alike")
            keys = torch.stack([member.keys for member in members])
            values = torch.stack([member.values for member in members])
            slab.put(keys, values, self.length, stop)
        self.length = stop

    def grown(self, capacity: int) -> "SlabLease":
        """Its rows in a lease of at least `capacity`, in place of this one, which is closed.

        The slabs change hands; too small, they are copied, which is little next to running the
        rows again.
        """
        if capacity <= self.capacity:
            new = copy(self)
        else:
            new = SlabLease(self.layout, entry=self.entry, exit=self.exit, capacity=capacity)
            held = tuple(part for slab in self.slabs for part in slab.held(0, self.length))
            new.load(KVRows(self.entry, self.exit, 0, self.length, held))
            new.adapter = self.adapter
        self.close()
        return new

    def close(self) -> None:
        self.capacity = self.length = 0
        self.adapter = None
        self.slabs = []


def check_block_rows(
    rows: Sequence[BlockRows], layout: KVLayout, start: int, stop: int, capacity: int
) -> None:
    """Raises ValueError, ContextExceeded: these cannot go on at `start` in such a lease."""
    if len(rows) != len(layout.blocks) or stop < start:
        raise ValueError(f"{len(rows)} blocks of rows up to {stop} for {len(layout.blocks)}")
    if stop > capacity:
        raise ContextExceeded(f"{stop} positions do not fit a lease of {capacity}")
    for held, block in zip(rows, layout.blocks, strict=True):
        keys = (block.key_heads, stop - held.first, block.key_dim)
        values = (block.value_heads, stop - held.first, block.value_dim)
        is_whole = held.first == start or (block.window is not None and start < held.first <= stop)
        if not is_whole or (tuple(held.keys.shape), tuple(held.values.shape)) != (keys, values):
            raise ValueError("these keys and values have other shapes, or do not go on here")
        if held.keys.dtype != layout.dtype or held.values.dtype != layout.dtype:
            raise ValueError(f"keys and values of {held.keys.dtype}, not {layout.dtype}")


def _in_order(views: list[Tensor], order: Sequence[int]) -> list[Tensor]:
    placed = sorted(zip(order, views, strict=True), key=lambda pair: pair[0])
    return [view for _, view in placed]
