"""A lock on an open file that the system lets go of when its holder ends, however that ends.

In: a descriptor. Out: it is held, or another process holds it. Unix locks the file (`flock`),
Windows one byte of it, far beyond what anybody writes, since there a lock keeps others from reading
what it covers.
"""

import errno
import importlib
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    HAS_FLOCK = False
else:
    HAS_FLOCK = True

FAR = 2**31 - 2  # msvcrt seeks by 32 bits with a sign
AGAIN_S = 0.02


def lock(descriptor: int, *, waits: bool = True, shared: bool = False) -> None:
    """Hold the file until the descriptor is closed.

    shared: beside others that do the same; on Windows there is no such thing, and it is held alone.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
    """
    if HAS_FLOCK:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | (0 if waits else fcntl.LOCK_NB))
        return
    while not _lock_byte(descriptor):
        if not waits:
            raise BlockingIOError(errno.EAGAIN, "another process holds this file")
        time.sleep(AGAIN_S)  # as `flock` would block here; Windows has no call that waits for ever


def remove(path: Path, descriptor: int) -> None:
    """Let go of a file that we hold, and remove it: in an order in which nobody finds it unheld,
    where the system has one."""
    if HAS_FLOCK:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return
    os.close(descriptor)  # Windows removes no open file
    with suppress(OSError):  # and somebody may have it open by now
        path.unlink(missing_ok=True)


def _lock_byte(descriptor: int) -> bool:
    windows: Any = importlib.import_module("msvcrt")
    before = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, FAR, os.SEEK_SET)
    try:
        windows.locking(descriptor, windows.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EDEADLK, errno.EAGAIN):
            raise
        return False
    finally:
        os.lseek(descriptor, before, os.SEEK_SET)
    return True
