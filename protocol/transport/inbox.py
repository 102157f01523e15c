"""Where received messages wait for their one receiver, and how it learns that no more will come.

In: messages in order, then the reason of the end. Out: the same, to `get`; giving up waiting
loses nothing.
"""

import asyncio
from collections import deque

from protocol.errors import ManyhandsError

MESSAGE_OVERHEAD_BYTES = 128  # what a waiting message costs besides its bytes, about


class Inbox:
    def __init__(self) -> None:
        self.n_bytes = 0
        self.reason: ManyhandsError | None = None  # why it ended
        self._messages: deque[bytes] = deque()
        self._arrival: asyncio.Future[None] | None = None

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self.n_bytes += len(message) + MESSAGE_OVERHEAD_BYTES
        wake(self._arrival)

    def end(self, reason: ManyhandsError, *, drop: bool = False) -> None:
        """Nothing more will come. The first reason stands; `drop` forgets what waits."""
        if self.reason is None:
            self.reason = reason
        if drop:
            self._messages.clear()
            self.n_bytes = 0
        wake(self._arrival)

    async def get(self) -> bytes:
        """The next message; once there is none any more, the reason is raised."""
        while not self._messages:
            if self.reason is not None:
                raise self.reason.with_traceback(None)
            assert self._arrival is None, "one receiver at a time"
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        message = self._messages.popleft()
        self.n_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
        return message


def wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
