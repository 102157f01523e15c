"""docs/gateway.md: its table is the one in the code, and what it shows can be done."""

import re
import shutil
import subprocess

import pytest

from manyhands.gateway.fault_table import table
from tests.cli.command import ROOT
from tests.gateway.live import Live

PAGE = (ROOT / "docs" / "gateway.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_of_faults_is_made_from_the_code():
    assert table() in PAGE


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_what_curl_is_shown_to_do_it_does(gateway: Live):
    for command in blocks("sh"):
        done = subprocess.run(
            ["sh", "-c", command], env={"URL": gateway.url, "PATH": "/usr/bin:/bin"},
            capture_output=True, timeout=30, text=True,
        )  # fmt: skip

        assert '"content":"Hello' in done.stdout


def test_what_the_official_client_is_shown_to_do_it_does(gateway: Live, capsys):
    for program in blocks("python"):
        exec(compile(program, "docs/gateway.md", "exec"), {"URL": gateway.url})

    assert capsys.readouterr().out.startswith("Hello")
