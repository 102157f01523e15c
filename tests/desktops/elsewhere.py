"""Run a program in a process where our rooms lack what Windows lacks: `elsewhere.py MODULE ARG…`.

Whatever a room of ours imports of `os`, `signal`, `socket` and `asyncio` lacks the names that only
Unix has, and modules that Windows lacks cannot be imported by it; loops take no signal handlers.
Libraries of others see Linux, where they are. `msvcrt.locking` is played by the lock that Linux has
for parts of files. This is not Windows: it shows that no path of ours needs what is not there.
"""

import asyncio
import builtins
import errno
import fcntl
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.desktops.test_no_unguarded_posix import LACKING, METHODS, MODULES, ROOMS

OURS = (*ROOMS, "tests", "__main__")


class Without(ModuleType):
    """A module that lacks some names."""

    def __init__(self, real: ModuleType, lacking: set[str]) -> None:
        super().__init__(real.__name__)
        self._real, self._lacking = real, lacking

    def __getattr__(self, name: str) -> Any:
        if name in self._lacking:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)


def take_away() -> None:
    sys.modules["msvcrt"] = _windows_locks()
    for name in METHODS:
        for loop in (asyncio.AbstractEventLoop, type(asyncio.new_event_loop())):
            setattr(loop, name, _not_implemented)
    real_import = builtins.__import__
    made = {name: Without(real_import(name), names) for name, names in LACKING.items()}

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        room = str((globals or {}).get("__name__", "")).partition(".")[0]
        if room in OURS and name in MODULES:
            raise ImportError(f"no module named {name!r} elsewhere")
        if room in OURS and name in made:
            return made[name]
        return real_import(name, globals, locals, fromlist, level)

    builtins.__import__ = import_


def _not_implemented(*_: object) -> None:
    raise NotImplementedError


def _windows_locks() -> ModuleType:
    def locking(descriptor: int, mode: int, n_bytes: int) -> None:
        assert mode == 2
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, n_bytes, 0, os.SEEK_CUR)
        except BlockingIOError as error:
            raise OSError(errno.EACCES, "Permission denied") from error

    made: Any = ModuleType("msvcrt")
    made.LK_NBLCK, made.locking = 2, locking
    return made  # type: ignore[no-any-return]


def main() -> None:
    _, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    take_away()
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
