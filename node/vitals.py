"""What a node says of its span's speed and load, kept honest by what its steps really take.

In: the speeds measured at the start, and every step that ran since. Out: `Measured`, and the two
speeds that an announcement has besides. What was measured before anybody was served is only the
beginning: each kind of step drifts from it as it really does (longer contexts, another process on
this machine, heat), and what is typical of the latest ones says how far. Sizes that were not run
lately are taken to have drifted like the others.

A node whose torch thread does not come back from a step does not look idle: the time it has been
away is what a new row waits.
"""

import statistics
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from math import log
from time import perf_counter

from node.throughput import Speeds
from node.work import Load, Seen
from protocol.measured import Measured
from protocol.typical import typical

MAX_SAMPLES = 64  # of each kind of step, and of waits
LEAST_SAMPLES = 8  # before they count against what was measured at the start
DRIFT_AGE_S = 300.0  # older steps say nothing about now
WAIT_AGE_S = 10.0
RATE_S = 30.0
STUCK_S = 2.5  # a step is made to take two seconds at most; one that takes longer is in trouble
PREFILL = 0  # where the drift of prompts is kept, beside that of the batch sizes


class Vitals:
    """Everything here runs on the event loop; `now_s` is of the performance counter."""

    def __init__(
        self,
        speeds: Speeds,
        n_blocks: int,
        load: Load,
        *,
        now_s: Callable[[], float] = perf_counter,
    ) -> None:
        """`speeds` are those of the whole span, of so many blocks, before anybody was served."""
        self._speeds, self._n_blocks = speeds, n_blocks
        self._load, self._now_s = load, now_s
        self._waits_us: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)
        self._came_us: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)
        self._left_us: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)
        self._decodes: deque[tuple[float, Seen]] = deque(maxlen=MAX_SAMPLES)
        self._rows: deque[tuple[float, int]] = deque([(now_s(), load.rows)])
        self._table = dict(speeds.decode_steps_us)
        self._decode_us: dict[tuple[int, int], tuple[int, float]] = {}  # by rows and blocks
        kinds = [PREFILL, *self._table]
        self._drifts: Mapping[int, deque[tuple[float, float]]] = {
            kind: deque(maxlen=MAX_SAMPLES) for kind in kinds
        }

    # --- what it sees -----------------------------------------------------------------------------

    def saw(self, seen: Seen) -> None:
        """A step ran."""
        now_s = self._now_s()
        self._waits_us.extend((now_s, wait_us) for wait_us in seen.waits_us)
        if seen.kind in ("decode", "mixed"):
            self._decodes.append((now_s, seen))
            self._came_us.extend((now_s, came_us) for came_us in seen.came_us)
            self._left_us.append((now_s, seen.left_us))
        if now_s - self._rows[-1][0] >= 1.0:
            self._count_rows(now_s)
        if seen.kind == "decode" and self._table:
            nearest, expected_us = self._expected(seen.rows, seen.n_blocks)
            self._drifts[nearest].append((now_s, seen.spent_us / expected_us))
        elif seen.kind == "prefill" and self._speeds.prefill_us_per_row:
            row_us = self._speeds.prefill_us_per_row * seen.n_blocks / self._n_blocks
            expected_us = row_us * seen.rows
            self._drifts[PREFILL].append((now_s, seen.spent_us / expected_us))

    def _expected(self, rows: int, n_blocks: int) -> tuple[int, float]:
        """The batch size that is nearest, and what such a decode took at the start."""
        known = self._decode_us.get((rows, n_blocks))
        if known is None:
            whole_us = _interpolated(self._speeds.decode_steps_us, rows)
            fixed_us = self._speeds.fixed_us
            nearest = min(self._table, key=lambda size: abs(log(size / rows)))
            known = nearest, fixed_us + (whole_us - fixed_us) * n_blocks / self._n_blocks
            self._decode_us[rows, n_blocks] = known
        return known

    # --- what it says -----------------------------------------------------------------------------

    @property
    def decode_us(self) -> int:
        """One decode step of one session."""
        steps = self.decode_steps_us
        return steps[0][1] if steps else 0

    @property
    def decode_steps_us(self) -> tuple[tuple[int, int], ...]:
        """(sessions, microseconds of a step) at present."""
        common = self._drift(*self._table)
        steps: list[tuple[int, int]] = []
        for size, us in self._speeds.decode_steps_us:
            now_us = round(us * (self._drift(size) or common or 1.0))
            steps.append((size, max(1, now_us, *(us for _, us in steps))))
        return tuple(steps)

    @property
    def prefill_us_per_row(self) -> int:
        us = self._speeds.prefill_us_per_row
        return max(1, round(us * (self._drift(PREFILL) or 1.0))) if us else 0

    @property
    def fixed_us(self) -> int:
        first = self._speeds.decode_us
        return round(self._speeds.fixed_us * self.decode_us / first) if first else 0

    @property
    def queue_us(self) -> int:
        """How long a row that comes now waits before its step begins."""
        now_s = self._now_s()
        waits_us = [us for at_s, us in self._waits_us if now_s - at_s <= WAIT_AGE_S]
        away_us = self.away_s * 1e6
        wait_us = statistics.fmean(waits_us) if waits_us else 0.0
        return round(max(wait_us, away_us))

    @property
    def visit_us(self) -> int:
        """What a row's way through this node takes beside its step, where it waits for nobody; 0
        where too few were seen.
        """
        came_us, left_us = self._lately(self._came_us), self._lately(self._left_us)
        if min(len(came_us), len(left_us)) < LEAST_SAMPLES:
            return 0
        return max(1, round(typical(came_us) + typical(left_us)))

    @property
    def shared_us(self) -> int:
        """By how much a row's step takes longer, lately, since others share it.

        At least 1: 0 is what those say who do not know. A step that a row had to itself took long
        for other reasons, which make no others wait.
        """
        now_s, fixed_us, whole_us = self._now_s(), self.fixed_us, self.decode_us
        lately = [seen for at_s, seen in self._decodes if now_s - at_s <= WAIT_AGE_S]
        if not lately or not whole_us:
            return 1
        block_us = (whole_us - fixed_us) / self._n_blocks
        more_us = sum(
            (seen.spent_us - fixed_us - block_us * seen.n_blocks) * seen.rows
            for seen in lately
            if seen.rows > 1
        )
        return max(1, round(more_us / sum(seen.rows for seen in lately)))

    @property
    def away_s(self) -> float:
        """How long the torch thread has not come back, if that is longer than any step takes."""
        since_s = self._load.busy_since_s
        away_s = 0.0 if since_s is None else self._now_s() - since_s
        return away_s if away_s > STUCK_S else 0.0

    @property
    def rows_per_s(self) -> float:
        """Of the last half minute, or since the start."""
        now_s = self._now_s()
        then_s, rows = self._rows[0]
        return (self._load.rows - rows) / max(1.0, now_s - then_s)

    def measured(self) -> Measured:
        """What to announce now of this span."""
        self._count_rows(self._now_s())
        return Measured(
            decode_steps_us=self.decode_steps_us,
            fixed_us=self.fixed_us,
            visit_us=self.visit_us,
            queue_us=self.queue_us,
            shared_us=self.shared_us,
            backlog_us=round(self._load.backlog_s * 1e6),
            rows_per_s=round(self.rows_per_s),
        )

    # --- inside -----------------------------------------------------------------------------------

    def _count_rows(self, now_s: float) -> None:
        self._rows.append((now_s, self._load.rows))
        while len(self._rows) > 2 and now_s - self._rows[1][0] >= RATE_S:
            self._rows.popleft()

    def _drift(self, *kinds: int) -> float | None:
        """By how much steps take longer than at the start; None where too few were seen."""
        ratios = [ratio for kind in kinds for ratio in self._lately(self._drifts[kind])]
        return typical(ratios) if len(ratios) >= LEAST_SAMPLES else None

    def _lately(self, samples: Iterable[tuple[float, float]]) -> list[float]:
        now_s = self._now_s()
        return [value for at_s, value in samples if now_s - at_s <= DRIFT_AGE_S]


def _interpolated(steps_us: Iterable[tuple[int, int]], size: int) -> float:
    """What a step of `size` takes, between the sizes that were measured, and beyond the largest."""
    steps = sorted(steps_us)
    sizes = [measured for measured, _ in steps]
    at = bisect_left(sizes, size)
    if at < len(steps) and sizes[at] == size:
        return float(steps[at][1])
    if at == 0:
        return float(steps[0][1])
    pairs = list(pairwise(steps))
    if not pairs:
        return float(steps[0][1])
    (small, small_us), (large, large_us) = pairs[min(at, len(pairs)) - 1]
    return small_us + (large_us - small_us) * (size - small) / (large - small)
