"""Private files of a home that programs read while others write them.

In: a path and what to put there. Out: it stands there whole or not at all, and belongs to whom it
belonged before: root may write into the home of a service that runs as another user, and that one
must still be able to read it. Whoever reads such a file to change it holds it meanwhile.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protocol.errors import ConfigError
from protocol.file_lock import lock


def write_whole(path: Path, data: bytes) -> None:
    """
    Raises:
        ConfigError: it cannot be written; what was there before still is.
    """
    try:
        make_private(path.parent)
        file, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".new", dir=path.parent)
        try:
            with os.fdopen(file, "wb") as beside:
                beside.write(data)
                _leave_to_owner(beside.fileno(), path if path.exists() else path.parent)
            Path(name).replace(path)
        except OSError:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Alone among those who read this file in order to change it and write it back.

    Raises:
        ConfigError: nobody may write beside it.
    """
    try:
        make_private(path.parent)
        held = _open_lock(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        raise ConfigError(f"cannot write beside {path}: {error.strerror}") from error
    try:
        lock(held)
        yield
    finally:
        os.close(held)


def make_private(directory: Path) -> None:
    """Make a directory, and those above it, for the owner of what is there already.

    Raises:
        OSError: it cannot be made.
    """
    if directory.is_dir():
        return
    make_private(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    _leave_to_owner(directory, directory.parent)


def _open_lock(path: Path) -> int:
    """Only what we make here is given away: a link in its place may lead to a file of root's."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    try:
        made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, flags)
    _leave_to_owner(made, path.parent)
    return made


def _leave_to_owner(what: int | Path, like: Path) -> None:
    """Only root can give anything away, and only root need."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = like.stat()
        os.chown(what, owner.st_uid, owner.st_gid)
