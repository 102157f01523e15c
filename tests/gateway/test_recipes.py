"""The recipes that the development environment can run; `tests/conformance` has the others."""

import shutil
import subprocess
import sys

import pytest

from tests.gateway.live import Live
from tests.recipes import RECIPES, program


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(gateway: Live):
    said = run("sh", "-ec", program("curl", "sh", gateway.url))

    assert '"object":"list"' in said
    assert said.count('"object":"chat.completion"') == 1
    assert "data: [DONE]" in said
    assert '"object":"text_completion"' in said


@pytest.mark.parametrize("page", ["openai-python", pytest.param("agent", marks=pytest.mark.slow)])
def test_openai_s_client_in_python(gateway: Live, page: str):
    said = run(sys.executable, "-c", program(page, "python", gateway.url))

    assert ("called weather {'city': " if page == "agent" else "12D3Koo") in said


def test_every_recipe_is_on_the_list():
    pages = {path.stem for path in RECIPES.glob("*.md")} - {"README"}

    listed = (RECIPES / "README.md").read_text()
    assert not [page for page in pages if f"({page}.md)" not in listed]
