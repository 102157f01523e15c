"""deploy/ and docs/operate.md: every metric, command and flag named there is one that we have."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from manyhands.cli import root
from manyhands.gateway.metrics_table import table

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
OPERATE = (ROOT / "docs" / "operate.md").read_text()
METRIC = re.compile(r"manyhands_[a-z0-9_]+")
SUFFIXES = ("_bucket", "_sum", "_count")


def exported() -> set[str]:
    names = set(METRIC.findall(table()))
    return names | {name + suffix for name in names for suffix in SUFFIXES}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def require_balanced(expr: str) -> None:
    for opening, closing in ("()", "{}", "[]"):
        assert expr.count(opening) == expr.count(closing), expr
    assert re.search(r"[<>]=?|==|rate|manyhands", expr)


def test_the_dashboard_shows_metrics_that_are_exported_and_is_as_its_script_makes_it():
    told = json.loads((DEPLOY / "grafana" / "manyhands.json").read_text())
    shown = [target["expr"] for panel in told["panels"] for target in panel["targets"]]
    made = subprocess.run([sys.executable, ROOT / "scripts" / "make_dashboard.py", "--check"])

    assert made.returncode == 0
    assert len(shown) > 20
    for expr in shown:
        require_balanced(expr)
        named = set(METRIC.findall(expr))
        assert named
        assert named <= exported(), expr
    assert len({panel["id"] for panel in told["panels"]}) == len(told["panels"])


def test_alerts_are_about_metrics_that_are_exported_and_have_a_paragraph_each():
    for rule in alerts():
        require_balanced(rule["expr"])
        assert set(METRIC.findall(rule["expr"])) <= exported(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operate.md"
        assert anchor == rule["alert"].lower()
        assert f"### {rule['alert']}\n" in OPERATE
    assert len(re.findall(r"^### \w+$", OPERATE, re.MULTILINE)) == len(alerts())


def test_the_table_of_metrics_is_made_from_the_code():
    assert table() in OPERATE


def commands() -> list[list[str]]:
    """Every `manyhands …` in deploy/, as words."""
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    scripts = [text for each in services.values() for text in each.get("command", ())]
    lines = "\n".join(scripts).replace("$$", "$").splitlines()
    units = [path.read_text() for path in (DEPLOY / "systemd").glob("*.service")]
    for unit in units:
        program = re.search(r"^ExecStart=(.+) \$MANYHANDS_FLAGS$", unit, re.MULTILINE)
        flags = re.search(r"^#\s+MANYHANDS_FLAGS=(.+)$", unit, re.MULTILINE)
        assert program is not None
        assert flags is not None
        lines.append(f"{program[1].removeprefix('/usr/local/bin/')} {flags[1]}")
    found = [line[line.index("manyhands ") :] for line in lines if "manyhands " in line]
    return [shlex.split(re.sub(r" > .*", "", line))[1:] for line in found]


def test_every_command_in_the_files_has_flags_that_the_command_line_knows():
    assert len(commands()) >= 7
    for words in commands():
        command: click.Command | None = root
        context = click.Context(root, info_name="manyhands")
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        assert command is not None
        if command.name == "gateway" and words[0] == "key":
            from manyhands.gateway.key_command import key

            command = key.commands[words[1]]
            words = words[2:]
        context = click.Context(command, info_name=command.name)
        values, rest, _ = command.make_parser(context).parse_args(list(words))
        assert rest == []
        assert values


def test_files_that_others_read_are_in_their_form():
    for path in (*DEPLOY.rglob("*.yml"),):
        assert yaml.safe_load(path.read_text()), path
    compose = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists()
        for other in service.get("depends_on", ()):
            assert other in compose["services"]
    docker = (DEPLOY / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists(), name


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_units(tmp_path):
    for unit in (DEPLOY / "systemd").glob("*.service"):
        text = unit.read_text().replace("/usr/local/bin/manyhands", "/bin/true")
        (tmp_path / unit.name).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name],
            capture_output=True,
            text=True,
        )
        assert f"{unit.name}:" not in done.stderr, done.stderr
