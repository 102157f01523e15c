"""A swarm with an issuer by its commands, in real processes: granted, allotted, paid, proven."""

import json
import signal
from pathlib import Path

import pytest

from tests.cli.command import Ended, assert_explained, manyhands, until_answered
from tests.swarm.processes import start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


def test_a_client_is_granted_credit_and_pays_two_nodes_from_what_it_allots(tmp_path):
    founder, friend = tmp_path / "founder", tmp_path / "friend"
    running = []

    def serve(home: Path, span: str) -> None:
        process = start(
            *("serve", "tiny", "--span", span, "--swarm", "lab", "--home", home),
            *("--listen", "127.0.0.1:0", "--kv-cache", "64MiB", "--threads", 1, "--drain", 2),
            *("--price-per-mtl", 1_000_000_000),
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline(), process.stderr and process.stderr.read()

    def lab(home: Path, *arguments: object) -> Ended:
        return manyhands(*arguments, "--home", home, "--swarm", "lab", timeout_s=180)

    def generate(home: Path) -> Ended:
        asked = ("--prompt", "Once", "--max-tokens", 4, "--ignore-eos", "--json", "--wait", 30)
        return lab(home, "generate", "tiny", *asked)

    try:
        made = manyhands("swarm", "create", "lab", "--funding", "granted", "--home", founder)
        assert made.code == 0, made.err
        serve(founder, "0:4")
        invite = lab(founder, "swarm", "invite").out.strip()
        join = ("swarm", "join", invite, "--home", friend, "--json")
        joined = json.loads(manyhands(*join, timeout_s=180).out)
        serve(friend, "4:8")
        payer = joined["peers"]["client"]
        assert_explained(generate(friend), 6, f"manyhands ledger grant {payer}")

        grant = ("ledger", "grant", payer, "2.5", "--json")
        granted = until_answered(lambda: lab(founder, *grant))
        assert granted.code == 0, granted.err
        answers = [generate(friend) for _ in range(2)]
        assert [each.code for each in answers] == [0, 0], answers[-1].err
        costs = [json.loads(each.out)["cost_ncr"] for each in answers]
        assert costs[0] == costs[1] > 0
        for home in (founder, friend):
            place = home / "swarms" / "lab"
            checked = manyhands("ledger", "verify", "--home", place)
            assert checked.code == 0, checked.err
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(timeout=60)
