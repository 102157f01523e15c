"""deploy/ and docs/operate.md: every metric, command and flag named there is one that we have."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from prometheus_client import generate_latest

from manyhands.cli import root
from manyhands.gateway.faults import CODES
from manyhands.gateway.metrics import Metrics
from manyhands.gateway.metrics_table import node_table, table

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
OPERATE = (ROOT / "docs" / "operate.md").read_text()
SELECTED, LABEL = re.compile(r"(manyhands_\w+)\{([^}]*)\}"), re.compile(r'(\w+)\s*=~?\s*"([^"]*)"')
METRIC = re.compile(r"manyhands_[a-z0-9_]+")
RISES = re.compile(r"increase\((manyhands_\w+)(?:\{([^}]*)\})?\[")
SUFFIXES = ("_bucket", "_sum", "_count")


def exported() -> set[str]:
    names = set(METRIC.findall(table() + node_table()))
    return names | {name + suffix for name in names for suffix in SUFFIXES}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def require_sound(expr: str) -> None:
    """What is selected or summed by is a label of the metrics there, and brackets pair up."""
    opened = []
    for sign in re.sub(r'"[^"]*"', "", expr):
        if sign in "({[":
            opened.append(sign)
        elif sign in ")}]":
            assert opened, expr
            assert opened.pop() + sign in ("()", "{}", "[]"), expr
    assert not opened, expr
    for name, selected in SELECTED.findall(expr):
        for label, value in LABEL.findall(selected):
            assert label in labels_of(name), expr
            assert label != "code" or value in CODES.values(), expr
    known = {"le", "instance", "job"}.union(*map(labels_of, METRIC.findall(expr)))
    for names in re.findall(r"\bby \(([^)]*)\)", expr):
        assert {each.strip() for each in names.split(",")} <= known, expr


def labels_of(name: str) -> set[str]:
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    rows = [*table().splitlines(), *node_table().splitlines()]
    (row,) = [line for line in rows if line.startswith(f"| `{name}` ")]
    return {"job", "instance", *filter(None, row.split("|")[3].strip().split(", "))}


def test_the_dashboard_shows_metrics_that_are_exported_and_is_as_its_script_makes_it():
    told = json.loads((DEPLOY / "grafana" / "manyhands.json").read_text())
    shown = [target["expr"] for panel in told["panels"] for target in panel["targets"]]
    made = subprocess.run([sys.executable, ROOT / "scripts" / "make_dashboard.py", "--check"])

    assert made.returncode == 0
    assert len(shown) > 20
    for expr in shown:
        require_sound(expr)
        named = set(METRIC.findall(expr))
        assert named
        assert named <= exported(), expr
    assert len({panel["id"] for panel in told["panels"]}) == len(told["panels"])


def test_alerts_are_about_metrics_that_are_exported_and_have_a_paragraph_each():
    for rule in alerts():
        require_sound(rule["expr"])
        assert set(METRIC.findall(rule["expr"])) <= exported(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operate.md"
        assert anchor == rule["alert"].lower()
        assert f"### {rule['alert']}\n" in OPERATE
    assert len(re.findall(r"^### \w+$", OPERATE, re.MULTILINE)) == len(alerts())


def test_what_alerts_count_is_there_before_anything_is_counted():
    """Prometheus' `increase` and `rate` see nothing in a series that begins above 0."""
    metrics = Metrics()
    metrics.expect(["tiny"])
    begun = generate_latest(metrics.registry).decode()
    found = [expr for rule in alerts() for expr in RISES.findall(rule["expr"])]

    assert len(found) >= 2
    for name, selected in found:
        series = [line for line in begun.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        wanted = LABEL.findall(selected)
        assert any(
            all(f'{label}="{value}"' in line for label, value in wanted) for line in series
        ), (name, selected)


def test_work_that_did_not_hold_is_counted_once_each_time():
    metrics = Metrics()
    for n_so_far in (0, 2, 2, 3):
        metrics.judged(n_so_far, {"refused": n_so_far})

    told = generate_latest(metrics.registry).decode()
    assert "manyhands_peer_misbehaved_total 3.0" in told
    assert 'manyhands_hop_retries_total{reason="refused"} 3.0' in told


def test_the_tables_of_metrics_are_made_from_the_code():
    assert table() in OPERATE
    assert node_table() in OPERATE


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
    return [shlex.split(re.sub(r" (>|\|\|) .*", "", line))[1:] for line in found]


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


@pytest.mark.skipif(shutil.which("sh") is None, reason="needs a shell")
def test_a_key_for_prometheus_is_made_and_made_again_when_it_was_lost(tmp_path):
    """As the gateway's container begins: under `sh -e`, where one command that fails ends all."""
    services = yaml.safe_load((DEPLOY / "compose.yml").read_text())["services"]
    [script] = services["gateway"]["command"]
    found = re.search(r"^if .*?^fi$", script, re.MULTILINE | re.DOTALL)
    assert found is not None
    own = tmp_path / "manyhands"
    own.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m manyhands "$@"\n')
    own.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    around = {**os.environ, "PATH": path, "MANYHANDS_HOME": str(tmp_path / "home")}
    kept, made = tmp_path / "metrics_key", []

    for is_lost in (False, True):
        if is_lost:
            kept.unlink()
        command = found[0].replace("/shared", str(tmp_path))
        subprocess.run(["sh", "-ec", command], env=around, cwd=ROOT, check=True)
        made.append(kept.read_text())

    assert made[0] != made[1]
    assert all(text.startswith("mh-") for text in made)


# It comes with Prometheus alone (Debian: prometheus), which nothing else here needs.
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_alerts_fire_when_they_should_and_not_when_nothing_is_wrong():
    done = subprocess.run(
        ["promtool", "test", "rules", DEPLOY / "prometheus" / "alerts_test.yml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested():
    told = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())
    tests = [each for case in told["tests"] for each in case.get("alert_rule_test", ())]
    fired = {each["alertname"] for each in tests if each.get("exp_alerts")}

    assert fired == {rule["alert"] for rule in alerts()}


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


def test_a_stop_is_no_failure_to_systemd():
    """The command line ends with 143 after SIGTERM, also when it ended properly."""
    for unit in (DEPLOY / "systemd").glob("*.service"):
        assert "\nSuccessExitStatus=143\n" in unit.read_text()


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
