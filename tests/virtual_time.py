"""An event loop whose clock jumps: minutes of a swarm's life in the seconds that its work takes.

Whatever waits, waits no real time: when nothing can run, the clock moves on to the next timer. For
what lives in one process alone; real sockets would wait for real time.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` begins at 0."""

    def __init__(self) -> None:
        selector = _Jumping(self._jump)
        super().__init__(selector)
        self._virtual_s = 0.0

    def time(self) -> float:
        return self._virtual_s

    def _jump(self, by_s: float) -> None:
        self._virtual_s += by_s


class _Jumping(selectors.SelectSelector):
    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing can ever happen: every task waits, and no timer is set")
        if not ready and timeout:
            self._jump(timeout)
        return ready


def run_in_virtual_time(main: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    """What `main`, given its loop, returns."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, VirtualLoop)
        return runner.run(main(loop))
