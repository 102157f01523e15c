"""Checks of what a node runs on: Python, packages, limits of the system, its proxies."""

import platform
import struct
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from pathlib import Path

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, fail, ok, on_thread, skip, warn
from manyhands.machine import file_limits

OLDEST, NEWEST = (3, 11), (3, 14)  # that tests have run on, or that our libraries have wheels for
FEW_FILES, ENOUGH_FILES = 256, 4096
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC looks at them
NO_PROXIES = ("no_grpc_proxy", "no_proxy")
DOWNLOADS, EVERYBODY = ("https_proxy", "http_proxy", "all_proxy"), "0.0.0.0/0"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
OS_NAMES = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}


def python_finding(version: tuple[int, int], bits: int, system: str) -> Finding:
    """About an interpreter of this version, on this system (as `sys.platform` names it)."""
    spelled = "{}.{}".format(*version)
    newest = "{}.{}".format(*NEWEST)
    told = f"Python {spelled}, {bits} bits, on {OS_NAMES.get(system, system)}"
    if version < OLDEST:
        return fail(f"{told}: 3.11 is the oldest we run on", "make the environment with python3.11")
    if bits < 64:
        return fail(f"{told}: there is no torch for it", "install a Python of 64 bits")
    if version > NEWEST:
        return warn(f"{told}: newer than any we tested", f"make the environment with {newest}")
    if system not in OS_NAMES:
        return warn(f"{told}, where nobody has tried it", "Linux, macOS or Windows are tried")
    return ok(f"{told} ({platform.release()})")


def _python(case: Case) -> Finding:
    return python_finding(sys.version_info[:2], struct.calcsize("P") * 8, sys.platform)


def packages_finding(name: str, path: Sequence[str] | None = None) -> Finding:
    """Whether what the distribution `name` requires is installed in the versions it takes.

    path: where to look, by default where Python does.
    """
    from packaging.requirements import Requirement

    try:
        ours = _installed(name, path)
        requires, source, fix = ours.requires or (), ours.version, f"{name}=={ours.version}"
    except PackageNotFoundError:  # a checkout, which says the same in another file
        project = tomllib.loads(PROJECT.read_text())["project"] if PROJECT.exists() else {}
        if project.get("name") != name:
            return warn(f"{name} is not installed, so nobody says what it takes", "pip install .")
        requires, source, fix = project["dependencies"], project["version"], str(PROJECT.parent)
    wrong, n_seen = [], 0
    for text in requires:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        n_seen += 1
        try:
            version = _installed(needed.name, path).version
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} is {version}, not {needed.specifier}")
    if wrong:
        return fail("; ".join(wrong), f"pip install --upgrade {fix}")
    return ok(f"{n_seen} packages in the versions that {name} {source} takes")


def _installed(name: str, path: Sequence[str] | None) -> Distribution:
    found = distributions(name=name, path=list(sys.path if path is None else path))
    if (first := next(iter(found), None)) is None:
        raise PackageNotFoundError(name)
    return first


def _files(case: Case) -> Finding:
    limits = file_limits()
    if limits is None:
        return skip("this system sets no limit that a process could ask for")
    soft, hard = limits
    told = f"{soft:,} open files, {hard:,} at most"
    raising = "raise it where the node starts: ulimit -n 65536, or LimitNOFILE=65536 in its unit"
    if hard < FEW_FILES:
        return fail(f"{told}: too few for a node's connections", raising)
    if hard < ENOUGH_FILES:
        return warn(f"{told}: a node with many peers needs more", raising)
    return ok(f"{told}; a node takes what it may")


def proxy_finding(environment: Mapping[str, str]) -> Finding:
    """Whether gRPC would dial peers through a proxy that was meant for the web."""
    # It reads the lower-case names alone, and knows networks but no `*`; downloads read all names.
    named = next((name for name in PROXIES if environment.get(name)), None)
    if named is None:
        others = sorted(name for name in environment if name.lower() in DOWNLOADS)
        return ok(
            f"{others[0]} is for downloads alone, peers are dialled directly"
            if others
            else "no proxy is set"
        )
    spared = next((environment[name] for name in NO_PROXIES if environment.get(name)), "")
    if EVERYBODY in spared.replace(" ", "").split(","):
        return ok(f"{named} is for downloads alone: peers are spared from it")
    return warn(
        f"{named} is set: peers are dialled through that proxy, which seldom lets them",
        f"no_grpc_proxy={EVERYBODY},::/0 manyhands …   dials peers directly",
    )


CHECKS = (
    Check("python", "the interpreter and the operating system", on_thread(_python)),
    Check(
        "packages",
        "installed packages against the versions we take",
        on_thread(lambda case: packages_finding("manyhands")),
    ),
    Check("file-limit", "how many files and connections may be open", on_thread(_files)),
    Check(
        "proxy",
        "proxy variables that would catch connections to peers",
        on_thread(lambda case: proxy_finding(case.asked.environment)),
    ),
)
