"""Small works done ahead, on other threads, while their owner has better to do.

In: works of a fraction of a millisecond that hold no lock of Python's for most of it. Out: a lock
of the owner's, which is free again when its work is done. An executor's futures cost the one who
asks five times as much (60 us against 12, measured), which is half of what is to be saved.
"""

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock

Work = tuple[Callable[[], None], Lock]
Inbox = SimpleQueue[Work | None]


class Ahead:
    """Up to `n_threads`, begun when there is work and ended with this. Used by one thread."""

    def __init__(self, n_threads: int, name: str) -> None:
        self._n_left, self._name = n_threads, name
        self._inbox: Inbox = SimpleQueue()
        weakref.finalize(self, _end, self._inbox, n_threads)

    def begin(self, work: Callable[[], None], turn: Lock) -> None:
        """Hold `turn`, which must be free, until `work` is done. What `work` raises is lost: who
        needs its result finds none, and does it again."""
        if self._n_left:
            self._n_left -= 1
            name = f"{self._name}-{self._n_left}"
            threading.Thread(target=_do, args=(self._inbox,), name=name, daemon=True).start()
        turn.acquire()
        self._inbox.put((work, turn))


def _do(inbox: Inbox) -> None:
    while (found := inbox.get()) is not None:
        work, turn = found
        try:
            work()
        except BaseException:  # a library's panics are no `Exception`
            pass
        finally:
            turn.release()
        del found, work, turn  # while this waits for more, it keeps nobody alive


def _end(inbox: Inbox, n_threads: int) -> None:
    for _ in range(n_threads):
        inbox.put(None)
