"""Files that appear whole or not at all, and whether one was touched since.

A file counts as untouched while its size, modification time and inode are what they were; whoever
can forge these can also write the file.
"""

import os
from contextlib import suppress
from pathlib import Path

Stamp = tuple[int, int, int]  # size, modification time in ns, inode


def stamp(path: Path) -> Stamp:
    """Raises OSError: there is no such file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def stamp_or_none(path: Path) -> Stamp | None:
    """None: there is no such file."""
    try:
        return stamp(path)
    except OSError:
        return None


def write_whole(path: Path, content: bytes) -> None:
    """A small file, in a directory that is made when it is missing.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_bytes(content)
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink()
        raise
