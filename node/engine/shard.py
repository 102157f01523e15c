"""The shard engine: rows of many sessions through one span, step by step.

In: `StepItem`s, each some rows of one session and where they start. Out: their hidden states
behind the last block they ran through, and logits where the model ends. Rows that start below a
session's length roll it back; that makes retries harmless and refused drafts cheap. One thread
owns the engine; who runs when is the batcher's affair, sampling is `protocol.sampling`'s. How rows
are run is the subclasses' part: `packed_engine.py` packs all of a step into one forward,
`session_engine.py` takes session by session.
"""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.nn import Module

from node.engine.adapters import Adapters
from node.engine.heap import trim_heap
from node.engine.kv_layout import MAX_ROLLBACK
from node.engine.lease import Lease
from node.engine.pruning import parts_behind, text_config
from node.engine.quantization import held_bytes
from node.engine.weights import LoadedSpan
from protocol.errors import BadResult, BadRows, ContextExceeded, OutOfMemory, UsageError
from protocol.messages import Span
from protocol.profile import Profile


@dataclass(slots=True)
class StepItem:
    """Rows of one session: token ids [rows] where the step embeds, else [rows, hidden_size].

    At block 0 the rows say which: hidden ones were embedded elsewhere. There, a step has one kind.

    `start` is the position of the first row; `n_logits` says how many of the last rows need
    logits, and counts only where the lease ends with the model.
    """

    lease: Lease
    start: int
    rows: Tensor
    n_logits: int = 0


@dataclass(slots=True)
class StepResult:
    """`hidden` [rows, hidden_size], contiguous; `logits` [n_logits, vocab_size] in float32."""

    hidden: Tensor
    logits: Tensor | None


class ShardEngine(ABC):
    """A loaded span and the forward that was proved right for it."""

    def __init__(self, loaded: LoadedSpan, max_positions: int) -> None:
        text = text_config(loaded.model)
        self.span: Span = loaded.span
        self.architecture: str = loaded.architecture
        self.n_blocks: int = loaded.n_blocks
        self.embeds: bool = loaded.embeds
        self.heads: bool = loaded.heads
        self.dtype: torch.dtype = loaded.dtype
        self.profile: Profile = loaded.profile
        self.hidden_size: int = int(text.hidden_size)
        self.vocab_size: int = int(text.vocab_size)
        self.max_positions: int = max_positions
        self.weights_bytes: int = held_bytes(loaded.model)
        self.device: torch.device = loaded.model.device
        """Where rows are expected and results lie."""
        self.adapters = Adapters(loaded)
        self._model, self._behind = loaded.model, list[Module]()

    @property
    @abstractmethod
    def forward_kind(self) -> str:
        """Which forward runs: `DirectForward` is the quick one, `FamilyForward` packs sessions as
        well, `SessionForward` takes them one by one.
        """

    @property
    def row_bytes(self) -> int:
        """One row of hidden states, on the wire or in a journal."""
        return self.hidden_size * self.dtype.itemsize

    @property
    def kv_bytes_per_position(self) -> int:
        """Of a session through the whole span; a sub-span takes its share of blocks."""
        return len(self.span) * self.kv_bytes_per_block

    @property
    @abstractmethod
    def kv_bytes_per_block(self) -> int:
        """One position's keys and values in one block; where blocks differ, in the largest."""

    @abstractmethod
    def lease_bytes(self, capacity: int, *, entry: int, exit: int) -> int:
        """What a session of `capacity` positions in blocks `[entry, exit)` may come to hold."""

    def open(
        self,
        capacity: int,
        *,
        entry: int | None = None,
        exit: int | None = None,
        adapter: str = "",
        reuse: Lease | None = None,
    ) -> Lease:
        """Room for `capacity` positions in blocks `[entry, exit)`, by default the whole span.

        All its rows run with `adapter`, a `name@digest` that is loaded here. `reuse` is the lease
        of a session that is over, of the same blocks and adapter: the new one begins with its rows,
        without a copy where its capacity suffices (the new one then has that), and the old one is
        closed.

        Raises:
            UsageError: these blocks are not in the span.
            PeerRefused: that adapter is not here.
            ContextExceeded: the model has fewer positions.
            OutOfMemory: the machine has no room for it.
        """
        entry = self.span.start if entry is None else entry
        exit = self.span.stop if exit is None else exit
        if not self.span.start <= entry < exit <= self.span.stop:
            raise UsageError(f"blocks {entry}:{exit} are not in the span {self.span} served here")
        if not 0 < capacity <= self.max_positions:
            raise ContextExceeded(
                f"{capacity} positions asked of a model that takes 1 to {self.max_positions}"
            )
        chosen = self.adapters.get(adapter) if adapter else None
        if reuse is not None and (reuse.entry, reuse.exit) != (entry, exit):
            raise ValueError(f"blocks {reuse.entry}:{reuse.exit} are not {entry}:{exit}")
        if reuse is not None and reuse.adapter is not chosen:
            raise ValueError("rows that ran with another adapter cannot be used again")
        lease = self._lease(capacity, entry, exit, reuse)
        lease.adapter = chosen
        return lease

    @abstractmethod
    def _lease(self, capacity: int, entry: int, exit: int, reuse: Lease | None) -> Lease:
        """`open`, once its arguments proved sound."""

    def step(self, items: Sequence[StepItem]) -> list[StepResult]:
        """Run all items, each through the blocks of its lease, of which each has its own.

        Raises:
            UsageError: rows of another shape, a gap before `start`, ids outside the vocabulary.
            BadRows: rows that hold NaN or infinity.
            ContextExceeded: rows beyond a lease's capacity.
            BadResult: sound rows became NaN or infinity here: these weights, or this dtype.
            OutOfMemory: the device ran out.

        Whatever is raised, the leases then hold what lies below each `start`; one that had to
        forget on the way to more rows than it takes at once holds nothing.
        """
        if torch.is_inference_mode_enabled():
            return self._step(items)
        with torch.inference_mode():
            return self._step(items)

    def _step(self, items: Sequence[StepItem]) -> list[StepResult]:
        if not items:
            return []
        at_start = [item for item in items if item.lease.entry == 0]
        embeds = bool(at_start) and at_start[0].rows.dim() == 1
        for item in items:
            self._check(item, embeds=embeds and item.lease.entry == 0)
        if len(items) > 1 and len({id(item.lease) for item in items}) != len(items):
            raise ValueError("a lease appears twice in one step")
        if embeds:
            self._check_ids(torch.cat([item.rows for item in at_start]))
        try:
            results = self._run(items)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the step's tensors
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            trim_heap()  # what the step had taken by then
            raise OutOfMemory("the device ran out of memory in a step") from error
        self._check_results(items, results)
        return results

    @torch.inference_mode()
    def normed(self, hidden: Tensor) -> Tensor:
        """Rows behind the last block, as the family's model without its head gives them."""
        assert self.heads, "only the end of a model has its norm"
        self._behind = self._behind or parts_behind(self._model)
        for part in self._behind:
            hidden = part(hidden)
        return hidden

    @abstractmethod
    def _run(self, items: Sequence[StepItem]) -> list[StepResult]:
        """Run checked items; whatever is raised leaves each lease at its item's `start`."""

    def _check(self, item: StepItem, *, embeds: bool) -> None:
        lease, rows, entry = item.lease, item.rows, item.lease.entry
        shape = () if embeds else (self.hidden_size,)
        if rows.dim() != 1 + len(shape) or rows.shape[1:] != shape or not rows.shape[0]:
            what = f"[rows, {self.hidden_size}]" if entry else "ids [rows] or hidden rows, one kind"
            raise UsageError(f"block {entry} takes {what}, got {list(rows.shape)}")
        dtype = torch.int64 if embeds else self.dtype
        if rows.dtype != dtype:
            raise UsageError(f"block {entry} takes rows of {dtype}, got {rows.dtype}")
        if not 0 <= item.start <= lease.length:
            raise UsageError(f"rows start at {item.start}, {lease.length} positions are known")
        if 0 < item.start < lease.floor:
            raise UsageError(
                f"rows start at {item.start}, what they would need is forgotten below "
                f"{lease.floor}",
                hint=f"a session goes back {MAX_ROLLBACK} positions at most, or to 0",
            )
        if item.start + rows.shape[0] > lease.capacity:
            raise ContextExceeded(
                f"{rows.shape[0]} rows from {item.start} on do not fit {lease.capacity} positions"
            )
        if not 0 <= item.n_logits <= rows.shape[0]:
            raise UsageError(f"logits of {item.n_logits} rows asked, {rows.shape[0]} given")
        if not embeds and not _is_finite(rows):
            raise BadRows(f"the rows from {item.start} on hold NaN or infinite values")

    def _check_results(self, items: Sequence[StepItem], results: Sequence[StepResult]) -> None:
        for item, result in zip(items, results, strict=True):
            if _is_finite(result.hidden) and (result.logits is None or _is_finite(result.logits)):
                continue
            for other in items:
                lease = other.lease
                lease.cut(other.start if other.start >= lease.floor else 0)
            raise BadResult(
                f"blocks {item.lease.entry}:{item.lease.exit} in {self.profile.dtype} made NaN or "
                f"infinite values of sound rows from {item.start} on",
                hint="serve with another --dtype, or fetch the checkpoint again",
            )

    def _check_ids(self, ids: Tensor) -> None:
        low, high = (int(bound) for bound in ids.aminmax())
        if low < 0 or high >= self.vocab_size:
            raise UsageError(f"token ids go from 0 to {self.vocab_size - 1}, got {low} to {high}")


def _is_finite(values: Tensor) -> bool:
    """By the sum, which is NaN or infinite where any value is. So may be that of many large ones:
    then by the extremes, at five times the price for a chunk of a prompt.
    """
    if isfinite(values.sum()):
        return True
    low, high = values.aminmax()
    return isfinite(low) and isfinite(high)


def _is_out_of_memory(error: BaseException) -> bool:
    """The CPU's allocator raises a plain RuntimeError."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or "can't allocate memory" in str(error)
