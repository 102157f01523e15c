"""How fast this node is, measured on the span it serves, before anybody is served.

In: the engine, on the caller's thread. Out: what a decode step takes for one session and for
several together, and what a prompt's row takes. Afterwards `vitals.py` follows what steps really
take; these are its beginning.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from node.engine import Lease, ShardEngine, StepItem
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    import torch

BATCHES = (1, 4, 16)  # sessions in one decode step
DECODE_STEPS, PREFILL_ROWS = 6, 64
LEAST_STEPS = 2  # of a span so slow that more would take longer than anybody waits
BUDGET_S = 0.25  # for each batch size, and once more for prefill and what comes first


@dataclass(frozen=True, slots=True)
class Speeds:
    """Zero and empty where nothing could be measured."""

    decode_steps_us: tuple[tuple[int, int], ...] = ()  # (sessions, microseconds), ascending
    prefill_us_per_row: int = 0
    fixed_us: int = 0  # of a step of one session: what its head and the step itself cost

    @property
    def decode_us(self) -> int:
        """One step of one session."""
        return self.decode_steps_us[0][1] if self.decode_steps_us else 0


def measure(engine: ShardEngine, *, batches: Sequence[int] = BATCHES) -> Speeds:
    """How fast the span is; about a second, or a few steps of one that takes longer for them."""
    trial = _Trial(engine)
    try:
        trial.step(1, 1)  # the first step pays for lazy initialisation
        count = min(PREFILL_ROWS, trial.capacity - DECODE_STEPS - 2)
        prefill_s = trial.step(1, count) / count if count > 0 else 0.0
        steps = _decode_steps(trial, batches)
        return Speeds(steps, max(1, round(prefill_s * 1e6)), _fixed_us(trial, steps[0][1]))
    except ManyhandsError:
        return Speeds()
    finally:
        trial.close()


def _decode_steps(trial: "_Trial", batches: Sequence[int]) -> tuple[tuple[int, int], ...]:
    steps: list[tuple[int, int]] = []
    for n_sessions in batches:
        try:
            trial.step(n_sessions, 1)  # each shape has its own first time
            step_us = round(_median_s(trial, n_sessions) * 1e6)
        except ManyhandsError:
            if not steps:
                raise
            break  # no room for so many: what was measured stands
        # More sessions never take less; what says so is another process's doing.
        steps.append((n_sessions, max(1, step_us, *(us for _, us in steps))))
    return tuple(steps)


def _fixed_us(trial: "_Trial", whole_us: int) -> int:
    """What is left of a step of `whole_us` when its blocks are taken off: by the last block alone.

    Both take turns, and the shortest of each counts: the share that blocks have of a step is a
    property of the span, not of what else ran here meanwhile.
    """
    span = trial.engine.span
    if len(span) == 1:
        return 0
    last = _Trial(trial.engine, entry=span.stop - 1)
    try:
        last.step(1, 1)
        taken = _in_turn(trial, last)
    finally:
        last.close()
    whole_s, last_s = min(whole for whole, _ in taken), min(alone for _, alone in taken)
    blocks = (whole_s - last_s) / (len(span) - 1) * len(span) / whole_s
    return max(0, round(whole_us * (1 - max(0.0, blocks))))


def _in_turn(whole: "_Trial", last: "_Trial") -> list[tuple[float, float]]:
    began, taken = time.perf_counter(), list[tuple[float, float]]()
    while len(taken) < DECODE_STEPS:
        if len(taken) >= LEAST_STEPS and time.perf_counter() - began > BUDGET_S:
            break
        taken.append((whole.step(1, 1), last.step(1, 1)))
    return taken


def _median_s(trial: "_Trial", n_sessions: int) -> float:
    began, taken = time.perf_counter(), list[float]()
    while len(taken) < DECODE_STEPS:
        if len(taken) >= LEAST_STEPS and time.perf_counter() - began > BUDGET_S:
            break
        taken.append(trial.step(n_sessions, 1))
    return statistics.median(taken)


class _Trial:
    """A few sessions that nobody asked for, and that end with the measurement."""

    def __init__(self, engine: ShardEngine, entry: int | None = None) -> None:
        self.engine, self._entry = engine, entry
        rows = 1 + PREFILL_ROWS + len(BATCHES) * (DECODE_STEPS + 1)
        self.capacity = min(engine.max_positions, rows)
        self._leases: list[Lease] = []

    def step(self, n_sessions: int, n_rows: int) -> float:
        """Seconds of one step of so many rows each."""
        while len(self._leases) < n_sessions:
            self._leases.append(self.engine.open(self.capacity, entry=self._entry))
        leases, heads = self._leases[:n_sessions], int(self.engine.heads)
        items = [
            StepItem(lease, min(lease.length, self.capacity - n_rows), self._rows(n_rows), heads)
            for lease in leases
        ]
        began = time.perf_counter()
        for result in self.engine.step(items):
            result.hidden.cpu()
        return time.perf_counter() - began

    def _rows(self, count: int) -> "torch.Tensor":
        import torch

        engine = self.engine
        if engine.embeds and self._entry is None:
            return torch.zeros(count, dtype=torch.int64, device=engine.device)
        return torch.zeros(count, engine.hidden_size, dtype=engine.dtype, device=engine.device)

    def close(self) -> None:
        for lease in self._leases:
            lease.close()
