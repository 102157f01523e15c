"""Keys and values in slabs: one piece of memory per session, sized when it is admitted.

A slab is contiguous, so that attention reads it without gathering: on a CPU the copy a block table
needs costs half as much as the step itself. Pages that were never written take no memory.
"""

from copy import copy

import torch
from torch import Tensor

from node.engine.adapter_rows import Adapter
from node.engine.kv_cache import KVLayout
from node.engine.lease import KVRows
from protocol.errors import ContextExceeded, OutOfMemory


class SlabLease:
    """A `node.engine.lease.Lease` over two slabs, [blocks, 1, heads, capacity, dim]."""

    __slots__ = ("adapter", "capacity", "entry", "exit", "keys", "layout", "length", "values")

    def __init__(self, layout: KVLayout, *, entry: int, exit: int, capacity: int) -> None:
        self.layout, self.entry, self.exit = layout, entry, exit
        self.capacity, self.length = capacity, 0
        self.adapter: Adapter | None = None
        try:
            self.keys, self.values = _slabs(layout, exit - entry, capacity)
        except (RuntimeError, MemoryError) as error:
            raise OutOfMemory(
                f"no room for the KV cache of {capacity} positions in {exit - entry} blocks",
                hint="serve with a smaller --kv-cache",
            ) from error

    @property
    def floor(self) -> int:
        return 0

    @property
    def n_bytes(self) -> int:
        return self.capacity * (self.exit - self.entry) * self.layout.bytes_per_position

    def cut(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} positions to {length}")
        self.length = length

    def export(self, start: int = 0, stop: int | None = None) -> KVRows:
        stop = self.length if stop is None else stop
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"positions {start}:{stop} are not among the {self.length} known")
        tensors = tuple(
            slab[:, 0, :, start:stop].clone(memory_format=torch.contiguous_format)
            for slab in (self.keys, self.values)
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
        room = [slab[:, 0, :, at : rows.stop] for slab in (self.keys, self.values)]
        if [tensor.shape for tensor in rows.tensors] != [part.shape for part in room]:
            raise ValueError("these keys and values have other shapes")
        for part, tensor in zip(room, rows.tensors, strict=True):
            part.copy_(tensor)
        self.length = rows.stop

    def grown(self, capacity: int) -> "SlabLease":
        """Its rows in a lease of at least `capacity`, in place of this one, which is closed.

        The slabs change hands; too small, they are copied, which is little next to running the
        rows again.
        """
        if capacity <= self.capacity:
            new = copy(self)
        else:
            new = SlabLease(self.layout, entry=self.entry, exit=self.exit, capacity=capacity)
            for target, source in ((new.keys, self.keys), (new.values, self.values)):
                target[..., : self.length, :].copy_(source[..., : self.length, :])
            new.length, new.adapter = self.length, self.adapter
        self.close()
        return new

    def close(self) -> None:
        self.capacity = self.length = 0
        self.adapter = None
        self.keys = self.values = torch.empty(0)


def _slabs(layout: KVLayout, n_blocks: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Not zeroed: the system gives pages only as rows are written."""
    keys, values = (
        torch.empty((n_blocks, 1, heads, capacity, dim), dtype=layout.dtype, device=layout.device)
        for heads, dim in (
            (layout.key_heads, layout.key_dim),
            (layout.value_heads, layout.value_dim),
        )
    )
    return keys, values
