"""The clients' environments: made once, and again when what they need has changed.

In: a trial, a directory for all of them. Out: the command that runs its programs, and the version
of the client. What was installed is remembered beside it.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conformance.trials import Trial

INSTALL_S = 1800.0
BEHIND = "behind.pth"


class NotInstalled(Exception):
    """Why a client could not be tried."""


def prepare(trial: Trial, directory: Path) -> list[str]:
    """The command that runs one of its programs."""
    place = directory / trial.name
    wanted = "".join(path.read_text() for path in (trial.requirements, trial.lock) if path.exists())
    remembered = place / "installed"
    if not remembered.exists() or remembered.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _install_node(trial, place) if trial.is_node else _install_python(trial, place)
        remembered.write_text(wanted)
    return ["node"] if trial.is_node else [str(place / "bin" / "python")]


def version(trial: Trial, directory: Path) -> str:
    place = directory / trial.name
    if trial.is_node:
        package = place / "node_modules" / trial.package / "package.json"
        return str(json.loads(package.read_text())["version"])
    asked = f"import importlib.metadata as m; print(m.version({trial.package!r}))"
    return _run([str(place / "bin" / "python"), "-c", asked], place).strip()


def _install_python(trial: Trial, place: Path) -> None:
    _run([sys.executable, "-m", "venv", str(place)], place)
    if trial.borrows:
        packages = next(place.glob("lib/python*/site-packages"))
        (packages / BEHIND).write_text(sysconfig.get_path("purelib"))
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-q"]
    _run([*pip, "-r", str(trial.requirements)], place)


def _install_node(trial: Trial, place: Path) -> None:
    shutil.copy(trial.requirements, place / "package.json")
    shutil.copy(trial.lock, place / "package-lock.json")
    _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], place)


def _run(command: list[str], place: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=place, capture_output=True, text=True, timeout=INSTALL_S, check=True
        )
    except FileNotFoundError as error:
        raise NotInstalled(f"{command[0]} is not here") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled("it took too long to install") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no reason was given").splitlines()[-1]
        raise NotInstalled(f"it could not be installed: {last[:200]}") from error
    return done.stdout
