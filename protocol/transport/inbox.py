"""Where received messages wait for their one receiver, and how it learns that no more will come.

In: messages in order, then the reason of the end. Out: the same, to `get`; giving up waiting
loses nothing. Or to `each`, at once, in the task of whoever brings them: that saves waking another.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from protocol.errors import ManyhandsError

MESSAGE_OVERHEAD_BYTES = 128  # what a waiting message costs besides its bytes, about


class Inbox:
    def __init__(self) -> None:
        self.n_bytes = 0
        self.reason: ManyhandsError | None = None  # why it ended
        self._messages: deque[bytes] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], None] | None = None  # instead of keeping them here
        self._error: Exception | None = None  # what it raised

    def put(self, message: bytes) -> None:
        if self._take is not None and self._arrival is not None and not self._arrival.done():
            self._hand_over(message, self._take)
            return
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
        return self._first()

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        """Every message, until the reason of the end is raised, or what `take` raises."""
        while True:
            while self._messages:
                take(self._first())
            if self.reason is not None:
                raise self.reason.with_traceback(None)
            assert self._arrival is None, "one receiver at a time"
            self._take, self._error = take, None
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._take = self._arrival = None
            if self._error is not None:
                raise self._error

    def _hand_over(self, message: bytes, take: Callable[[bytes], None]) -> None:
        try:
            take(message)
        except Exception as error:  # the receiver's, raised there: whoever brings messages goes on
            self._take, self._error = None, error
            wake(self._arrival)

    def _first(self) -> bytes:
        message = self._messages.popleft()
        self.n_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
        return message


def wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
