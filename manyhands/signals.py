"""Ctrl-C and SIGTERM inside an event loop: the first asks politely, the second ends the process.

Everything of value is on disk at any moment (open tabs, receipts), so that ending at once loses
nothing but time.
"""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from manyhands.boundary import Interrupted

FLUSH_S = 1.0
WAKE_S = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(first: Callable[[], object] | None = None) -> Iterator[None]:
    """Call `first` at the first signal, by default to cancel the current task.

    Signals come to the main thread alone: in a loop on another one this does nothing.

    Raises:
        Interrupted: on the way out, once what the signal asked for is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    ask = first or task.cancel
    received: list[int] = []

    def handle(signum: int) -> None:
        if received:
            _flush_books()
            os._exit(128 + signum)
        received.append(signum)
        ask()

    try:
        with _handled_on(loop, handle):
            yield
    finally:
        if received:
            raise Interrupted(received[0])


@contextmanager
def _handled_on(loop: asyncio.AbstractEventLoop, handle: Callable[[int], None]) -> Iterator[None]:
    """Signals call `handle` on the loop while the context lasts."""
    try:
        for signum in SIGNALS:
            loop.add_signal_handler(signum, handle, signum)
    except NotImplementedError:  # Windows: Python calls handlers between two steps of the program
        with _handled_between_steps(loop, handle):
            yield
        return
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            for signum in SIGNALS:
                loop.remove_signal_handler(signum)


@contextmanager
def _handled_between_steps(
    loop: asyncio.AbstractEventLoop, handle: Callable[[int], None]
) -> Iterator[None]:
    """A loop that waits for sockets takes no step, so a timer wakes it now and then."""

    timer: asyncio.TimerHandle | None = None

    def wake() -> None:
        nonlocal timer
        timer = loop.call_later(WAKE_S, wake)

    def received(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(handle, signum)

    wake()
    before = {signum: signal.signal(signum, received) for signum in SIGNALS}
    try:
        yield
    finally:
        assert timer is not None
        timer.cancel()
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """End at the first signal, without unwinding: for loading, where libraries take an exception
    in the middle of an import badly, and nothing has begun that would need an end."""
    before = {signum: signal.signal(signum, _end) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _flush_books() -> None:
    """Let the ledger's thread write what it was told: no voucher that was sent is forgotten."""
    if (writer := sys.modules.get("ledger.writer")) is not None:  # else there are no books yet
        writer.flush_all(FLUSH_S)


def _end(signum: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar may have hidden the cursor
    os._exit(128 + signum)
