"""`up`: ready means that it answers, a node that dies comes back, and nothing outlives it."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cli.command import manyhands
from tests.swarm.processes import start

pytestmark = [
    pytest.mark.swarm,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads children from /proc"),
]


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it never came true"
        time.sleep(0.05)


def status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url, timeout=5).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_ctrl_c_while_nodes_start_leaves_no_process(tmp_path):
    up = start("up", "--nodes", 2, "--port", 0, "--home", tmp_path)
    until(lambda: len(children(up.pid)) == 2)
    started = children(up.pid)

    up.send_signal(signal.SIGINT)

    assert up.wait(timeout=20) == 130
    assert not any(map(is_running, started))
    assert "Traceback" not in up.stderr.read()


@pytest.mark.slow
def test_one_of_two_hosts_may_end_or_hang_and_the_swarm_stays_ready(tmp_path):
    up = start("up", "--nodes", 2, "--replicas", 2, "--port", 0, "--home", tmp_path)
    try:
        ready = json.loads(up.stdout.readline())
        url = ready["url"] + "/health/ready"
        first, _ = children(up.pid)

        os.kill(first, signal.SIGKILL)
        until(lambda: first not in children(up.pid))
        states = {status(url)}
        until(lambda: states.add(status(url)) or len(children(up.pid)) == 2)
        both = children(up.pid)
        for pid in both:
            os.kill(pid, signal.SIGSTOP)  # alive, and answering nobody
        until(lambda: status(url) == 503)
        for pid in both:
            os.kill(pid, signal.SIGCONT)
        until(lambda: status(url) == 200)
    finally:
        up.kill()
        up.wait()

    assert (ready["spans"], ready["replicas"]) == ([[0, 8], [0, 8]], 2)
    assert states == {200}


def test_ready_means_it_answers_and_a_killed_up_leaves_no_process(tmp_path):
    up = start("up", "--nodes", 1, "--port", 0, "--home", tmp_path)
    ready = json.loads(up.stdout.readline())
    url = ready["url"]

    asked = ("generate", "tiny", "--prompt", "Hi", "--max-tokens", 2)
    answered = manyhands(*asked, "--home", tmp_path)
    states = [status(url + path) for path in ("/health/ready", "/health/live", "/nothing")]
    first = children(up.pid)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(lambda: status(url + "/health/ready") == 503)
    until(lambda: set(children(up.pid)) - set(first))
    started = set(children(up.pid))
    up.kill()
    up.wait()

    assert ready["event"] == "ready"
    assert answered.code == 0, answered.err
    assert states == [200, 200, 404]
    until(lambda: not any(map(is_running, started)))
