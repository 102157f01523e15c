"""Running the command as a person would: a process, its exit code, and what it said."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("MANYHANDS_")}
    return keep | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def manyhands(*arguments: object, stdin: bytes = b"", timeout_s: float = 60, **env: str) -> Ended:
    """Run `manyhands` with these arguments to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "manyhands", *(os.fsencode(str(a)) for a in arguments)],
        input=stdin,
        capture_output=True,
        timeout=timeout_s,
        env=environment(**env),
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def until_answered(run: Callable[[], Ended], times: int = 5) -> Ended:
    """As a person does whom nobody answered in time, before anything was done: run it again."""
    for _ in range(times - 1):
        if (ended := run()).code != 4 or "nobody answered" not in ended.err:
            return ended
    return run()


def assert_explained(ended: Ended, code: int, *words: str) -> None:
    """It ended with this code, and said in two lines what is wrong and what mends it."""
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, ended.err
    assert any(line.startswith("fix: ") for line in ended.err.splitlines()), ended.err
    for word in words:
        assert word in ended.err
