"""When tokens came: time to the first, time between, and what failovers cost."""

import time
from math import inf
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

    @property
    def token_s(self) -> float | None:
        """Between two tokens; None while there are no two."""
        if self._tokens < 2 or self._first is None or self._latest is None:
            return None
        return (self._latest - self._first) / (self._tokens - 1)

    def rest_s(self, max_tokens: int) -> float:
        """How long an answer of so many tokens still takes, if it goes on like this."""
        token_s = self.token_s
        return inf if token_s is None else (max_tokens - self._tokens) * token_s

    def stop(self) -> None:
        """The answer is complete; what follows is settlement."""
        self._ended = time.perf_counter()

    def result(self, **what: Any) -> GenerationResult:
        ended = self._ended or time.perf_counter()
        first = self._first or ended
        return GenerationResult(
            ttft_ms=(first - self._began) * 1000,
            tpot_ms=(self.token_s or 0.0) * 1000,
            total_ms=(ended - self._began) * 1000,
            pauses_ms=tuple(self._pauses),
            **what,
        )
