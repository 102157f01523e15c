"""What a person sees while something takes time: bars on a terminal, plain lines elsewhere.

In: phases and how much of each is done. Out: text on stderr only; stdout is for data.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from manyhands.boundary import verbosity

Progress = Callable[[str, float], None]
PLAIN_EVERY_S = 10.0  # a log should show life, and not be filled with it


def say(line: str) -> None:
    """One line for people on stderr, unless they asked for quiet."""
    if verbosity() >= 0:
        click.echo(line, err=True)


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """Show the phases of `title` while the context lasts."""
    if verbosity() < 0:
        yield lambda phase, fraction: None
    elif sys.stderr.isatty():
        with _bars(title) as report:
            yield report
    else:
        yield _lines(title)


@contextmanager
def transferring(title: str, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show how much of so many bytes has come, how fast, and how long the rest will take.

    The context's value is called with every run of bytes.
    """
    if verbosity() < 0 or not sys.stderr.isatty():
        yield Transfer(title, n_bytes)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    texts = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    columns = (*texts, TransferSpeedColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=n_bytes)
        yield lambda more: bars.advance(task, more)


class Transfer:
    """The same in plain lines, every `PLAIN_EVERY_S`."""

    def __init__(
        self,
        title: str,
        n_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], object] = say,
    ) -> None:
        self._title, self._n_bytes, self._clock, self._tell = title, n_bytes, clock, tell
        self._done, self._began_s, self._told_s = 0, clock(), clock()

    def __call__(self, more: int) -> None:
        self._done += more
        if self._clock() - self._told_s >= PLAIN_EVERY_S or self._done == self._n_bytes:
            self._told_s = self._clock()
            self._tell(f"{self._title}: {self._line()}")

    def _line(self) -> str:
        rate = self._done / max(self._clock() - self._began_s, 1e-6)
        left_s = max(0, self._n_bytes - self._done) / max(rate, 1)
        left = f", {left_s:.0f} s left" if self._done < self._n_bytes else ""
        done, whole = size(self._done), size(self._n_bytes)
        return f"{done} of {whole}, {size(int(rate))}/s{left}"


def size(n_bytes: int) -> str:
    """For people: `1.5 GiB`, `12 MiB`, `3 KiB`."""
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:,.1f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.0f} KiB"


def _lines(title: str) -> Progress:
    last_phase, last_s = "", 0.0

    def report(phase: str, fraction: float) -> None:
        nonlocal last_phase, last_s
        if phase == last_phase and time.monotonic() - last_s < PLAIN_EVERY_S:
            return
        new, last_phase, last_s = phase != last_phase, phase, time.monotonic()
        say(f"{title}: {phase}" + ("" if new else f" {fraction:.0%}"))

    return report


@contextmanager
def _bars(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def report(phase: str, fraction: float) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(f"{title}: {phase}", total=1.0)
            bars.update(tasks[phase], completed=fraction)

        yield report
