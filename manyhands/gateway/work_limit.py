"""A time limit for work that has to wait its turn now and then, which costs it nothing."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class WorkLimit:
    """As `asyncio.timeout(limit_s)`, around the work of one task; what it waits for others is not
    counted."""

    def __init__(self, limit_s: float) -> None:
        self._timeout = asyncio.timeout(limit_s)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Meanwhile its time stands still."""
        loop, when_s = asyncio.get_running_loop(), self._timeout.when()
        assert when_s is not None, "it waits for one thing at a time"
        left_s = when_s - loop.time()
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(loop.time() + left_s)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """
        Raises:
            TimeoutError: it took longer.
        """
        await self._timeout.__aexit__(kind, error, trace)
