"""How many chains one client asks for room at a time.

A node lends a client a quarter of its room until the client commits to what it asked for
(`node/shares.py`). A client with many callers, as a gateway, would use that up with the first of a
crowd, and the rest would be refused, and come again, until their wait is over. So they ask one
after the other, in the order in which they came. Whoever goes on with an answer waits for nobody.
"""

import asyncio

AT_A_TIME = 16


class Turns:
    """Of one client, on one event loop."""

    def __init__(self, n: int = AT_A_TIME) -> None:
        self._free = asyncio.Semaphore(n)

    async def take(self) -> None:
        await self._free.acquire()

    def give_back(self) -> None:
        self._free.release()


class Turn:
    """Of one session; it has one, or none."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._is_taken = False

    async def take(self) -> None:
        if not self._is_taken:
            await self._turns.take()
            self._is_taken = True

    def give_back(self) -> None:
        if self._is_taken:
            self._is_taken = False
            self._turns.give_back()
