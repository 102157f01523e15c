"""A policy that cannot hold is said before anything is started for it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from manyhands.cli import root

POLICIES = ["[classes.internal]\ngroups = ['clinic']\n", "[auto]\n", "["]


@pytest.mark.parametrize("policy", POLICIES)
def test_up_starts_no_node_for_a_policy_that_cannot_hold(tmp_path: Path, policy: str):
    path = tmp_path / "policy.toml"
    path.write_text(policy)

    told = CliRunner().invoke(root, ["up", "--policy", str(path), "--home", str(tmp_path / "home")])

    assert told.exit_code != 0
    assert "starting" not in told.output
    assert not (tmp_path / "home" / "swarm").exists()
    assert "Traceback" not in told.output
