"""Where what only Unix has is not there, everything has another way: real processes without it."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from protocol.address import Address
from tests.cli.command import environment, manyhands

HERE = Path(__file__).parent
ELSEWHERE = HERE / "elsewhere.py"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="plays another system on Linux; on another one, run the suite"
)


def test_locks_files_signals_and_limits_have_another_way(tmp_path):
    done = subprocess.run(
        [sys.executable, ELSEWHERE, HERE / "small_paths.py", tmp_path, ELSEWHERE],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )

    assert done.stdout == "all of it\n", done.stderr


@pytest.mark.slow
@pytest.mark.swarm
def test_a_node_serves_and_leaves_properly_without_what_unix_has(tmp_path):
    node = subprocess.Popen(
        [
            *(sys.executable, ELSEWHERE, "manyhands", "serve", "tiny", "--span", "0:8"),
            *("--listen", "127.0.0.1:0", "--home", tmp_path / "node", "--threads", "1"),
            *("--kv-cache", "64MiB"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert node.stdout is not None
    assert node.stderr is not None
    watchdog = threading.Timer(120, node.kill)
    watchdog.start()
    try:
        line = node.stdout.readline()
        assert line, node.stderr.read()
        [address] = json.loads(line)["addresses"]
        asked = subprocess.run(
            [
                *(sys.executable, ELSEWHERE, "manyhands", "generate", "tiny", "--json"),
                *("--prompt", "Once", "--max-tokens", "6", "--join", str(Address.parse(address))),
                *("--home", tmp_path / "client"),
            ],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
            check=False,
        )
        node.send_signal(signal.SIGTERM)
        code = node.wait(60)
    finally:
        watchdog.cancel()
        node.kill()
        node.wait()

    answer = json.loads(asked.stdout)
    assert len(answer["token_ids"]) == 6
    assert len(answer["receipts"]) == 1
    assert code == 143
    assert manyhands("ledger", "verify", "--home", tmp_path / "client").code == 0
