"""Ctrl-C and SIGTERM inside an event loop: the first asks politely, the second ends the process.

Everything of value is on disk at any moment (open tabs, receipts), so that ending at once loses
nothing but time.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from manyhands.boundary import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(first: Callable[[], object] | None = None) -> Iterator[None]:
    """Call `first` at the first signal, by default to cancel the current task.

    Raises:
        Interrupted: on the way out, once what the signal asked for is done.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    ask = first or task.cancel
    received: list[int] = []

    def handle(signum: int) -> None:
        if received:
            os._exit(128 + signum)
        received.append(signum)
        ask()

    for signum in SIGNALS:
        loop.add_signal_handler(signum, handle, signum)
    try:
        yield
    finally:
        for signum in SIGNALS:
            loop.remove_signal_handler(signum)
        if received:
            raise Interrupted(received[0])
