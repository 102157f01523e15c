"""Places for long work, in turns: who asks for much does not crowd out whoever asks for little.

In: who wants a place. Out: the place, when its turn has come: callers in turns, each one's own in
the order in which they were asked for; nobody holds all of them.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """`n` of them, of which one caller holds all but one at most."""

    def __init__(self, n: int) -> None:
        self._n_free, self._most = n, max(1, n - 1)
        self._held = Counter[str]()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # whose turn is next comes first

    @asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Wait for one, and give it back at the end."""
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        self._give()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():  # else it was never given
                self._n_free += 1
                self._held -= Counter((caller,))
            self._give()

    def _give(self) -> None:
        """Places to those whose turn it is, for as long as there are any."""
        while self._n_free and (caller := self._next()) is not None:
            queue = self._queues.pop(caller)
            queue.popleft().set_result(None)
            if queue:
                self._queues[caller] = queue  # behind all others
            self._held[caller] += 1
            self._n_free -= 1

    def _next(self) -> str | None:
        """Whose first is to be given one."""
        for caller, queue in tuple(self._queues.items()):
            while queue and queue[0].cancelled():
                queue.popleft()
            if not queue:
                del self._queues[caller]
            elif self._held[caller] < self._most:
                return caller
        return None
