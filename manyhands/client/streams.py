"""Answers as they come, for code that awaits and for code that waits.

In: chunks of a backend. Out: what the caller iterates. Leaving the `with` block, or `cancel`, ends
the answer where it is: its room on the peers is free, and what was run is settled.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Generic, Self, TypeVar

from manyhands.client.reading import understood
from manyhands.client.values import Answer, Growing, Json, Token
from manyhands.errors import RequestError
from manyhands.portal import Portal
from protocol.errors import UsageError

T = TypeVar("T")


class AsyncStream(Generic[T]):
    """Iterate it once; best in `async with`. read: what a chunk is to the caller, if anything."""

    def __init__(
        self, chunks: AsyncGenerator[Json, None], read: Callable[[Json], T | None]
    ) -> None:
        self._chunks, self._read = chunks, read

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            chunk = await anext(self._chunks)
            try:
                item = understood(self._read, chunk)
            except RequestError:
                await self.cancel()
                raise
            if item is not None:
                return item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cancel()

    async def cancel(self) -> None:
        """End it now; nothing when it has ended."""
        await self._chunks.aclose()


class AsyncAnswerStream(AsyncStream[Token]):
    """The tokens of a completion, and then the whole."""

    def __init__(self, chunks: AsyncGenerator[Json, None]) -> None:
        self._growing = Growing()
        super().__init__(chunks, self._growing.hear)

    async def result(self) -> Answer:
        """The whole answer; what has not come yet is waited for.

        Raises:
            UsageError: it was cancelled.
        """
        async for _ in self:
            pass
        answer = understood(Growing.answer, self._growing)
        if answer is None:
            raise UsageError("the answer was cancelled before its end")
        return answer


class Stream(Generic[T]):
    """The same for code that waits: iterate it once; best in `with`. owner: lives as long."""

    def __init__(self, portal: Portal, inner: AsyncStream[T], owner: object) -> None:
        self._portal, self._inner, self._owner = portal, inner, owner

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            return self._portal.call(self._inner.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End it now; nothing when it has ended."""
        if not self._portal.is_closed:
            self._portal.call(self._inner.cancel())


class AnswerStream(Stream[Token]):
    """The tokens of a completion, and then the whole."""

    def __init__(self, portal: Portal, inner: AsyncAnswerStream, owner: object) -> None:
        super().__init__(portal, inner, owner)
        self._answer = inner

    def result(self) -> Answer:
        """The whole answer; what has not come yet is waited for.

        Raises:
            UsageError: it was cancelled.
        """
        return self._portal.call(self._answer.result())
