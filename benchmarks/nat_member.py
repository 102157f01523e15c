"""The command `manyhands` on a host of a lab, started at once: forked from a process that has
imported all that it needs.

In: a namespace and a command line. Out: what it prints, as it comes and at its end. A hundred
topologies have some thousand such processes, and importing torch takes longer than joining a swarm.
What runs is the command itself, with a home of its own.
"""

import ctypes
import json
import multiprocessing
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.namespaces.lab import Host

_CLONE_NEWNET = 0x40000000
GLANCE_S = 0.05


class Stopped(Exception):
    """Somebody asked us to end."""


class TooLate(Exception):
    """It took longer than it may; what it said goes with it."""


class Forge:
    """Makes such processes. All of it may be used from several threads."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._lock = stop, threading.Lock()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__, "benchmarks.nat_warm"])

    def start(self, host: Host, *command: object, name: str = "") -> "Running":
        """`manyhands COMMAND…` on that host."""
        if self._stop.is_set():
            raise Stopped
        stem = host.lab.directory / f"{host.name}{name and '-'}{name}"
        out, errors = stem.with_suffix(".out"), stem.with_suffix(".err")
        arguments = (host.namespace, list(map(str, command)), out, errors)
        with self._lock:
            process = self._context.Process(target=_be, args=arguments, daemon=True)
            process.start()  # it ends with the lab, at the latest
        return Running(process, out, errors, self._stop)

    def run(self, host: Host, *command: object, name: str, within_s: float) -> "Ended":
        """To its end, or until it has taken too long."""
        running = self.start(host, *command, name=name)
        return running.until_ended(within_s)


@dataclass(frozen=True, slots=True)
class Ended:
    """code: None if it had to be ended. out: the JSON it printed; empty if it printed none."""

    code: int | None
    out: dict[str, Any]
    errors: str


@dataclass(frozen=True, slots=True)
class Running:
    process: BaseProcess
    out: Path
    errors: Path
    stop: threading.Event

    def first_line(self, within_s: float) -> dict[str, Any]:
        """The first line that it prints.

        Raises:
            TooLate: there is none by then, or it has ended before.
        """
        until_s = time.monotonic() + within_s
        while "\n" not in (text := self._read()):
            if self.process.exitcode is not None or time.monotonic() > until_s:
                raise TooLate(f"{self.out.stem} is not ready: {self.said()}")
            self._wait()
        return dict(json.loads(text.partition("\n")[0]))

    def until_ended(self, within_s: float) -> Ended:
        until_s = time.monotonic() + within_s
        while (code := self.process.exitcode) is None and time.monotonic() < until_s:
            self._wait()
        if code is None:
            self.process.kill()
        told: dict[str, Any] = {}
        with suppress(ValueError):
            told = dict(json.loads(self._read()))
        return Ended(code, told, self.said())

    def said(self) -> str:
        """The end of what it said on stderr."""
        return self.errors.read_text()[-2000:].strip() if self.errors.exists() else ""

    def _read(self) -> str:
        return self.out.read_text() if self.out.exists() else ""

    def _wait(self) -> None:
        if self.stop.wait(GLANCE_S):
            raise Stopped


def _be(namespace: str, command: list[str], out: Path, errors: Path) -> None:
    """The whole of such a process."""
    with Path(f"/run/netns/{namespace}").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.nice(10)
    for path, stream in ((out, sys.stdout), (errors, sys.stderr)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    from manyhands.cli import main

    main(command)
