"""What one session of the per-session engine remembers: whole histories, and states with a past.

`SessionLayout` is what a position, and a session, takes in each block; it is read off the
library's own cache after a few rows. `SessionCache` is the cache that the model's blocks see: an
attention block keeps its whole history in a slab, whatever its window, since the library's masks
say what of it a row sees; so going back is forgetting. Recurrent blocks keep the library's own
state, which cannot go back: `Past` holds copies of it, and the rows that lead from one on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from node.engine.pages import pages

KEPT_STATES = 3  # beside the live one
STATE_ROWS = 64  # at least so many rows lie between two kept states but the newest

BlockState = list[Tensor]  # convolution and recurrent states by turns; empty: it has no such


@dataclass(frozen=True, slots=True)
class KVShape:
    """One position's keys and values in one block, which lie where the block does."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    device: torch.device

    @property
    def n_elements(self) -> int:
        return self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True, slots=True)
class SessionLayout:
    """By block of the span: what grows with each position, and what a session has but once."""

    shapes: tuple[KVShape | None, ...]
    state_bytes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def read(cls, cache: DynamicCache, dtype: torch.dtype, device: torch.device) -> "SessionLayout":
        """From a cache that a few rows went through.

        Raises:
            ValueError: a block keeps something that is neither keys and values nor such a state.
        """
        shapes, state_bytes = [], []
        for layer in cache.layers:
            kind = type(layer)
            if kind not in (DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer):
                raise ValueError(f"its blocks keep a {kind.__name__}, which cannot be rolled back")
            state = read_state(layer) if kind is LinearAttentionLayer else []
            state_bytes.append(sum(part.nbytes for part in state))
            shapes.append(None if kind is LinearAttentionLayer else _kv_shape(layer))
        return cls(tuple(shapes), tuple(state_bytes), dtype, device)

    def position_bytes(self, entry: int, exit: int) -> int:
        elements = sum(shape.n_elements for shape in self.shapes[entry:exit] if shape)
        return elements * self.dtype.itemsize

    def fixed_bytes(self, entry: int, exit: int) -> int:
        return (1 + KEPT_STATES) * sum(self.state_bytes[entry:exit])


def _kv_shape(layer: DynamicLayer) -> KVShape | None:
    if not layer.is_initialized:  # a block without attention
        return None
    keys, values = layer.keys, layer.values
    return KVShape(keys.shape[1], keys.shape[3], values.shape[1], values.shape[3], keys.device)


class SlabLayer(DynamicLayer):  # type: ignore[misc]  # its base has no types
    """One attention block's history, [1, heads, capacity, dim]."""

    is_croppable = False

    def __init__(
        self, layout: SessionLayout, shape: KVShape, capacity: int, is_sliding: bool
    ) -> None:
        super().__init__()
        self.is_sliding = is_sliding  # the library builds its masks by it
        self.is_initialized, self.length = True, 0
        self.key_slab, self.value_slab = (
            pages((1, heads, capacity, dim), layout.dtype, shape.device)
            for heads, dim in (
                (shape.key_heads, shape.key_dim),
                (shape.value_heads, shape.value_dim),
            )
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        start, self.length = self.length, self.length + key_states.shape[2]
        self.key_slab[:, :, start : self.length] = key_states
        self.value_slab[:, :, start : self.length] = value_states
        return self.key_slab[:, :, : self.length], self.value_slab[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Views of keys and values, [heads, rows, dim]."""
        return self.key_slab[0, :, start:stop], self.value_slab[0, :, start:stop]


class EmptyCache(DynamicCache):  # type: ignore[misc]  # its base has no types
    """The library's cache of a session's first rows, even where no block of the span attends."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0


class SessionCache(DynamicCache):  # type: ignore[misc]  # its base has no types
    """One session in blocks `[entry, exit)` of the span, as the model's forward sees its cache."""

    def __init__(
        self, config: Any, layout: SessionLayout, capacity: int, entry: int, exit: int
    ) -> None:
        super().__init__(config=config)
        self.length = 0
        self.slabs: list[SlabLayer] = []
        self.recurrent: list[LinearAttentionLayer] = []
        for block in range(entry, exit):
            layer, shape = self.layers[block], layout.shapes[block]
            if shape is not None:
                self.layers[block] = SlabLayer(layout, shape, capacity, layer.is_sliding)
                self.slabs.append(self.layers[block])
            elif isinstance(layer, LinearAttentionLayer):
                self.recurrent.append(layer)

    def set_length(self, length: int) -> None:
        """The attention blocks' histories end here; recurrent states are not touched."""
        self.length = length
        for slab in self.slabs:
            slab.length = length

    def clear(self) -> None:
        """Hold nothing any more."""
        self.length = 0
        for blocks in (self.layers, self.slabs, self.recurrent):
            blocks.clear()

    # Whichever block the library asks about, all are of one length, and none ever drops a row.

    def get_seq_length(self, layer_idx: int = 0) -> int:
        layer = self.layers[layer_idx]
        if isinstance(layer, SlabLayer):
            return layer.length
        return self.slabs[0].length if self.slabs else self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length(layer_idx) + query_length, 0


class Past:
    """The states of a session's recurrent blocks at a few positions, and the rows between them.

    Kept are the empty state, the one before the newest step, and two older ones at least
    `STATE_ROWS` apart. So a step can be repeated to the last bit, refused drafts run again from
    the start of their step, and a rollback of at most `STATE_ROWS` rows is short.
    """

    def __init__(self, cache: SessionCache, rows: Tensor) -> None:
        self._cache, self.rows = cache, rows
        """Input rows of every position, [capacity, ...]."""
        self.kept: list[tuple[int, list[BlockState]]] = []
        self._at: int | None = 0  # how many rows the live state has seen; None: nobody knows

    def rewind(self, start: int) -> int:
        """Go to the newest state at or before `start`; rows from its position on run again."""
        while self.kept and self.kept[-1][0] > start:
            self.kept.pop()
        position, states = self.kept[-1] if self.kept else (0, None)
        if self._at is None or not position <= self._at <= start:
            for number, layer in enumerate(self._cache.recurrent):
                write_state(layer, states[number] if states else None)
            self._at = position
        return self._at

    def begin(self, start: int, rows: Tensor) -> None:
        """`rows` come next, from `start` on, where the live state is."""
        positions = [position for position, _ in self.kept]
        if start and start not in positions:
            if len(positions) > 1 and positions[-1] - positions[-2] < STATE_ROWS:
                self.kept.pop()  # the newest gives way, unless it is far from the one before it
            del self.kept[: len(self.kept) + 1 - KEPT_STATES]
            states = [read_state(layer) for layer in self._cache.recurrent]
            self.kept.append((start, states))
        if not start and self.rows.shape[1:] != rows.shape[1:]:  # embedded elsewhere: no ids
            self.rows = rows.new_empty(self.rows.shape[0], *rows.shape[1:])
        self.rows[start : start + rows.shape[0]] = rows
        self._at = None

    def end(self, length: int) -> None:
        """The rows that came have been run."""
        self._at = length

    def state(self, length: int) -> list[Tensor]:
        """The state behind `length` rows, if it is the live one; else nothing."""
        if self._at != length:
            return []
        return [part for layer in self._cache.recurrent for part in read_state(layer)]

    def take_state(self, parts: Sequence[Tensor], length: int) -> None:
        """What `state` gave in another session of the same blocks."""
        given = iter(parts)
        for layer in self._cache.recurrent:
            write_state(layer, [next(given) for _ in range(2 * layer.number_of_states)])
        self._at = length


def read_state(layer: LinearAttentionLayer) -> BlockState:
    """A copy of what a recurrent block remembers."""
    return [
        torch.empty(0) if part is None else part.clone()
        for index in range(layer.number_of_states)
        for part in (layer.conv_states[index], layer.recurrent_states[index])
    ]


def write_state(layer: LinearAttentionLayer, state: BlockState | None) -> None:
    """Make the block remember `state`, or nothing."""
    if state is None:
        layer.reset()
        return
    for index in range(layer.number_of_states):
        conv, recurrent = state[2 * index : 2 * index + 2]
        if conv.numel():
            layer.conv_states[index] = conv.clone()
            layer.conv_kernel_size[index] = conv.shape[-1]
            layer.is_conv_states_initialized[index] = True
            layer.dtype, layer.device = conv.dtype, conv.device
        if recurrent.numel():
            layer.recurrent_states[index] = recurrent.clone()
            layer.is_recurrent_states_initialized[index] = True
        layer.has_previous_state[index] = True
