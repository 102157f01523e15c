"""A trio loop in one daemon thread, for libraries that speak trio, and the bridge to asyncio.

In: async functions for trio. Out: what they return or raise, awaited on asyncio; cancelling the
waiter cancels the work. `ask` is the way back. Nothing made on one loop may be touched on the
other.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STOP_TIMEOUT_S = 5.0


class TrioThread:
    """Started in the constructor, once trio runs; belongs to `loop`, as a rule that which runs."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        import trio  # an extra: imported by who uses it

        self._trio: Any = trio
        self._loop = loop or asyncio.get_running_loop()
        self._token: Any = None
        self._nursery: Any = None
        self._stopping: Any = None
        running = threading.Event()
        self._thread = threading.Thread(
            target=trio.run, args=(self._main, running), name=name, daemon=True
        )
        self._thread.start()
        running.wait()

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` on trio until it ends."""
        done: asyncio.Future[T] = self._loop.create_future()
        scope = self._trio.CancelScope()

        async def run() -> None:
            try:
                with scope:
                    result = await work()
                    self._post(_settle, done, result, None)
            except Exception as error:  # whatever it is, the waiter's to handle
                self._post(_settle, done, None, error)
            finally:
                self._post(done.cancel)

        self._on_trio(lambda: self._nursery.start_soon(run))
        try:
            return await done
        finally:
            with contextlib.suppress(self._trio.RunFinishedError):
                self._on_trio(scope.cancel)

    async def start(self, serve: Callable[..., Awaitable[None]]) -> Any:
        """Run `serve(task_status=…)` until `stop`; return what it reports once it has started."""
        return await self.call(lambda: self._nursery.start(serve))

    async def ask(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """On trio: run `work` on the asyncio loop until it ends. Cancelling us cancels it."""
        done, tasks = self._trio.Event(), list[asyncio.Task[T]]()

        def finish(task: "asyncio.Task[T]") -> None:
            with contextlib.suppress(self._trio.RunFinishedError):
                self._on_trio(done.set)

        def begin() -> None:
            tasks.append(self._loop.create_task(work()))
            tasks[0].add_done_callback(finish)

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self._post(begin)
        try:
            await done.wait()
        except BaseException:
            self._post(cancel)
            raise
        return tasks[0].result()

    async def stop(self) -> None:
        """Cancel what still runs there and wait for the thread."""
        with contextlib.suppress(self._trio.RunFinishedError):
            self._on_trio(self._stopping.set)
        await asyncio.to_thread(self._thread.join, STOP_TIMEOUT_S)

    async def _main(self, running: threading.Event) -> None:
        self._token = self._trio.lowlevel.current_trio_token()
        self._stopping = self._trio.Event()
        async with self._trio.open_nursery() as self._nursery:
            running.set()
            await self._stopping.wait()
            self._nursery.cancel_scope.cancel()

    def _on_trio(self, function: Callable[[], object]) -> None:
        self._token.run_sync_soon(function)

    def _post(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the asyncio loop is closed: nobody waits
            self._loop.call_soon_threadsafe(function, *arguments)


def _settle(done: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
