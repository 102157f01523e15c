"""Files that appear whole or not at all, whether one was touched since, and bytes at some place.

A file counts as untouched while its size, modification time and inode are what they were; whoever
can forge these can also write the file. Where the system reads and writes only where a file stands
(Windows), we go there first, one thread at a time.
"""

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

Stamp = tuple[int, int, int]  # size, modification time in ns, inode

BINARY = getattr(os, "O_BINARY", 0)  # of `os.open`: Windows would change line ends otherwise

_AT_ONCE = 16 * 2**20
_moving = threading.Lock()  # of positions in files


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


@contextmanager
def private_file(path: Path) -> Iterator[BinaryIO]:
    """A file that its owner alone reads and that stands at `path` once it is whole.

    It is written under a name that nobody guesses and that must be new: in a directory of
    everybody's, a name known beforehand may be a link to somebody's file.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def write_at(descriptor: int, data: memoryview | bytes, start: int) -> int:
    """How many bytes were written, one at least."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, start)
    with _moving:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.write(descriptor, data)


def read_at(descriptor: int, n_bytes: int, start: int) -> bytes:
    """So many bytes, or those that there are."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, n_bytes, start)
    with _moving:
        os.lseek(descriptor, start, os.SEEK_SET)
        return os.read(descriptor, n_bytes)


def read_into(descriptor: int, view: memoryview, start: int) -> int:
    """How many bytes were read; 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [view], start)
    data = read_at(descriptor, min(len(view), _AT_ONCE), start)
    view[: len(data)] = data
    return len(data)
