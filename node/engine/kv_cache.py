"""Keys and values as a model's blocks see them during one step.

`KVLayout` says what one position of one block takes. `PackedCache` holds the rows of many sessions
side by side, written into their slabs (see `slabs.py`). Who may have how much is admission's
affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import Cache

if TYPE_CHECKING:
    from node.engine.slabs import SlabLease


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


class PackedCache(Cache):  # type: ignore[misc]
    """One step's rows of many sessions, as the blocks of a model see their cache.

    Each session's old and new rows are views into its slab, made for all blocks in one call.
    `masks` keeps the boolean masks of the step, which its blocks share.
    """

    is_compileable = False

    def __init__(self, leases: "Sequence[SlabLease]", counts: Sequence[int], first: int) -> None:
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
