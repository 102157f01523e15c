"""How soon answers begin here: what this gateway saw within the last minute.

In: events of answers. Out: an estimate of the next first token's time: the middle one of those that
came, and of those still waited for, which count as long as they have waited already.
"""

import time
from collections import deque
from collections.abc import Callable
from statistics import median

from manyhands.gateway.answers import Observer
from scheduler.request import Event, Token

WINDOW_S, MAX_SEEN = 60.0, 64


class Pace:
    """Of one gateway."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=MAX_SEEN)  # when, how long
        self._waiting: dict[PaceWatch, float] = {}

    def watch(self) -> "PaceWatch":
        return PaceWatch(self)

    def first_token_ms(self) -> float:
        """0 while nothing was seen."""
        now_s = self._clock_s()
        came = [took_s for at_s, took_s in self._seen if now_s - at_s <= WINDOW_S]
        usual = median(came) if came else 0.0
        waited = [now_s - began_s for began_s in self._waiting.values()]
        return 1000 * median([*came, *(s for s in waited if s > usual)] or [0.0])

    def begin(self, watch: "PaceWatch") -> None:
        self._waiting[watch] = self._clock_s()

    def end(self, watch: "PaceWatch", *, came: bool) -> None:
        began_s = self._waiting.pop(watch, None)
        if came and began_s is not None:
            now_s = self._clock_s()
            self._seen.append((now_s, now_s - began_s))


class PaceWatch(Observer):
    """Of the answers to one request."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace

    def began(self, n_choices: int) -> None:
        self._pace.begin(self)

    def hear(self, index: int, event: Event) -> None:
        if isinstance(event, Token):
            self._pace.end(self, came=True)

    def ended(self, index: int, reason: str, code: str) -> None:
        self._pace.end(self, came=False)
