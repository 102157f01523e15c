"""What some files hold, read again when they are touched, while the gateway runs.

In: paths, and how to read them. Out: what they held when that last worked. While it does not work
each look tries again, since a file whose owner is put right looks untouched; it is logged once.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from protocol.errors import ConfigError
from protocol.files import stamp

log = logging.getLogger(__name__)

Held = TypeVar("Held")


class Reloaded(Generic[Held]):
    """`held`: what was read last. `error`: why it is not what the files hold now; None while it is.

    Raises:
        ConfigError: at first, the files cannot be used.
    """

    def __init__(self, read: Callable[[], Held], *paths: Path) -> None:
        self._read, self._paths = read, paths
        self._seen = self._stamps()
        self.held = read()
        self.error: ConfigError | None = None

    def look(self) -> bool:
        """Whether there is something new."""
        if (stamps := self._stamps()) == self._seen and self.error is None:
            return False
        self._seen = stamps
        try:
            self.held = self._read()
        except ConfigError as error:
            if str(error) != str(self.error):
                log.error("what was read before stays", extra={"error": str(error)})
            self.error = error
            return False
        self.error = None
        return True

    def _stamps(self) -> list[tuple[int, ...]]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return stamp(path)
    except FileNotFoundError:
        return ()
    except OSError as error:  # not the same as no file: a gateway without keys is open
        return (error.errno or 0,)
