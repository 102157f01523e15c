"""A swarm of processes over real sockets: it equals the unsplit model, and outlives its nodes.

One swarm serves all tests of this file, in their order: three spans, each on two hosts. What a
test kills stays dead.
"""

import json
import signal
import time
from pathlib import Path

import pytest

from ledger.verify import verify_ledger
from manyhands.models import BUILT_IN
from tests.cli.command import manyhands
from tests.swarm.processes import counters, events, start, swarm

pytestmark = pytest.mark.swarm

SPANS = ["0:3", "3:6", "6:8"]
PROMPT = "Once upon a time there was a boy named Tom."
N_TOKENS = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with swarm(tmp_path_factory.mktemp("swarm"), "tiny", SPANS * 2) as running:
        yield running


@pytest.fixture(scope="module")
def client_home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def reference() -> list[int]:
    """Greedy token ids of the unsplit model, by the transformers library alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(BUILT_IN, dtype=torch.float32).eval()
    prompt = AutoTokenizer.from_pretrained(BUILT_IN)(PROMPT, return_tensors="pt")
    out = model.generate(**prompt, do_sample=False, max_new_tokens=N_TOKENS, eos_token_id=None)
    return out[0, prompt["input_ids"].shape[1] :].tolist()


def asking(nodes, client_home, *more):
    alive = [node for node in nodes if node.process.poll() is None]
    joins = [f"--join={node.address}" for node in alive]
    prompt = ("--prompt", PROMPT, "--max-tokens", N_TOKENS, "--temperature", 0, "--ignore-eos")
    return ("generate", "tiny", *prompt, "--home", client_home, *joins, *more)


def by_peer(nodes, peer):
    return next(node for node in nodes if node.peer == peer)


def test_it_equals_the_unsplit_model_whatever_the_order_of_the_start(nodes, client_home, reference):
    ended = manyhands(*asking(nodes, client_home, "--json"))

    assert ended.code == 0, ended.err
    answer = json.loads(ended.out)
    assert answer["token_ids"] == reference
    assert len(set(reference)) >= 20
    assert [step["span"] for step in answer["route"]] == [[0, 3], [3, 6], [6, 8]]
    assert answer["failovers"] == 0
    assert len(answer["receipts"]) == 3
    assert answer["usage"]["completion_tokens"] == N_TOKENS


def test_every_hop_pushes_a_frame_per_step_straight_to_the_next(nodes, client_home):
    before = counters(nodes, client_home)
    answer = json.loads(manyhands(*asking(nodes, client_home, "--json")).out)
    after = counters(nodes, client_home)

    def grown(peer, name):
        return after[peer][name] - before[peer][name]

    *others, last = (step["peer"] for step in answer["route"])
    n_rows = answer["usage"]["prompt_tokens"] + N_TOKENS - 1  # the last token is never run
    for peer in others:  # the prompt is one frame, then one row each: nothing passes the client
        assert grown(peer, "frames_pushed") == N_TOKENS
        assert grown(peer, "rows_pushed") == n_rows
    assert grown(last, "frames_pushed") == grown(last, "rows_pushed") == N_TOKENS - 1
    assert [grown(peer, "rows_run") for peer in (*others, last)] == [n_rows] * 3
    idle = [node.peer for node in nodes if node.peer not in (*others, last)]
    assert [grown(peer, "frames_pushed") for peer in idle] == [0] * 3


def test_the_second_turn_of_a_chat_goes_back_to_the_chain_that_ran_the_first(nodes, client_home):
    before = counters(nodes, client_home)
    said = b"Once upon a time there was a girl named Lily who had a big red ball.\nTell me more.\n"
    join = f"--join={nodes[0].address}"
    ended = manyhands(
        *("chat", "tiny", "--max-tokens", 24, "--temperature", 0, "--home", client_home, join),
        stdin=said,
    )
    after = counters(nodes, client_home)

    assert ended.code == 0, ended.err
    hits = [after[node.peer]["prefix_hits"] - before[node.peer]["prefix_hits"] for node in nodes]
    assert sorted(hits) == [0, 0, 0, 1, 1, 1]


def test_the_events_of_jsonl_spell_the_answer(nodes, client_home, reference):
    ended = manyhands(*asking(nodes, client_home, "--jsonl"))

    lines = [json.loads(line) for line in ended.out.splitlines()]
    tokens = [line for line in lines if line["event"] == "token"]
    assert [line["event"] for line in lines] == ["route", *["token"] * N_TOKENS, "done"]
    assert [line["index"] for line in tokens] == list(range(N_TOKENS))
    assert [line["token_id"] for line in tokens] == reference
    assert "".join(line["text"] for line in tokens) == lines[-1]["text"]


def test_a_stop_ends_the_answer_before_it_and_is_not_part_of_it(nodes, client_home):
    whole = json.loads(manyhands(*asking(nodes, client_home, "--json")).out)["text"]
    stop = whole[20:28]

    ended = json.loads(manyhands(*asking(nodes, client_home, "--json", "--stop", stop)).out)

    assert ended["text"] == whole[: whole.index(stop)]
    assert ended["finish_reason"] == "stop"


def test_a_swarm_can_be_looked_at(nodes, client_home):
    join = f"--join={nodes[0].address}"

    status = manyhands("status", join, "--home", client_home, "--json")
    peers = manyhands("peers", join, "--home", client_home, "--json")
    table = manyhands("peers", join, "--home", client_home)

    [model] = json.loads(status.out)["models"]
    assert model["complete"]
    assert (model["peers"], model["n_blocks"], model["least_hosts"]) == (6, 8, 2)
    assert {row["peer"] for row in json.loads(peers.out)["peers"]} == {n.peer for n in nodes}
    assert table.out.count("float32/none/float32") == 6


def test_ctrl_c_cancels_an_answer_and_still_settles_it(nodes, client_home):
    asked = start(*asking(nodes, client_home, "--jsonl", "--max-tokens", 400))
    seen = events(asked)
    while next(seen)["event"] != "token":
        pass

    asked.send_signal(signal.SIGINT)

    last = list(seen)[-1]
    assert asked.wait(timeout=20) == 130
    assert last["event"] == "done"
    assert last["finish_reason"] == "cancelled"
    assert len(last["receipts"]) == 3


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
def test_a_killed_hop_changes_nothing_but_the_clock(nodes, client_home, reference, position):
    asked = start(*asking(nodes, client_home, "--jsonl"))
    lines = []
    for line in events(asked):
        lines.append(line)
        if line["event"] == "token" and line["index"] == 8 + 4 * position:
            route = next(line["route"] for line in lines if line["event"] == "route")
            by_peer(nodes, route[position]["peer"]).end(signal.SIGKILL)

    assert asked.wait(timeout=30) == 0, asked.stderr.read()
    done = lines[-1]
    assert [line["token_id"] for line in lines if line["event"] == "token"] == reference
    assert done["token_ids"] == reference
    assert done["failovers"] >= 1
    assert len(done["receipts"]) == 3 + done["failovers"]
    assert sum(line["event"] == "route" for line in lines) == 1 + done["failovers"]


def test_sigterm_lets_a_running_answer_finish_and_then_leaves(nodes, client_home, reference):
    asked = start(*asking(nodes, client_home, "--jsonl"))
    lines = []
    leaving = None
    for line in events(asked):
        lines.append(line)
        if line["event"] == "token" and line["index"] == 3:
            leaving = by_peer(nodes, lines[0]["route"][1]["peer"])
            leaving.process.send_signal(signal.SIGTERM)

    assert asked.wait(timeout=30) == 0, asked.stderr.read()
    assert lines[-1]["token_ids"] == reference
    assert lines[-1]["failovers"] == 0
    assert leaving.process.wait(timeout=20) == 143


def test_blocks_that_nobody_serves_any_more_are_named(nodes, client_home):
    until = time.monotonic() + 15
    while True:  # the leave is news at once, unless it was told to the dead alone
        ended = manyhands(*asking(nodes, client_home))
        if ended.code == 5 or time.monotonic() > until:
            break

    assert ended.code == 5, ended.err
    assert "3:6" in ended.err
    assert "manyhands serve tiny --span 3:6" in ended.err


def test_every_partys_ledger_holds(nodes, client_home):
    for node in nodes:
        if node.process.poll() is None:
            assert node.end(signal.SIGTERM) == 143

    reports = [verify_ledger(node.home.node) for node in nodes]
    verified = manyhands("ledger", "verify", "--home", client_home)

    assert [report.failures for report in reports] == [[]] * len(nodes)
    assert sum(report.n_entries for report in reports) > 10
    assert verified.code == 0, verified.err
