"""Whose open tabs are whose, when several processes share one ledger.

A process that holds open tabs holds a lock on a file of its own beside the ledger. The kernel lets
go of it when the process ends, however it ends; then anybody may close the tabs it left.
"""

import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from protocol.file_lock import lock, remove


class Owner:
    """This process, as an owner of open tabs. The lock file appears with the first tab."""

    def __init__(self, directory: Path) -> None:
        self.name = token_hex(8)
        self._directory = directory
        self._file: int | None = None

    def hold(self) -> None:
        path = _path(self._directory, self.name)
        while self._file is None:
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
            lock(file)
            if _is_at(file, path):
                self._file = file
            else:  # somebody found it not yet locked, took us for gone, and removed it
                os.close(file)

    def release(self) -> None:
        if self._file is not None:
            remove(_path(self._directory, self.name), self._file)
            self._file = None


def if_gone(directory: Path, name: str, then: Callable[[], None]) -> bool:
    """Do `then` if the owner of this name is gone, keeping others from doing it meanwhile."""
    path = _path(directory, name)
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        then()
        return True
    try:
        lock(file, waits=False)
        then()
    except BlockingIOError:
        os.close(file)
        return False
    except BaseException:
        os.close(file)
        raise
    remove(path, file)
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _path(directory: Path, name: str) -> Path:
    return directory / f"tabs-{''.join(c for c in name if c in '0123456789abcdef')}.lock"
