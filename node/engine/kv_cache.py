"""Keys and values as a model's blocks see them during one step.

`PackedCache` holds the rows of many sessions side by side, written into their slabs (see
`slabs.py`). `LayoutProbe` stands in its place once, to learn what the blocks cache.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from node.engine.kv_layout import BlockLayout, KVLayout
from node.engine.slabs import SlabLease


class PackedCache(Cache):  # type: ignore[misc]  # its base has no types
    """One step's rows of many sessions, as the blocks of a model see their cache.

    Each session's old and new rows are views into its slab, made for all blocks in one call.
    `masks` keeps the boolean masks of the step, which its blocks share.
    """

    is_compileable = False

    def __init__(
        self,
        leases: Sequence[SlabLease],
        counts: Sequence[int],
        first: int,
        skips: Sequence[int] | None = None,
    ) -> None:
        """skips: how many blocks of each lease lie before `first`; None: none of any."""
        self.layers: list[
            object
        ] = []  # the base class asks for it; no layer of its own keeps anything here
        self.counts = counts
        self.stops = [lease.length + count for lease, count in zip(leases, counts, strict=False)]
        self.first = first  # where the step enters the shard; the blocks number from its start
        self.latent = leases[0].layout.latent if leases else False
        self.is_one_row = len(leases) == len(counts) == 1 and counts[0] == 1 and not self.latent
        self.keys: list[list[Tensor]] = []
        self.values: list[list[Tensor]] = []
        self.new_keys: list[list[Tensor]] = []
        self.new_values: list[list[Tensor]] = []
        for i, (lease, count) in enumerate(zip(leases, counts, strict=False)):
            keys, values, new_keys, new_values = lease.views(count)
            skip = skips[i] if skips else 0
            self.keys.append(keys[skip:])
            self.values.append(values[skip:])
            self.new_keys.append(new_keys[skip:])
            self.new_values.append(new_values[skip:])
        self.masks: dict[tuple[int, int, int | None, torch.device], Tensor] = {}

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


class LayoutProbe(PackedCache):
    """Takes one session's first rows through all blocks and notes what each of them caches."""

    def __init__(self, n_blocks: int, n_rows: int) -> None:
        super().__init__((), (n_rows,), 0)
        self.latent = True  # attention is to take what the block hands it: that is all there is
        empty = torch.empty(0)
        self.keys, self.values = [[empty] * n_blocks], [[empty] * n_blocks]
        self.windows: dict[int, int | None] = {}  # as the attention function was told

    def update(
        self, keys: Tensor, values: Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        self.keys[0][layer_idx], self.values[0][layer_idx] = keys, values
        return keys, values

    def layout(self, dtype: torch.dtype, *, latent: bool) -> KVLayout:
        """What the blocks cache.

        Raises:
            ValueError: a block cached nothing.
        """
        blocks = []
        for index, (keys, values) in enumerate(zip(self.keys[0], self.values[0], strict=True)):
            if not keys.numel():
                raise ValueError(f"block {index} caches no keys and values")
            _, key_heads, _, key_dim = keys.shape
            _, value_heads, _, value_dim = values.shape
            window = self.windows.get(index)
            blocks.append(
                BlockLayout(key_heads, key_dim, value_heads, value_dim, window, keys.device)
            )
        return KVLayout(tuple(blocks), dtype, latent)
