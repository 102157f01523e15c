"""A governed swarm by its commands, in real processes: let in by two, stopped by one, lifted."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Ended, assert_explained, manyhands
from tests.swarm.processes import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]
PEOPLE = ("anna", "bert")
WITHIN_S = 60.0  # what the project promises; measured, it is seconds


class Governed:
    """Two people, of whom the first founded the swarm and runs its node."""

    def __init__(self, directory: Path) -> None:
        self.homes = {name: directory / name for name in PEOPLE}

    def run(self, name: str, *arguments: object) -> Ended:
        return manyhands(*arguments, "--home", self.homes[name], timeout_s=90)

    def told(self, name: str, *arguments: object) -> Any:
        ended = self.run(name, *arguments, "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    def answer(self, name: str, *more: object) -> Ended:
        asked = ("--prompt", "Once", "--max-tokens", 4, "--json")
        return self.run(name, "generate", "tiny", *asked, *more)

    def until(self, name: str, code: int) -> Ended:
        """Answers are asked for until one ends like this."""
        began_s = time.monotonic()
        while (ended := self.answer(name)).code != code:
            assert time.monotonic() - began_s < WITHIN_S, ended.err
        return ended


def test_two_let_a_model_in_and_one_stops_it(tmp_path):
    swarm = Governed(tmp_path)
    swarm.run("anna", "swarm", "create", "den", "--private", "--default")
    process = start(
        *("serve", "tiny", "--home", swarm.homes["anna"], "--listen", "127.0.0.1:0"),
        *("--kv-cache", "64MiB", "--threads", 1, "--drain", 2),
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "ready"
        invite = swarm.run("anna", "swarm", "invite").out.strip()
        swarm.told("bert", "swarm", "join", invite, "--default")
        swarm.until("bert", 0)

        peers = {
            name: swarm.told(name, "identity", "--swarm", "den")["client"]["peer"]
            for name in PEOPLE
        }
        rules = tmp_path / "rules.toml"
        rules.write_text(
            f"asks_licence = true\n[[release]]\nmodels = '*'\nneeds = 2\n"
            f"releasers = {list(peers.values())}\n[advisories]\npeers = ['{peers['bert']}']\n"
        )
        swarm.told("anna", "swarm", "rules", rules)
        assert_explained(swarm.until("bert", 6), 6, "has not released it in channel stable")

        for name in PEOPLE:
            swarm.told(name, "models", "release", "tiny")
        assert_explained(swarm.answer("bert"), 6, "accept the licence of tiny")
        swarm.told("bert", "models", "accept", "tiny")
        swarm.until("bert", 0)

        about = ("--reason", "it was changed", "--id", "a-1")
        swarm.told("bert", "models", "advise", "tiny", "--severity", "flag", *about)
        flagged = swarm.until("bert", 0)
        assert "warning: tiny: advisory a-1 (flag): it was changed" in flagged.err
        swarm.told("bert", "models", "advise", "tiny", "--severity", "stop", *about)
        assert_explained(swarm.until("anna", 6), 6, "advisory a-1 (stop): it was changed")
        (model,) = swarm.told("anna", "status")["models"]
        assert "a-1" in model["refused"]
        assert model["states"] == {"draining": 1}

        swarm.told("bert", "models", "lift", "a-1")
        swarm.told("anna", "models", "accept", "tiny")
        swarm.until("anna", 0)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
