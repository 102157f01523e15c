"""What happens next: a queue of events in the order of their times, and of being planned."""

import heapq
from collections.abc import Callable
from itertools import count


class Events:
    """Discrete events; `now_s` is when the present one happens."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, at_s: float, happen: Callable[[], None]) -> None:
        """Plan an event; among equal times, what was planned first happens first."""
        heapq.heappush(self._queue, (max(at_s, self.now_s), next(self._order), happen))

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, happen)

    def run(self, until_s: float) -> None:
        """Let everything happen that is planned up to `until_s`."""
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, happen = heapq.heappop(self._queue)
            happen()
        self.now_s = until_s
