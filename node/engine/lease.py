"""What a session holds of an engine: room for its state in some blocks, whoever keeps it how.

The rest of a node knows leases by this interface alone. Slabs of keys and values satisfy it, and so
does any other state that a family keeps. Rows below `length` are valid; going back is forgetting.
No torch is imported here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from node.engine.adapter_rows import Adapter


@dataclass(frozen=True, slots=True)
class KVRows:
    """What blocks `[entry, exit)` cached for positions `[start, stop)`, out of its lease.

    The order and shape of `tensors` are known to leases of the same kind alone. Positions are
    part of what is cached: rows go back to where they came from.
    """

    entry: int
    exit: int
    start: int
    stop: int
    tensors: "tuple[Tensor, ...]"

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"rows run forward, got [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class BlockRows:
    """One block's keys and values of positions `[first, stop)`, [heads, rows, dim] each.

    Unlike `KVRows` they mean the same to leases of every kind, span and device.
    """

    first: int
    keys: "Tensor"
    values: "Tensor"


class Lease(Protocol):
    """One session's state in blocks `[entry, exit)`, room for `capacity` positions."""

    adapter: "Adapter | None"  # what all its rows run with, beside the model's own weights

    @property
    def entry(self) -> int: ...

    @property
    def exit(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    @property
    def length(self) -> int:
        """How many positions are known."""

    @property
    def floor(self) -> int:
        """The lowest length, besides 0, that it can be cut to; 0 unless something was forgotten."""

    @property
    def n_bytes(self) -> int:
        """What it may come to hold."""

    def cut(self, length: int) -> None:
        """Forget the rows from `length` on.

        Raises:
            UsageError: below `floor`: what those rows would need is gone.
            ValueError: that many were never known.
        """

    def export(self, start: int = 0, stop: int | None = None) -> KVRows:
        """A copy of what is cached for positions `[start, stop)`, by default all.

        Raises:
            UsageError: some of it was forgotten, or this kind of state cannot be cut so.
            ValueError: there are no such positions.
        """

    def load(self, rows: KVRows, at: int | None = None) -> None:
        """Take over what a lease of the same blocks exported; `length` is then `rows.stop`.

        `at` is where they belong, by default where they came from: it must be that position, and
        no higher than `length`.

        Raises:
            ContextExceeded: they go beyond this lease's capacity.
            ValueError: they belong to other blocks or positions.
        """

    def block_rows(self, start: int, stop: int, entry: int, exit: int) -> list[BlockRows]:
        """Views, block by block of `[entry, exit)`, of what is held of positions `[start, stop)`.

        Blocks with a window hold the last of them, or none: together with those that follow, up to
        `length`, they are what a session needs to go on.

        Raises:
            UsageError: these blocks keep something else than keys and values.
            ValueError: there are no such positions or blocks.
        """

    def load_block_rows(self, rows: Sequence[BlockRows], stop: int) -> None:
        """Take over what `block_rows` gave of all blocks here, from `length` to `stop`.

        Raises:
            UsageError: these blocks keep something else.
            ContextExceeded: they go beyond this lease's capacity.
            ValueError: they have another dtype or shape, or rows are missing that are needed.
        """

    def close(self) -> None:
        """Give the memory back now; the lease holds nothing from here on."""
