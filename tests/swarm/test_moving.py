"""`serve --span auto` in real processes: nodes that start together spread, and answer as one; one
that moves in mid-answer is not missed."""

import json
import signal
import threading
import time

import pytest

from manyhands.local import free_ports
from tests.checkpoints import write_checkpoint
from tests.cli.command import manyhands
from tests.local_swarm import add_byte_tokenizer
from tests.swarm.processes import Node, counters, events, start, swarm

pytestmark = [pytest.mark.swarm, pytest.mark.slow]

N_NODES, N_BLOCKS, MOST_BLOCKS = 4, 8, 2
PATIENCE_S = 120.0


def test_nodes_that_start_together_cover_every_block_after_a_few_moves(tmp_path):
    spans = ["auto"] * N_NODES
    with swarm(tmp_path, "tiny", spans, "--max-blocks", MOST_BLOCKS) as nodes:
        until_s = time.monotonic() + PATIENCE_S
        while True:
            told = counters(nodes, tmp_path / "client").values()
            serving = [node["span"] for node in told if node["state"] == "serving"]
            if {b for span in serving for b in range(*span)} == set(range(N_BLOCKS)):
                break
            assert time.monotonic() < until_s, f"blocks are missing: {told}"
            time.sleep(1)
        joins = [f"--join={node.address}" for node in nodes]
        asked = ("generate", "tiny", "--prompt", "Once", "--max-tokens", 8, "--json")
        ended = manyhands(*asked, "--home", tmp_path / "client", *joins)
        time.sleep(10)  # a swarm that is whole, and even, stays as it is
        later = counters(nodes, tmp_path / "client").values()

    assert ended.code == 0, ended.err
    assert sorted(step["span"] for step in json.loads(ended.out)["route"]) == sorted(serving)
    assert sum(node["moving"]["moves"] for node in told) <= N_NODES
    assert [node["span"] for node in later] == [node["span"] for node in told]


SLOW_AND_LONG = {
    "hidden_size": 768,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "max_position_embeddings": 8192,
}
ROOMY, BOUNDED = ("--kv-cache", "256MiB"), ("--max-blocks", 4)
MOST_TOKENS, BEGUN, MORE = 8000, 10, 20


def test_an_answer_goes_on_while_a_node_of_its_chain_moves_to_where_it_is_needed_more(tmp_path):
    """Two come who hold the mover's blocks; then the others have one host, and these three. Its
    answer may take two fifths of a node's room, and so much has an heir of it from the start."""
    model = add_byte_tokenizer(write_checkpoint(tmp_path / "model", **SLOW_AND_LONG))
    spans = ["0:4", "auto", "4:8", "4:8"]
    first, mover, *late = [
        Node(tmp_path / f"node-{port}", span, port, *ROOMY, *BOUNDED * (span == "auto"))
        for span, port in zip(spans, free_ports(4), strict=True)
    ]
    moved = threading.Event()

    def watch() -> None:
        line = json.loads(mover.process.stdout.readline() or "{}")
        if line.get("event") == "moved":
            moved.set()

    def asking(n_tokens, *more):
        what = ("--prompt", "Once", "--temperature", 0, "--ignore-eos", "--max-tokens", n_tokens)
        joins = [f"--join={node.address}" for node in (first, mover)]
        return ("generate", model, *what, "--home", tmp_path / "client", *joins, *more)

    try:
        for node in (first, mover):
            node.start(str(model), [first.address])
            assert node.until_ready()["span"] == ([0, 4] if node is first else [4, 8])
        running = start(*asking(MOST_TOKENS, "--jsonl", "--no-spares"))
        lines, n_more = [], 0
        for line in events(running):
            lines.append(line)
            if line["event"] == "token" and line["index"] == BEGUN:
                threading.Thread(target=watch, daemon=True).start()
                for node in late:
                    node.start(str(model), [first.address])
            n_more += moved.is_set()
            if n_more == MORE:
                running.send_signal(signal.SIGINT)
        told = counters([mover], tmp_path / "client")[mover.peer]
        done = lines[-1]
        assert done["event"] == "done", running.stderr.read()
        again = manyhands(*asking(len(done["token_ids"]), "--json"), timeout_s=400)
    finally:
        for node in (first, mover, *late):
            if node.process is not None:
                node.process.kill()
                node.process.wait()

    assert lines[0]["route"][1]["peer"] == mover.peer
    assert n_more >= MORE, "the answer went on when the move was over"
    assert done["route"][1]["peer"] in {node.peer for node in late}
    assert (done["failovers"], done["handovers"]) == (0, 1)
    assert told["moving"]["moves"] >= 1
    assert json.loads(again.out)["token_ids"] == done["token_ids"]
