"""When tokens came: time to the first, time between, and what failovers cost."""

import time
from typing import Any

from scheduler.request import GenerationResult


class Stopwatch:
    """Starts when made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None
        self._latest: float | None = None
        self._ended: float | None = None
        self._tokens = 0
        self._failovers = 0
        self._pauses: list[float] = []

    def token(self, failovers: int) -> None:
        """A token came; `failovers` is how many there were so far."""
        now = time.perf_counter()
        if self._first is None:
            self._first = now
        elif self._latest is not None and failovers > self._failovers:
            self._pauses.append((now - self._latest) * 1000)
        self._latest, self._failovers = now, failovers
        self._tokens += 1

    def stop(self) -> None:
        """The answer is complete; what follows is settlement."""
        self._ended = time.perf_counter()

    def result(self, **what: Any) -> GenerationResult:
        ended = self._ended or time.perf_counter()
        first, latest = self._first or ended, self._latest or ended
        between = (latest - first) * 1000 / (self._tokens - 1) if self._tokens > 1 else 0.0
        return GenerationResult(
            ttft_ms=(first - self._began) * 1000,
            tpot_ms=between,
            total_ms=(ended - self._began) * 1000,
            pauses_ms=tuple(self._pauses),
            **what,
        )
