"""Adapters at work: low-rank products added to the rows of a step that they belong to.

In: the rows a linear module was given and what it made of them, and whose rows lie where. Out: in
place, `(x A^T) B^T` on top of each adapter's own rows; all of an adapter's rows are one product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protocol.errors import BadAdapter


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Adapter:
    """A loaded adapter: by module, A [rank, in] and B [out, rank], the latter scaled."""

    name: str  # name@digest
    pairs: Mapping[str, tuple[Tensor, Tensor]]
    adapts_head: bool = False

    @property
    def n_bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.pairs.values() for tensor in pair)


Groups = tuple[tuple[Adapter, slice | Tensor], ...]  # each adapter's rows


class Packing:
    """Where in a step each session's rows lie, for the adapters they have.

    counts, histories, n_logits: of each session in turn: its rows in this step, the positions known
    after it, the rows that get logits. A module is given the first; where latents are cached, the
    one that expands them the second; the head the last.
    """

    def __init__(
        self,
        adapters: Sequence[Adapter | None],
        counts: Sequence[int],
        histories: Sequence[int],
        n_logits: Sequence[int],
    ) -> None:
        self._adapters = tuple(adapters)
        self._rows, self._histories, self._logits = tuple(counts), tuple(histories), tuple(n_logits)
        self._groups: dict[tuple[int, ...], Groups] = {}

    @classmethod
    def of(
        cls,
        adapters: Sequence[Adapter | None],
        counts: Sequence[int],
        histories: Sequence[int],
        n_logits: Sequence[int],
    ) -> "Packing | None":
        """None when no session has an adapter."""
        return cls(adapters, counts, histories, n_logits) if any(adapters) else None

    def add(self, key: str, x: Tensor, output: Tensor, *, is_head: bool) -> None:
        """To what module `key` made of `x`, what the adapters make of it."""
        rows, out = x.reshape(-1, x.shape[-1]), output.view(-1, output.shape[-1])
        for adapter, at in self._groups_of(rows.shape[0], is_head=is_head):
            pair = adapter.pairs.get(key)
            if pair is None:
                continue
            a, b = pair
            if isinstance(at, slice):
                out[at] += F.linear(F.linear(rows[at].to(a.dtype), a), b)
            else:
                at = at.to(rows.device)
                added = F.linear(F.linear(rows.index_select(0, at).to(a.dtype), a), b)
                out.index_add_(0, at, added.to(out.dtype))

    def _groups_of(self, n_rows: int, *, is_head: bool) -> Groups:
        counts = self._logits if is_head else self._rows
        if n_rows != sum(counts):
            counts = self._histories
        if n_rows != sum(counts):
            raise BadAdapter(f"an adapted module runs on {n_rows} rows in an order nobody knows")
        if counts not in self._groups:
            self._groups[counts] = _groups(self._adapters, counts)
        return self._groups[counts]


def _groups(adapters: Sequence[Adapter | None], counts: Sequence[int]) -> Groups:
    """A slice where an adapter's rows lie together, else their numbers."""
    runs: dict[Adapter, list[range]] = {}
    stop = 0
    for adapter, count in zip(adapters, counts, strict=True):
        start, stop = stop, stop + count
        if adapter is None or not count:
            continue
        earlier = runs.setdefault(adapter, [])
        if earlier and earlier[-1].stop == start:
            earlier[-1] = range(earlier[-1].start, stop)
        else:
            earlier.append(range(start, stop))
    return tuple((adapter, _index(ranges)) for adapter, ranges in runs.items())


def _index(runs: Sequence[range]) -> slice | Tensor:
    if len(runs) == 1:
        return slice(runs[0].start, runs[0].stop)
    return torch.tensor([row for run in runs for row in run])
