"""A node that leaves says so while it still serves, and is gone when it has ended."""

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.clock import wall_ms
from protocol.measured import State
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Token
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


async def test_others_see_it_draining_while_its_sessions_end_and_then_no_more(model, tmp_path):
    network, states = MemoryNetwork(), []

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    async with (
        swarm(model, tmp_path, over_memory, (0, 6), (0, 3)) as pair,
        pair.client() as client,
        client.generate(pair.request([5, 6], max_tokens=200, ignore_eos=True)) as run,
    ):
        async for event in run:
            if isinstance(event, Token) and event.index == 3:
                break
        leaving, staying = pair.nodes  # nobody else could go on with the session
        leaving.node.settings = replace(leaving.node.settings, drain_s=10.0)
        stopping = asyncio.create_task(pair.stop(leaving))
        while not stopping.done():
            told = staying.node.gossip.table.get(leaving.node.identity.peer_id, wall_ms())
            states.append(told.measured.state if told else None)
            await asyncio.sleep(0.005)
        gone = staying.node.gossip.table.get(leaving.node.identity.peer_id, wall_ms())

    assert states[0] is State.SERVING
    assert State.DRAINING in states
    assert gone is None


async def test_what_serves_ends_its_thread_however_often_it_is_cancelled(model, tmp_path):
    network = MemoryNetwork()

    def over_memory(identity):
        return network.transport(identity, OPEN_SWARM_ID)

    others = set(threading.enumerate())  # of tests before this one
    async with swarm(model, tmp_path, over_memory, (0, 3), (3, 6)) as chain:
        async with (
            chain.client() as client,
            client.generate(chain.request([5, 6], max_tokens=2, ignore_eos=True)) as run,
        ):
            async for _ in run:
                pass
        begun = {*threading.enumerate()} - others
        threads = {thread for thread in begun if thread.name == "torch"}
        serving = [task for task in asyncio.all_tasks() if task.get_name() == "serving"]
        while not all(task.done() for task in serving):  # a group does, whose other task failed
            for task in serving:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*(asyncio.to_thread(thread.join, 10.0) for thread in threads))

    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)
