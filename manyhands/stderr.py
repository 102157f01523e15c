"""Standard error whose reader may leave, or whose disk may fill: nothing ends of that.

In: what is said to people, and logs. Out: the same on descriptor 2, while it takes it; a node goes
on serving without, and a command ends with the code of what it did.
"""

import errno
import io
import os
import sys
from typing import Any

FOR_GOOD = (errno.EPIPE, errno.EIO)  # the pipe's reader left; the terminal was closed


def outlive_its_reader() -> None:
    """Make `sys.stderr` one that never fails. For a process of our own, before it says anything."""
    if (given := sys.stderr) is None:
        return
    raw = io.BufferedWriter(_Forgiving(given.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(
        raw, given.encoding, errors="backslashreplace", line_buffering=True
    )


class _Forgiving(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in FOR_GOOD:  # for libraries that write there by themselves, too
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
            return memoryview(data).nbytes
