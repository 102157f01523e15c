"""What each block of a shard caches for a position, and how many positions it has to keep.

A block with a sliding window never reads behind its window again, so a session keeps there what
the window holds, what it may be rolled back, and what one forward adds. All other blocks keep
every position. Who may have how much is admission's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

MAX_ROLLBACK = 128  # positions a session can always go back, however long it is
STEP_ROWS = 256  # rows that one forward adds, at most, to a session that forgets


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """One position's keys and values in one block; latent-attention families cache one latent.

    `window` counts the positions that a row sees, itself included; None: all.
    """

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    window: int | None
    device: torch.device

    @property
    def n_elements(self) -> int:
        return self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def n_kept(self) -> int | None:
        """Positions below its next row that a session keeps; None: all."""
        return None if self.window is None else self.window - 1 + MAX_ROLLBACK

    def room(self, capacity: int) -> int:
        """Positions that a session of `capacity` takes here."""
        return capacity if self.n_kept is None else min(capacity, self.n_kept + STEP_ROWS)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The blocks of a shard, numbered from its start, or a run of them."""

    blocks: tuple[BlockLayout, ...]
    dtype: torch.dtype
    latent: bool

    def part(self, first: int, stop: int) -> "KVLayout":
        return self if stop - first == len(self.blocks) else self._part(self.blocks[first:stop])

    def _part(self, blocks: Sequence[BlockLayout]) -> "KVLayout":
        return replace(self, blocks=tuple(blocks))

    @property
    def bytes_per_position(self) -> tuple[int, ...]:
        """By block."""
        return tuple(block.n_elements * self.dtype.itemsize for block in self.blocks)

    def n_bytes(self, capacity: int) -> int:
        """What a session of `capacity` positions takes in all these blocks."""
        rooms = (block.room(capacity) for block in self.blocks)
        return sum(
            room * n_bytes for room, n_bytes in zip(rooms, self.bytes_per_position, strict=True)
        )
