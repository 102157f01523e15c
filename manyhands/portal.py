"""From code that waits to code that awaits: an event loop on a thread, and calls into it.

In: coroutines. Out: their results, to a thread that may be interrupted while it waits. Nothing here
waits inside a finalizer: what a garbage collector ends is handed to the loop and left there.
"""

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from protocol.errors import UsageError

T = TypeVar("T")


class Portal:
    """Runs until `close`. With `loop` it uses one that somebody else runs, and leaves it alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._is_ours = loop is None
        self._loop = loop or asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._submitting = (
            threading.RLock()
        )  # also while a finalizer runs on the thread that has it
        self._thread = threading.Thread(target=self._main, name="manyhands", daemon=True)
        self.callers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # who ever called
        self.is_closed = False
        if self._is_ours:
            self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result, or its error. Ctrl-C while waiting cancels it.

        Raises:
            UsageError: called on the loop's own thread, which would wait for itself; or it is
                closed, or was before the end of the work.
        """
        with suppress(RuntimeError):  # no loop runs on this thread
            if asyncio.get_running_loop() is self._loop:
                work.close()
                raise UsageError("this cannot be called on its own event loop")
        with self._submitting:
            if self.is_closed:
                work.close()
                raise UsageError("this is closed", hint="open another one")
            self.callers.add(threading.current_thread())
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except CancelledError:
            if not self.is_closed:
                raise
            raise UsageError("this was closed meanwhile", hint="open another one") from None
        except BaseException:
            waiting.cancel()
            raise

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Let it run; nobody waits."""
        with self._submitting:
            try:
                if self.is_closed:
                    raise RuntimeError("closed")
                asyncio.run_coroutine_threadsafe(work, self._loop)
            except RuntimeError:  # the loop is over, and with it what was to be ended
                work.close()

    def end_later(self, first: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """As `close`, after `first`; nobody waits. What a finalizer may call, on any thread."""
        self.later(self._end(first))

    async def enter(self, context: Any) -> Any:
        """Keep an asynchronous context open until `close`."""
        return await self._stack.enter_async_context(context)

    def close(self) -> None:
        """Leave what was entered; then no call is taken any more, and those that wait fail."""
        if self.is_closed:
            return
        self.call(self._stack.aclose())
        with self._submitting:
            was_closed, self.is_closed = self.is_closed, True
        if self._is_ours and not was_closed:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)

    async def _end(self, first: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await first()
            await self._stack.aclose()
        finally:
            with self._submitting:
                was_closed, self.is_closed = self.is_closed, True
            if self._is_ours and not was_closed:
                self._loop.stop()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(asyncio.sleep(0))  # callers hear of what ended just now
            self._loop.close()
