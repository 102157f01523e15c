"""Try clients: `python -m tests.conformance [NAME…] [--environments DIR]`; all without a NAME.

Starts a swarm with a gateway, makes the environments that are missing, runs each client's program
and recipes, and writes docs/compatibility.md. Exit code 1 if anything failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import platformdirs

from manyhands.gateway.gateway import Bounds
from manyhands.models import BUILT_IN
from tests.conformance import report
from tests.conformance.environments import NotInstalled, prepare, version
from tests.conformance.trials import TRIALS, Trial
from tests.gateway.live import live
from tests.recipes import program

TRIAL_S = 400.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TRIALS))
    default = platformdirs.user_cache_path("manyhands") / "conformance"
    parser.add_argument("--environments", type=Path, default=default, metavar="DIR")
    given = parser.parse_args()
    if unknown := set(given.names) - set(TRIALS):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    rows = []
    with (
        tempfile.TemporaryDirectory() as home,
        live(Path(home), Bounds(max_tokens=64, drain_s=0.5)) as running,
    ):
        for name in given.names or TRIALS:
            rows.append(_try(TRIALS[name], given.environments.absolute(), running.url))
            print(rows[-1], flush=True)
    report.write(rows, list(TRIALS))
    return 0 if all(row.result == "passed" for row in rows) else 1


def _try(trial: Trial, directory: Path, url: str) -> report.Row:
    try:
        command, told_version = prepare(trial, directory), version(trial, directory)
    except NotInstalled as error:
        return report.Row(trial.name, "", "", f"not tried: {error}", is_tried=False)
    with tempfile.TemporaryDirectory() as home:
        told = [*checks(trial, command, directory, Path(home), url)]
    return report.row(trial.name, told_version, told)


def checks(
    trial: Trial, command: list[str], directory: Path, home: Path, url: str
) -> Iterator[Mapping[str, str]]:
    """What its program says of each check, and whether its recipes run."""
    environment = {
        "PATH": f"{directory / trial.name / 'bin'}:{os.environ['PATH']}",
        "HOME": str(home),
        "MANYHANDS_URL": url,
        "MANYHANDS_TINY": str(BUILT_IN),  # for clients that count tokens themselves
        "PYTHONPATH": str(trial.program.parent),
    }
    place = directory / trial.name if trial.is_node else home  # where its packages are found
    if trial.program.exists():
        ended, out = _run([*command, str(trial.program)], place, environment)
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"what"')]
        yield from lines
        if ended and all(not line["why"] for line in lines):
            yield {"what": "its program", "why": _last(out)}
    language = "js" if trial.is_node else "python"
    for page in trial.recipes:
        path = place / f"recipe.{'mjs' if trial.is_node else 'py'}"
        path.write_text(program(page, language, url))
        ended, out = _run([*command, str(path)], place, environment)
        yield {"what": f"docs/recipes/{page}.md", "why": _last(out) if ended else ""}


def _run(command: list[str], place: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command,
            cwd=place,
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=TRIAL_S,
        )
    except subprocess.TimeoutExpired as error:
        out = error.stdout or ""
        return 124, (out.decode() if isinstance(out, bytes) else out) + "\nit took too long"
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
    return done.returncode, done.stdout


def _last(out: str) -> str:
    lines = [line for line in out.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it ended without a word"


if __name__ == "__main__":
    sys.exit(main())
