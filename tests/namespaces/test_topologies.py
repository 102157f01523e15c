"""The benchmark of random topologies: a small run of it, and one that is interrupted."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.swarm]

COMMAND = (sys.executable, "-m", "benchmarks.nat_topologies", "--seed", "7")


def test_homes_behind_routers_drawn_at_random_are_part_of_answers():
    command = [*COMMAND, "--topologies", "3", "--json", "--patience", "90"]

    ended = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)["topologies"]
    assert [each["error"] for each in told] == [None] * 3, ended.stderr
    assert all(each["answered"] for each in told)


def test_who_interrupts_it_gets_what_there_is_and_nothing_is_left():
    running = subprocess.Popen(
        [*COMMAND, "--topologies", "50"],
        cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    first = running.stderr.readline()

    os.kill(running.pid, signal.SIGINT)
    out, errors = running.communicate(timeout=60)

    assert first.startswith("[1/50] "), first + errors
    assert running.returncode == 130, errors
    assert " of 50 topologies (seed 7" in out
    names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"mhlab-{running.pid}-" not in names
