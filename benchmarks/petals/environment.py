"""Petals in an environment of its own, outside the repository, with versions that still install.

In: a folder, a Python 3.10. Out: a virtual environment with what `requirements.txt` lists, and a
note of what was installed, by which later runs know that nothing is missing.

Petals 2.2.0.post1 asks for a hivemind that can be built no more without fetching a program from
elsewhere, so all is installed without asking for what anything requires: the list is whole, found
by trying. hivemind 1.1.9 has its peer-to-peer daemon inside; multiaddr after 0.0.9 loses the first
slash of that daemon's sockets; torch 2.1.2 is the last that hivemind imports and Petals runs on.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PYTHON = (3, 10)
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
INSTALL = "python -m benchmarks.petals install"
PYTHON_FIX = f"pyenv install 3.10, or uv python install 3.10, or {INSTALL} --python PATH"
GIGABYTES = 6
ANSWER_S = 60  # for an interpreter to tell its version
OURS = "made-by-manyhands-benchmarks"  # a note beside the environment, from before it is begun


class Missing(Exception):
    """Petals cannot be run here. fix: what whoever measures can do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


def default_folder() -> Path:
    """Where it is kept between runs."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "manyhands-benchmarks" / "petals"


def petals_python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`.

    Raises:
        Missing: there is none, or it has other versions than this program wants.
    """
    python, note = folder / "venv" / "bin" / "python", folder / "installed"
    fix = f"{INSTALL}   (about {GIGABYTES} GB, some minutes)"
    if not (note.exists() and python.exists()):
        raise Missing(f"Petals is not installed in {folder}", fix)
    if note.read_text() != _digest():
        raise Missing(f"{folder} has other versions than {REQUIREMENTS.name} lists", fix)
    return python


def install(folder: Path, python: Path | None = None) -> None:
    """Make the environment anew.

    Raises:
        Missing: there is no Python 3.10, a package cannot be had, or another's environment is in
            the way.
        OSError: the folder cannot be written to.
    """
    python = find_python() if python is None else _checked(python)
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    _run("a virtual environment", str(python), "-m", "venv", str(folder / "venv"))
    ours = str(folder / "venv" / "bin" / "python")
    pip = (ours, "-m", "pip", "install", "--quiet", "--no-deps")
    _run("the packages", *pip, "--requirement", str(REQUIREMENTS))
    _run("Petals, to see whether it can be imported", ours, "-W", "ignore", "-c", "import petals")
    (folder / "installed").write_text(_digest())


def _clear(folder: Path) -> None:
    """Away with an environment that we made there, and with no other.

    Raises:
        Missing: whoever made it was not us.
    """
    venv, ours = folder / "venv", folder / OURS
    if venv.exists() and not (ours.exists() or (folder / "installed").exists()):
        raise Missing(
            f"{venv} was not made by this command", f"remove it, or {INSTALL} --folder ANOTHER"
        )
    ours.touch()  # first: what is begun and not done is ours, too
    (folder / "installed").unlink(missing_ok=True)
    shutil.rmtree(venv, ignore_errors=True)


def find_python() -> Path:
    """A Python 3.10.

    Raises:
        Missing: none was found.
    """
    for candidate in _candidates():
        if _version(candidate) == PYTHON:
            return candidate
    raise Missing("there is no Python 3.10, and Petals' client hangs on later ones", PYTHON_FIX)


def _checked(python: Path) -> Path:
    """
    Raises:
        Missing: it is none, or of another version.
    """
    version = _version(python)
    if version is None:
        raise Missing(f"{python} is no Python that runs", PYTHON_FIX)
    if version != PYTHON:
        told = ".".join(map(str, version))
        raise Missing(f"{python} is Python {told}, and Petals' client wants 3.10", PYTHON_FIX)
    return python


def _version(python: Path) -> tuple[int, ...] | None:
    """None: nothing that answers as a Python does."""
    asked = [python, "-c", "import sys; print(*sys.version_info[:2])"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=ANSWER_S)
        return tuple(map(int, told.stdout.split()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _candidates() -> Iterator[Path]:
    if found := shutil.which("python3.10"):
        yield Path(found)  # a shim of pyenv's may stand there for nothing
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/3.10*/bin/python"), reverse=True)
    uv = Path.home() / ".local" / "share" / "uv" / "python"
    yield from sorted(uv.glob("cpython-3.10*/bin/python3.10"), reverse=True)


def _run(what: str, *command: str) -> None:
    """
    Raises:
        Missing: it failed; the reason has its last words.
    """
    print(f"{what} …", flush=True)
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        last = "\n".join(ended.stderr.strip().splitlines()[-4:])
        raise Missing(
            f"{what} cannot be had:\n{last}",
            "an x86-64 Linux that reaches PyPI or a mirror of it; then the same command again",
        )


def _digest() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
