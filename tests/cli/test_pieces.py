"""The parts of the front door that need no process of their own."""

import asyncio
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyhands import local, machine
from manyhands.asking import DEFAULT_MAX_TOKENS, Ask
from manyhands.coverage import hosts_per_block, runs_where, spell
from manyhands.home import Home
from manyhands.keeping import how_it_ended, waiting_told, why_incomplete
from manyhands.local import QUIET_S, LocalSwarm, even_split, first_line, replicated_split
from manyhands.models import find_model
from manyhands.options import EndpointType, SizeType
from manyhands.running import Running, found_running, join_addresses, recorded
from protocol.errors import ConfigError, ContextExceeded, HomeInUse, PeerUnreachable, UsageError
from protocol.messages import Span
from tests.virtual_time import VirtualLoop, run_in_virtual_time

ADDRESS = "/ip4/127.0.0.1/tcp/31400/p2p/12D3KooWMSrDsLWgLuz4ojGYuVMRJauJvZ2d5guKgrYedvuNdkdY"


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_an_even_split_covers_every_block_once_in_like_pieces(case):
    n_blocks, n_nodes = case

    spans = even_split(n_blocks, n_nodes)

    assert [block for span in spans for block in range(span.start, span.stop)] == [*range(n_blocks)]
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_more_nodes_than_blocks_is_too_many():
    with pytest.raises(UsageError, match="9 nodes"):
        even_split(8, 9)


@given(st.integers(1, 60), st.integers(1, 5), st.data())
def test_a_replicated_split_gives_every_block_so_many_hosts(n_blocks, n_replicas, data):
    n_nodes = data.draw(st.integers(n_replicas, n_blocks * n_replicas))

    spans = replicated_split(n_blocks, n_nodes, n_replicas)

    assert len(spans) == n_nodes
    assert hosts_per_block(spans, n_blocks) == [n_replicas] * n_blocks


@pytest.mark.parametrize(("n_nodes", "hint"), [(1, "--nodes 2"), (17, "--nodes 2 to 16")])
def test_a_replicated_split_that_cannot_be_says_what_can(n_nodes, hint):
    with pytest.raises(UsageError) as refused:
        replicated_split(8, n_nodes, 2)

    assert refused.value.hint.startswith(hint)


def test_a_swarm_is_incomplete_only_when_all_hosts_of_a_block_are_away(tmp_path):
    nodes = LocalSwarm("tiny", replicated_split(8, 4, 2), tmp_path).nodes

    assert why_incomplete(nodes, {0, 3}, 8) == ""
    assert why_incomplete(nodes, {1, 3}, 8) == "nobody serves blocks 0:4: node 1, 3 of 4 is not up"


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_node_may_take_long_to_begin_while_its_log_goes_on(tmp_path, is_ready):
    log = tmp_path / "serve.log"
    log.touch()

    async def begin(loop: VirtualLoop) -> bytes:
        stdout = asyncio.StreamReader()

        async def load() -> None:
            for _ in range(10):
                await asyncio.sleep(QUIET_S - 2)
                with log.open("a") as told:
                    told.write("weights\n")
            if is_ready:
                stdout.feed_data(b"ready\n")

        loading = asyncio.create_task(load())
        try:
            return await first_line(stdout, log)
        finally:
            await loading

    if is_ready:
        assert run_in_virtual_time(begin) == b"ready\n"
    else:
        with pytest.raises(TimeoutError):
            run_in_virtual_time(begin)


async def test_a_gentle_start_that_others_leave_no_time_is_tried_again_as_usual(
    tmp_path, monkeypatch
):
    stand_in = tmp_path / "serve.sh"  # silent when it is to be gentle
    ready = '{"event": "ready", "page": null}'
    stand_in.write_text(
        f"#!/bin/sh\ncase $* in *--gently*) ;; *) echo '{ready}' ;; esac\nexec sleep 60\n"
    )
    stand_in.chmod(0o700)
    monkeypatch.setattr(local.sys, "executable", str(stand_in))
    monkeypatch.setattr(local, "QUIET_S", 0.2)
    monkeypatch.setattr(local, "LOOK_S", 0.05)
    swarm = LocalSwarm("tiny", [Span(0, 8)], tmp_path)
    (node,) = swarm.nodes
    try:
        await swarm.start(node)
        swarm.kill(node)
        await node.ended()
        with pytest.raises(ConfigError, match="said nothing"):
            await swarm.start(node)
        await node.ended()
        await swarm.start(node)
        assert (node.is_ready, node.n_starts) == (True, 3)
    finally:
        await swarm.stop()


async def test_who_starts_a_swarm_is_told_whom_it_waits_for(tmp_path, capsys):
    first, second = LocalSwarm("tiny", [Span(0, 4), Span(4, 8)], tmp_path).nodes
    first.is_ready = True
    second.log_path.write_text("of the last time\n")
    told = ""

    async with waiting_told([first, second], every_s=0.0):
        while "nothing yet" not in told:
            await asyncio.sleep(0)
            told += capsys.readouterr().err
        with second.log_path.open("a") as log:
            log.write("x" * 10_000 + "\ntiny 4:8: weights\n")  # its end is enough
        while "weights" not in told:
            await asyncio.sleep(0)
            told += capsys.readouterr().err

    assert "still waiting for node 2; node 2 said last: tiny 4:8: weights" in told


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, "ended with status 0"),
        (-9, "was ended by SIGKILL"),
        (-63, "was ended by signal 63"),
    ],
)
def test_what_ended_a_node_is_told_by_its_name(status, told):
    assert how_it_ended(status) == told


def test_runs_of_blocks_are_told_as_options_write_them():
    counts = hosts_per_block([Span(0, 2), Span(1, 4)], 5)

    assert counts == [1, 2, 1, 1, 0]
    assert spell(runs_where(lambda n: n == 1, counts)) == "0:1, 2:4"
    assert spell(runs_where(lambda n: n == 0, counts)) == "4:5"
    assert runs_where(lambda n: n > 2, counts) == ()


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own there")
def test_gentle_work_gives_way_and_leaves_no_low_priority_behind():
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()

    assert machine.gently(priority) == max(before, machine.GENTLE_NICE)
    assert priority() == before
    with pytest.raises(ZeroDivisionError):
        machine.gently(lambda: 1 // 0)


GIVING_WAY = """
import os, threading
from manyhands.machine import give_way
began = os.getpriority(os.PRIO_PROCESS, 0)
threading.Thread(target=threading.Event().wait, daemon=True).start()
give_way(0)
assert os.getpriority(os.PRIO_PROCESS, 0) == began
give_way(3)
threading.Thread(target=threading.Event().wait, daemon=True).start()
ids = [0, *map(int, os.listdir("/proc/self/task"))] if os.path.exists("/proc/self/task") else [0]
print(began, *{os.getpriority(os.PRIO_PROCESS, each) for each in ids})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has priority classes, no nice numbers")
def test_a_process_that_gives_way_does_so_with_threads_it_has_and_those_it_makes():
    told = subprocess.run(
        [sys.executable, "-c", GIVING_WAY], capture_output=True, text=True, check=True
    )

    began, *now = map(int, told.stdout.split())
    assert now == [min(machine.MAX_NICE, began + 3)]


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("4GiB", 4 << 30), ("512MB", 512 << 20), ("1g", 1 << 30), ("1.5k", 1536), ("7", 7)],
)
def test_sizes_are_read_as_people_write_them(text, n_bytes):
    assert SizeType().convert(text, None, None) == n_bytes


def test_endpoints_take_ipv6_in_brackets():
    assert EndpointType().convert("[::1]:0", None, None) == ("::1", 0)


def test_what_runs_here_is_found_until_it_ends(tmp_path):
    home = Home.at(tmp_path)
    record = Running(command="serve", pid=os.getpid(), model="tiny", addresses=(ADDRESS,))

    with recorded(home, record):
        during = found_running(home)
        joined = join_addresses(home, ())

    assert during == [record]
    assert [str(address) for address in joined] == [ADDRESS]
    assert found_running(home) == []
    with pytest.raises(PeerUnreachable):
        join_addresses(home, ())


def test_a_record_that_a_killed_process_left_is_removed(tmp_path):
    home = Home.at(tmp_path)
    left = tmp_path / "running" / "serve-1.json"
    left.parent.mkdir()
    left.write_text(f'{{"command": "serve", "pid": 1, "model": "x", "addresses": ["{ADDRESS}"]}}')

    assert found_running(home) == []
    assert not left.exists()


def test_a_home_has_one_node_at_a_time(tmp_path):
    home = Home.at(tmp_path)

    with home.sole_node(), pytest.raises(HomeInUse, match=str(os.getpid())), home.sole_node():
        pass
    with home.sole_node():
        pass  # free again


def test_only_the_default_length_gives_way_to_the_context():
    model = find_model("tiny")
    left = 10
    prompt = [5] * (model.manifest.max_positions - left)

    assert Ask().request(model, [5], None).max_tokens == DEFAULT_MAX_TOKENS
    assert Ask().request(model, prompt, None).max_tokens == left
    with pytest.raises(ContextExceeded, match="do not fit"):
        Ask(max_tokens=left + 1).request(model, prompt, None)


def test_a_seed_is_drawn_when_none_is_given_and_kept_when_one_is():
    model = find_model("tiny")

    drawn = {Ask().request(model, [5], None).sampling.seed for _ in range(4)}

    assert len(drawn) > 1
    assert Ask(seed=7).request(model, [5], None).sampling.seed == 7
