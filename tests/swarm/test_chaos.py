"""Ten answers of real processes that are killed, stalled, drained and joined: all are right.

The long run, with the pauses it is about, is `benchmarks/chaos.py` itself.
"""

import re
import subprocess
import sys

import pytest

from tests.cli.command import ROOT, environment

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

SMALL = (
    *("--model", "tiny", "--nodes", "4", "--replicas", "2", "--generations", "10"),
    *("--prompts", "4", "--at-once", "3", "--gap", "20", "80"),
)


def test_answers_are_right_whatever_happens_to_the_nodes():
    done = subprocess.run(
        [sys.executable, "benchmarks/chaos.py", *SMALL],
        cwd=ROOT,
        env=environment(OMP_WAIT_POLICY="passive"),
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert "| answers right | 10 of 10 | all |" in done.stdout, done.stderr[-3000:]
    assert "| NO |" not in done.stdout, done.stdout
    assert re.search(r"\| faults \| \d", done.stdout), "nothing happened"
