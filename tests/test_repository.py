"""What the repository says of itself is true: versions, dependencies, documents, the wheel."""

import ast
import functools
import importlib.metadata
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import manyhands
from manyhands.cli import COMMANDS, root

ROOT = Path(__file__).parent.parent
ROOMS = ("manyhands", "node", "scheduler", "ledger", "protocol")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

RUNTIME = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
EXTRAS = [
    Requirement(text)
    for extra in PYPROJECT["project"]["optional-dependencies"].values()
    for text in extra
]
DEV = [Requirement(text) for text in PYPROJECT["dependency-groups"]["dev"]]

# Modules that extras bring along, each imported where its extra is asked for.
WITH_EXTRAS = {
    "libp2p",
    "multiaddr",
    "trio",
    "varint",
    "zeroconf",
    "bitsandbytes",
    "opentelemetry",
    "gguf",
    "miniupnpc",
    "psycopg",
}


def constraints() -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            assert name == canonicalize_name(name), f"{name} is spelled {canonicalize_name(name)}"
            assert name not in pins, f"{name} is pinned twice"
            pins[name] = Version(version)
    return pins


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked_files():
        try:
            yield path, path.read_text()
        except UnicodeDecodeError:
            continue


# Versions and dependencies


def test_the_package_says_the_version_that_is_published():
    assert manyhands.__version__ == PYPROJECT["project"]["version"]


@pytest.mark.parametrize("needed", [*RUNTIME, *EXTRAS, *DEV], ids=lambda needed: needed.name)
def test_the_pinned_version_is_in_the_range_we_declare(needed: Requirement):
    assert constraints()[canonicalize_name(needed.name)] in needed.specifier


def test_packages_that_others_bring_in_are_pinned_too():
    pins, seen = constraints(), set()
    waiting = [*RUNTIME, *DEV]
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        if name in seen or (needed.marker and not needed.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        assert name in pins, f"{name} is installed and not in constraints.txt"
        distribution = importlib.metadata.distribution(name)
        if name != "torch":  # the one package that a set-up leaves as it finds it
            assert Version(distribution.version) == pins[name], name
        waiting += map(Requirement, distribution.requires or ())


@pytest.mark.parametrize("needed", [*RUNTIME, *EXTRAS, *DEV], ids=lambda needed: needed.name)
def test_every_dependency_has_its_reason_in_decisions(needed: Requirement):
    text = (ROOT / "DECISIONS.md").read_text()

    reasons = [line for line in text.splitlines() if line.startswith("- **")]

    assert any(f"**{needed.name}**" in line for line in reasons)


def imported_modules(path: Path) -> Iterator[str]:
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            yield from (name.name.partition(".")[0] for name in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module and not statement.level:
            yield statement.module.partition(".")[0]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_that_is_not_declared(room: str):
    declared = {canonicalize_name(needed.name) for needed in RUNTIME}
    providers = importlib.metadata.packages_distributions()

    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / room).rglob("*.py")
        for module in imported_modules(path)
        if module not in sys.stdlib_module_names
        and module not in {*ROOMS, *WITH_EXTRAS}
        and declared.isdisjoint(map(canonicalize_name, providers.get(module, ())))
    }

    assert not undeclared


# The wheel


def test_the_wheel_carries_every_module_the_model_and_the_types(tmp_path: Path):
    builder = pytest.importorskip("hatchling.builders.wheel")
    wheel = next(builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path)))

    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())

    wanted = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed
    assert {f"{room}/py.typed" for room in ROOMS} <= packed
    assert {
        f"manyhands/models/tiny/{name}"
        for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
    } <= packed
    assert not {name for name in packed if name.startswith(("tests/", "scripts/", "benchmarks/"))}
    assert any(name.endswith("/LICENSE") for name in packed)


# Documents


def commands_in(document: str) -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_the_commands_of_the_readme_exist():
    commands = commands_in("README.md")
    assert ["scripts/demo"] in commands
    assert ["scripts/test"] in commands

    for program, *arguments in commands:
        if program == "manyhands":
            assert_command_exists(*arguments)
        else:
            assert os.access(ROOT / program, os.X_OK), program


def assert_command_exists(name: str, *arguments: str) -> None:
    assert name in COMMANDS
    command = root.get_command(click.Context(root), name)
    assert command is not None
    if isinstance(command, click.Group):
        assert arguments[0] in command.commands
        command, arguments = command.commands[arguments[0]], arguments[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("--")} <= known


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "DESIGN.md", "DECISIONS.md"])
def test_the_files_a_document_names_exist(document: str):
    text = (ROOT / document).read_text()

    named = re.findall(r"`((?:\w+/)*[\w.-]+\.(?:py|md|txt|proto)|(?:\w+/)+)`", text)

    assert named
    assert not [name for name in named if not (ROOT / name).exists()]


PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    if path.name != "CHANGELOG.md"  # which also tells of what is gone
)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_points_at_exists(page: str):
    text = (ROOT / page).read_text()
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    linked = re.findall(r"(?<!`)\]\(([^)\s]+)\)", prose)
    named = re.findall(
        r"(?<![\w/.-])((?:docs|benchmarks|scripts|tests|proto|manyhands|node|scheduler|ledger|protocol)"
        r"/[\w./-]+\.(?:md|py|proto|sh))\b",
        prose,
    )

    assert not [name for name in named if not (ROOT / name).exists()]
    assert not [link for link in linked if not _leads_somewhere(ROOT / page, link)]


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    if re.match(r"\w+:", path):  # of the web: not asked
        return True
    there = page.parent / path if path else page
    return there.exists() and (not anchor or anchor in _anchors(there))


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def test_sections_of_the_design_that_code_names_exist():
    design = (ROOT / "DESIGN.md").read_text()
    rules = re.findall(r"^(\d+)\. ", design.partition("## 5a.")[2], re.MULTILINE)
    sections = {f"section {n}" for n in re.findall(r"^## (\d+)\.", design, re.MULTILINE)}
    known = sections | {"5a"} | {f"5a.{rule}" for rule in rules}

    named = {
        section
        for path, text in texts()
        if path.suffix in (".py", ".proto")
        for section in re.findall(r"DESIGN (5a(?:\.\d+)?|section \d+)", text)
    }

    assert named <= known


def test_no_file_names_a_place_on_somebodys_machine():
    places = re.compile(r"(?<![\w.$}])/(?:home|Users|root|work|mnt|private)/[\w.]")

    found = [f"{path}: {match[0]}" for path, text in texts() for match in places.finditer(text)]

    assert not found


THREATS = "docs/security.md"


def test_every_test_that_the_threat_model_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / THREATS).read_text())

    missing = [f"{path}::{name}" for path, name in named if name not in _tests_in(path)]

    assert len(named) > 50
    assert not missing


def test_every_claim_of_the_threat_model_names_a_test():
    holds = (ROOT / THREATS).read_text().partition("## What holds")[2].partition("\n## ")[0]
    claims = [line for line in holds.splitlines() if line.startswith("- ")]

    assert len(claims) > 30
    assert not [claim for claim in claims if "::test_" not in claim]


@functools.cache
def _tests_in(path: str) -> set[str]:
    if not (ROOT / path).is_file():
        return set()
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {each.name for each in ast.walk(tree) if isinstance(each, functions)}


# Set-up


@pytest.fixture(scope="module")
def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "lib_environment", ROOT / "scripts" / "lib_environment.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(packages: Path, name: str) -> Path:
    """A distribution of one module, as pip leaves it behind."""
    info = packages / f"{name}-1.0.dist-info"
    info.mkdir()
    (packages / f"{name}.py").write_text("x = 1\n")
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        f"{name}.py,sha256=abc,6\n{name}-1.0.dist-info/METADATA,,\n{name}-1.0.dist-info/RECORD,,\n"
    )
    return info


def test_set_up_notices_packages_that_were_cut_off(tmp_path: Path, environment: Any):
    installed(tmp_path, "whole")
    cut, unrecorded, lost = (installed(tmp_path, name) for name in ("cut", "unrecorded", "lost"))
    (tmp_path / "cut.py").write_text("x")
    (unrecorded / "RECORD").unlink()
    (tmp_path / "lost.py").unlink()

    assert environment.incomplete_distributions(tmp_path) == sorted([cut, unrecorded, lost])


def test_set_up_asks_for_everything_we_declare(environment: Any):
    required = {Requirement(text).name for text in environment.required_packages()}

    assert required == {needed.name for needed in [*RUNTIME, *DEV]}
