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
