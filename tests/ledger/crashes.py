"""Processes killed at a moment that is known: each statement, each file, each byte of a file."""

import ast
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from contextlib import closing, contextmanager
from pathlib import Path

EVENTS = {"execute", "executemany", "fetchall", "open", "write", "flush", "fsync", "replace"}


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


def told_before_it_died(work, *, at_event=None, at_byte=None):
    """What `work(tell)` told in a process of its own before that was killed; and whether it was.

    at_event: killed before its n-th SQL statement, or write, flush or renaming of a file.
    at_byte: killed by the kernel within the write that makes a file longer than that.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        ended = 1
        try:
            os.close(reading)
            _die_at(at_event, at_byte)
            work(lambda told: os.write(writing, f"{told!r}\n".encode()))
            ended = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(ended)  # whatever happens, the tests go on in one process only
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = [ast.literal_eval(line.decode()) for line in pipe if line.endswith(b"\n")]
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert ended in (0, -signal.SIGKILL, -signal.SIGXFSZ), ended
    return told, ended != 0


def _die_at(event, byte):
    if byte is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (byte, byte))
    if event is None:
        return
    left = event

    def count(_frame, event, called):
        nonlocal left
        if event == "c_call" and called.__name__ in EVENTS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
