"""Nodes that go while they serve, as processes: what they have run is handed over, nobody waits."""

import json
import signal

import pytest

from tests.cli.command import manyhands
from tests.swarm.processes import counters, events, start, swarm

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

N_TOKENS = 400


def asking(nodes, client_home, *more):
    joins = [f"--join={node.address}" for node in nodes]
    what = ("--prompt", "Once upon a time", "--max-tokens", N_TOKENS, "--temperature", 0)
    return ("generate", "tiny", *what, "--ignore-eos", "--home", client_home, *joins, *more)


def asked(nodes, client_home, *more):
    ended = manyhands(*asking(nodes, client_home, "--json", *more), timeout_s=200)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


def test_sigterm_in_mid_answer_hands_over_and_the_leaver_is_gone_before_the_answer_ends(tmp_path):
    with swarm(tmp_path, "tiny", ["0:3", "3:6", "3:6", "6:8"]) as nodes:
        undisturbed = asked(nodes, tmp_path / "client")
        before = counters(nodes, tmp_path / "client")
        running = start(*asking(nodes, tmp_path / "client", "--jsonl", "--no-spares"))
        seen, leaver, gone_at = [], None, None
        for line in events(running):
            seen.append(line)
            if line["event"] != "token":
                continue
            if line["index"] == 40:
                leaver = next(node for node in nodes if node.peer == seen[0]["route"][1]["peer"])
                assert leaver.process is not None
                leaver.process.send_signal(signal.SIGTERM)
            if leaver is not None and gone_at is None and leaver.process.poll() is not None:
                gone_at = line["index"]
        left = [node for node in nodes if node is not leaver]
        after = counters(left, tmp_path / "client")

    done = seen[-1]
    assert running.wait(timeout=20) == 0, running.stderr.read()
    assert done["token_ids"] == undisturbed["token_ids"]
    assert (done["failovers"], done["handovers"]) == (0, 1)
    assert gone_at is not None
    assert gone_at < N_TOKENS - 1, "it left as soon as it had none left"
    assert leaver.process.returncode == 143
    heir = done["route"][1]["peer"]
    ran = after[heir]["rows_run"] - before[heir]["rows_run"]
    assert 0 < ran < N_TOKENS - 30, "neither the prompt nor what the leaver had run"
