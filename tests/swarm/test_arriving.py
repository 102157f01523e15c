"""Nodes that choose their blocks while others load: `serve --span auto`, started at once."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from manyhands.local import free_ports
from tests.cli.command import manyhands
from tests.swarm.processes import Node, counters, start

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


TWO_BLOCKS = ("--max-blocks", 2)


@contextmanager
def ended(*nodes: Node) -> Iterator[None]:
    try:
        yield
    finally:
        for node in nodes:
            if node.process is not None:
                node.process.kill()
                node.process.wait()


def test_nodes_that_start_together_beside_one_that_serves_take_different_blocks(tmp_path):
    ports = free_ports(4)
    first = Node(tmp_path / "first", "0:2", ports[0])
    others = [Node(tmp_path / f"node-{port}", "auto", port, *TWO_BLOCKS) for port in ports[1:]]
    with ended(first, *others):
        first.start("tiny", [])
        first.until_ready()
        for node in others:
            node.start("tiny", [first.address])
            time.sleep(0.3)
        spans = [tuple(node.until_ready()["span"]) for node in others]
        moved = [told["moving"]["moves"] for told in counters(others, tmp_path / "c").values()]

    assert sorted(spans) == [(2, 4), (4, 6), (6, 8)]
    assert moved == [0, 0, 0]


def test_the_first_nodes_of_a_swarm_started_at_once_take_different_blocks(tmp_path):
    """All that each knows is where one of them will listen."""
    ports = free_ports(4)
    nodes = [Node(tmp_path / f"node-{port}", "auto", port, *TWO_BLOCKS) for port in ports]
    with ended(*nodes):
        for node in nodes:
            node.start("tiny", [nodes[0].address])
        spans = [tuple(node.until_ready()["span"]) for node in nodes]
        moved = [told["moving"]["moves"] for told in counters(nodes, tmp_path / "c").values()]

    assert sorted(spans) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert moved == [0, 0, 0, 0]


def test_who_loads_is_told_by_status_and_peers_as_coming(tmp_path):
    ports = free_ports(2)
    first = Node(tmp_path / "first", "0:4", ports[0])
    late = Node(tmp_path / "late", "auto", ports[1], "--max-blocks", 4)
    asked = ("--json", "--join", first.address, "--home", tmp_path / "client")
    with ended(first, late):
        first.start("tiny", [])
        first.until_ready()
        late.start("tiny", [first.address])
        assert late.process is not None
        assert any("blocks 4:8" in line for line in late.process.stderr)
        late.process.send_signal(signal.SIGSTOP)  # however slow those who ask are, it loads
        asking = [start(command, *asked) for command in ("status", "peers")]
        told, shown = [json.loads(each.communicate(timeout=60)[0]) for each in asking]
        late.process.send_signal(signal.SIGCONT)
        late.until_ready()
        after = json.loads(manyhands("status", *asked).out)

    assert told["models"][0]["coming"] == [[4, 8, 1]]
    [row] = [row for row in shown["peers"] if row["state"] == "loading"]
    assert (row["peer"], row["loading"], row["span"]) == (late.peer, [4, 8], None)
    assert 0 <= row["loading_s"] < 60
    assert (after["models"][0]["coming"], after["peers_loading"]) == ([], [])
    assert after["models"][0]["complete"]
