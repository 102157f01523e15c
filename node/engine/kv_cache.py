"""Keys and values of the sessions on this node: one slab per session, sized when it is admitted.

`KVLayout` says what one position of one block takes. A `Lease` is a session's room for a sub-span
`[entry, exit)` of the shard: rows below `length` are valid, and going back is forgetting: setting
`length` costs nothing. `PackedCache` is what a model's blocks see during one step: the rows of
many sessions side by side, written into their slabs. Who may have how much is admission's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from protocol.errors import ContextExceeded, OutOfMemory


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shapes that every block of the shard shares; latent-attention families cache one latent."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    dtype: torch.dtype
    device: torch.device
    latent: bool

    @property
    def bytes_per_position(self) -> int:
        """Of one block."""
        elements = self.key_heads * self.key_dim + self.value_heads * self.value_dim
        return elements * self.dtype.itemsize


class Lease:
    """One session's keys and values for blocks `[entry, exit)`, room for `capacity` positions."""

    __slots__ = ("capacity", "entry", "exit", "keys", "layout", "length", "values")

    def __init__(self, layout: KVLayout, *, entry: int, exit: int, capacity: int) -> None:
        n_blocks = exit - entry
        self.layout, self.entry, self.exit = layout, entry, exit
        self.capacity, self.length = capacity, 0
        try:
            # Not zeroed: the system gives pages only as rows are written.
            self.keys = torch.empty(
                (n_blocks, 1, layout.key_heads, capacity, layout.key_dim),
                dtype=layout.dtype,
                device=layout.device,
            )
            self.values = torch.empty(
                (n_blocks, 1, layout.value_heads, capacity, layout.value_dim),
                dtype=layout.dtype,
                device=layout.device,
            )
        except (RuntimeError, MemoryError) as error:
            raise OutOfMemory(
                f"no room for the KV cache of {capacity} positions in {n_blocks} blocks",
                hint="serve with a smaller --kv-cache",
            ) from error

    @property
    def n_bytes(self) -> int:
        return self.capacity * (self.exit - self.entry) * self.layout.bytes_per_position

    def cut(self, length: int) -> None:
        """Forget the rows from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot cut {self.length} positions to {length}")
        self.length = length

    def export(self) -> tuple[Tensor, Tensor]:
        """A copy of what is cached: keys and values, [blocks, heads, length, dim]."""
        return (
            self.keys[:, 0, :, : self.length].clone(),
            self.values[:, 0, :, : self.length].clone(),
        )

    def load(self, keys: Tensor, values: Tensor) -> None:
        """Take over what another lease of the same blocks exported.

        Raises:
            ContextExceeded: it holds more positions than this lease has room for.
            ValueError: it was exported from other shapes.
        """
        length = keys.shape[2]
        if length > self.capacity:
            raise ContextExceeded(f"{length} positions do not fit a lease of {self.capacity}")
        room = self.keys[:, 0, :, :length], self.values[:, 0, :, :length]
        if (keys.shape, values.shape) != (room[0].shape, room[1].shape):
            raise ValueError("these keys and values belong to other blocks")
        room[0].copy_(keys)
        room[1].copy_(values)
        self.length = length

    def close(self) -> None:
        """Give the memory back now; the lease holds nothing from here on."""
        self.capacity = self.length = 0
        self.keys = self.values = torch.empty(0)


class PackedCache(Cache):  # type: ignore[misc]
    """One step's rows of many sessions, as the blocks of a model see their cache.

    Each session's old and new rows are views into its slab, made for all blocks in one call.
    `masks` keeps the boolean masks of the step, which its blocks share.
    """

    is_compileable = False

    def __init__(self, leases: Sequence[Lease], counts: Sequence[int], first: int) -> None:
        self.layers: list[
            object
        ] = []  # the base class asks for it; no layer of its own keeps anything here
        self.counts = counts
        self.stops = [lease.length + count for lease, count in zip(leases, counts, strict=True)]
        self.first = first  # where the step enters the shard; the blocks number from its start
        self.latent = leases[0].layout.latent if leases else False
        self.is_one_row = len(counts) == 1 and counts[0] == 1 and not self.latent
        self.keys, self.values, self.new_keys, self.new_values = [], [], [], []
        for lease, count, stop in zip(leases, counts, self.stops, strict=True):
            self.keys.append(lease.keys.narrow(3, 0, stop).unbind())
            self.values.append(lease.values.narrow(3, 0, stop).unbind())
            self.new_keys.append(lease.keys.narrow(3, lease.length, count).unbind())
            self.new_values.append(lease.values.narrow(3, lease.length, count).unbind())
        self.masks: dict[tuple[int, int, int | None], Tensor] = {}

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write one block's new rows, [1, heads, rows, dim], into the slabs.

        What comes back reaches the attention function, which reads the slabs instead; families
        that cache latents expand it first, and so get their whole history, session by session.
        """
        block = layer_idx - self.first
        if len(self.counts) == 1:
            self.new_keys[0][block].copy_(keys)
            self.new_values[0][block].copy_(values)
        else:
            for old, new in zip(self.new_keys, keys.split_with_sizes(self.counts, 2), strict=True):
                old[block].copy_(new)
            for old, new in zip(
                self.new_values, values.split_with_sizes(self.counts, 2), strict=True
            ):
                old[block].copy_(new)
        if self.latent:
            return (
                torch.cat([session[block] for session in self.keys], 2),
                torch.cat([session[block] for session in self.values], 2),
            )
        return keys, values

    # What models ask a cache while they build masks and positions; we hand them both ourselves.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0


class ShapeProbe(PackedCache):
    """Caches nothing and notes what a block would have cached."""

    def __init__(self) -> None:
        super().__init__((), (), 0)
        self.shapes: set[tuple[int, int, int, int]] = set()

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        self.shapes.add((keys.shape[1], keys.shape[3], values.shape[1], values.shape[3]))
        return keys, values
