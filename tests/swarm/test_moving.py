"""`serve --span auto` in real processes: nodes that start together spread, and answer as one."""

import json
import time

import pytest

from tests.cli.command import manyhands
from tests.swarm.processes import counters, swarm

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
