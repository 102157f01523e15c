"""What a node says may find no reader any more: it serves on, and ends as it would have."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.cli.command import environment, manyhands

pytestmark = pytest.mark.swarm


@pytest.mark.parametrize(
    "leaves", [pytest.param("before it speaks", marks=pytest.mark.slow), "while it serves"]
)
def test_a_node_serves_on_when_the_reader_of_its_stderr_leaves(tmp_path, leaves):
    reader, writer = os.pipe()
    node = subprocess.Popen(
        [
            *(sys.executable, "-m", "manyhands", "-vv", "serve", "tiny", "--home", tmp_path / "n"),
            *("--listen", "127.0.0.1:0", "--kv-cache", "16MiB", "--threads", "1", "--drain", "1"),
            *("--parent", str(os.getpid())),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        env=environment(),
    )
    os.close(writer)
    try:
        if leaves == "before it speaks":
            os.close(reader)
        ready = node.stdout.readline()
        if leaves == "while it serves":
            os.close(reader)
        address = json.loads(ready)["addresses"][0]
        asked = ("generate", "tiny", "--prompt", "Once", "--max-tokens", 4, "--join", address)
        answer = manyhands(*asked, "--home", tmp_path / "c")
        node.send_signal(signal.SIGTERM)
        code = node.wait(timeout=30)
    finally:
        node.kill()
        node.wait()

    assert answer.code == 0, answer.err
    assert code == 143


def test_a_command_that_nobody_hears_fail_ends_with_its_own_code(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    asked = ("generate", "tiny", "--prompt", "x", "--home", tmp_path)

    ended = subprocess.run(
        [sys.executable, "-m", "manyhands", *asked], stderr=writer, env=environment(), timeout=60
    )
    os.close(writer)

    assert ended.returncode == 4
