"""What sessions that ended have run, kept in free room for others to go on from.

In: rows of a session that is over, and how much room is free. Out: the same among the node's
prefixes, in a copy of the right size where they lie in much more room than they need; or dropped.
"""

import asyncio
from collections.abc import Callable

from node.batching import Batcher
from node.prefixes import Prefixes, Rows, smaller
from node.served import Served
from protocol.messages import Reserve

WASTEFUL = 2  # a session that ends with this many times the room it used leaves a copy instead
Cost = Callable[[Reserve, int | None], int]


class Leftovers:
    """Of one node; `rows_bytes` says what a session's rows take, all or so many."""

    def __init__(self, prefixes: Prefixes, served: Served, rows_bytes: Cost) -> None:
        self._prefixes, self._served, self._rows_bytes = prefixes, served, rows_bytes
        self._shrinking: set[asyncio.Task[None]] = set()

    def keep(self, rows: Rows, free_bytes: int, batcher: Batcher) -> None:
        """If there is room."""
        if not self._prefixes.retain(rows, self._rows_bytes(rows.reserve, None), free_bytes):
            return
        if rows.lease.capacity >= WASTEFUL * rows.length:
            task = asyncio.create_task(self._shrink(rows, batcher))
            self._shrinking.add(task)
            task.add_done_callback(self._shrinking.discard)

    def clear(self) -> None:
        """The node leaves."""
        self._prefixes.clear()
        for task in self._shrinking:
            task.cancel()

    async def _shrink(self, rows: Rows, batcher: Batcher) -> None:
        """Copy what is kept to where it takes no more room than it needs."""
        copy = await smaller(rows, self._served.engine, batcher)
        if copy is not None:
            self._prefixes.shrunk(rows, *copy, self._rows_bytes(rows.reserve, rows.length))
