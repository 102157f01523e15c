"""Who goes first on this machine while something is measured, as root on Linux.

In: processes. Out: nothing; while the context lasts, or for good, they run whenever they can,
before all that is scheduled in the ordinary way. Four nodes that share two cores with a busy
neighbour are then about what four idle machines are, as long as they take turns, which hops of one
session do. It changes who waits, never what is computed.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

LINKS, PARTIES = 2, 1  # links are no part of what is measured: they go before nodes and client


def put_first(rank: int, pid: int = 0) -> bool:
    """Whether that process, with all its threads, is now before others; 0: this one."""
    try:
        for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), os.SCHED_RR, os.sched_param(rank))
    except (OSError, AttributeError):  # nobody allowed it, or there is no such thing here
        return False
    return True


def put_back(pid: int = 0) -> None:
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid or 'self'}/task"):
            with suppress(ProcessLookupError):
                os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def first(pids: Iterable[int]) -> Iterator[None]:
    """For as long as something is measured: those, and this process.

    Raises:
        PermissionError: this user may not.
    """
    chosen = [*pids, os.getpid()]
    try:
        if not all(put_first(PARTIES, pid) for pid in chosen):
            raise PermissionError("only root may go before all other work of this machine")
        yield
    finally:
        for pid in chosen:
            put_back(pid)
