"""openai-node, as its package-lock pins it, against a real swarm. Needs node and npm's registry."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import ROOT
from tests.gateway.live import Live

SUITE = ROOT / "tests" / "openai_node"
THINGS = 8


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs node and npm")
def test_what_openai_node_asks_it_gets(gateway: Live, tmp_path: Path) -> None:
    there = tmp_path / "suite"
    shutil.copytree(SUITE, there, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        made = subprocess.run(install, cwd=there, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip("npm gets no package within two minutes")
    if made.returncode:
        pytest.skip(f"npm gets no package: {made.stderr.strip()[-200:]}")

    done = subprocess.run(
        ["node", "suite.mjs", gateway.url], cwd=there, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok ") == THINGS, done.stdout
