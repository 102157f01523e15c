"""Nodes that choose their blocks while others load: `serve --span auto`, started at once."""

import time

import pytest

from manyhands.local import free_ports
from tests.swarm.processes import Node, counters

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


def test_nodes_that_start_together_beside_one_that_serves_take_different_blocks(tmp_path):
    ports = free_ports(4)
    first = Node(tmp_path / "first", "0:2", ports[0])
    more = ("--max-blocks", 2)
    others = [Node(tmp_path / f"node-{port}", "auto", port, *more) for port in ports[1:]]
    try:
        first.start("tiny", [])
        first.until_ready()
        for node in others:
            node.start("tiny", [first.address])
            time.sleep(0.3)
        spans = [tuple(node.until_ready()["span"]) for node in others]
        moved = [told["moving"]["moves"] for told in counters(others, tmp_path / "c").values()]
    finally:
        for node in (first, *others):
            if node.process is not None:
                node.process.kill()
                node.process.wait()

    assert sorted(spans) == [(2, 4), (4, 6), (6, 8)]
    assert moved == [0, 0, 0]
