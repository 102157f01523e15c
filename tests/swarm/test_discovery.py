"""Real nodes that know no address of each other but one of libp2p."""

import json
import os
import signal
from pathlib import Path

import pytest

from protocol.transport.libp2p import is_installed
from tests.cli.command import manyhands
from tests.swarm.processes import start

LISTEN = ("--listen", "127.0.0.1:0", "--libp2p", "127.0.0.1:0")
NODE = ("--kv-cache", "64MiB", "--threads", 1, "--parent", os.getpid(), "--drain", 1)

pytestmark = [pytest.mark.swarm, pytest.mark.slow]


@pytest.mark.libp2p
@pytest.mark.skipif(not is_installed(), reason="the libp2p extra is not installed")
def test_two_nodes_meet_by_a_bootstrap_address_and_answer_together(tmp_path: Path):
    first = start("serve", "tiny", "--span", "0:4", "--home", tmp_path / "a", *LISTEN, *NODE)
    second = None
    try:
        (bootstrap,) = json.loads(first.stdout.readline())["libp2p"]
        options = ("--span", "4:8", "--home", tmp_path / "b", "--bootstrap", bootstrap)
        second = start("serve", "tiny", *options, *LISTEN, *NODE)
        (address,) = json.loads(second.stdout.readline())["addresses"]

        asked = ("--join", address, "--home", tmp_path / "c", "--wait=30", "--json")
        told = manyhands("generate", "tiny", "--prompt", "Hello", "--max-tokens", 4, *asked)

        assert told.code == 0, told.err
        spans = [hop["span"] for hop in json.loads(told.out)["route"]]
        assert spans == [[0, 4], [4, 8]]
    finally:
        for process in filter(None, (first, second)):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def test_a_node_whose_libp2p_cannot_listen_serves_on_and_says_so(tmp_path: Path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--listen", "127.0.0.1:0", "--libp2p", f"127.0.0.1:{port}")
        node = start("serve", "tiny", "--home", tmp_path, *options, *NODE)
        try:
            ready = json.loads(node.stdout.readline())
            status = manyhands("status", "--home", tmp_path, "--json")
        finally:
            node.send_signal(signal.SIGTERM)
            _, stderr = node.communicate(timeout=60)

    (record,) = json.loads(status.out)["running"]
    assert ready["libp2p"] == []
    assert "no discovery over libp2p" in record["without"][0]
    assert stderr.count("no discovery over libp2p") == 1
