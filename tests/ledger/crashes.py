"""A process killed at a moment that is known: it has committed, and has not told so beside it."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path


def wait_until(holds, process):
    """For something a process does, as long as it is there, and at most a minute."""
    for _ in range(6000):
        if holds():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it never came to that")


@contextmanager
def killed_before_it_keeps(promise, program, *arguments):
    """A process killed when it has committed, and has not written this file yet.

    A pipe that nobody reads stands where it writes first; it waits there. The caller says until
    what is in the database.
    """
    pipe = promise.with_name(f"{promise.name}.new")
    os.mkfifo(pipe)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        told, _ = process.communicate()
        pipe.unlink()
        assert told == ""  # nothing left


def rows(path, sql):
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()
