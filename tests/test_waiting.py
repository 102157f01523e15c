"""Blocks that nobody serves: whoever can wait does, and nobody ever hangs."""

import asyncio
import time
from pathlib import Path

import pytest

from protocol.errors import SwarmIncomplete
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.memory import MemoryNetwork
from scheduler import Finished, Generation, Token, Waiting
from tests.checkpoints import write_checkpoint
from tests.local_swarm import add_byte_tokenizer, swarm, whole
from tests.test_failover import ask

FOR_EVER = float("inf")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_byte_tokenizer(write_checkpoint(tmp_path_factory.mktemp("model")))


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork(seed=3)


def over(network: MemoryNetwork):
    return lambda identity: network.transport(identity, OPEN_SWARM_ID)


async def test_an_answer_waits_in_its_middle_for_blocks_to_come_back(model, tmp_path, network):
    async with (
        swarm(model, tmp_path, over(network), (0, 2), (2, 5), (5, 6)) as built,
        built.client() as client,
    ):
        undisturbed = await whole(client.generate(ask(built)))
        events, joining = [], None
        async with client.generate(ask(built, wait_s=FOR_EVER, timeout_s=60.0)) as run:
            async for event in run:
                events.append(event)
                if isinstance(event, Token) and event.index == 5:
                    network.kill(built.nodes[1].node.identity.peer_id)
                if isinstance(event, Waiting) and joining is None:
                    joining = asyncio.create_task(built.start((1, 5)))
        assert joining is not None
        await joining

    assert isinstance(events[-1], Finished)
    assert events[-1].result.token_ids == undisturbed.token_ids
    reasons = [event.reason for event in events if isinstance(event, Waiting)]
    assert any("2:5" in reason for reason in reasons)


async def test_who_does_not_want_to_wait_still_asks_who_is_there(model, tmp_path, network):
    async with (
        swarm(model, tmp_path, over(network), (0, 6)) as built,
        built.client() as client,
    ):
        answer = await whole(client.generate(ask(built, wait_s=0.0, max_tokens=2)))

    assert len(answer.token_ids) == 2


async def test_behind_a_long_line_an_answer_waits_its_time_and_not_as_for_missing_blocks(
    model, tmp_path, network
):
    async with (
        swarm(model, tmp_path, over(network), (0, 3), (3, 6)) as built,
        built.client() as client,
    ):
        node, said = built.nodes[1].node, list[str]()
        node.batcher.load.backlog_s = 60.0

        async def shorten() -> None:
            while node.sessions.refused < 5:  # noqa: ASYNC110 (no event tells of it)
                await asyncio.sleep(0.02)
            node.batcher.load.backlog_s = 0.0

        shortening = asyncio.create_task(shorten())
        async with client.generate(ask(built, wait_s=0.2, max_tokens=2, timeout_s=60.0)) as run:
            async for event in run:
                if isinstance(event, Waiting):
                    said.append(event.reason)
        await shortening

    assert isinstance(event, Finished)
    assert len(event.result.token_ids) == 2
    assert "60.0 s of prompts wait here, the request waits 10.0" in said[0]


async def test_an_answer_that_waits_for_ever_can_be_left(model, tmp_path, network):
    async with (
        swarm(model, tmp_path, over(network), (0, 2)) as built,
        built.client() as client,
        asyncio.timeout(5),
        client.generate(ask(built, wait_s=FOR_EVER)) as run,
    ):
        async for event in run:
            if isinstance(event, Waiting):
                break


@pytest.mark.parametrize(
    "token", [pytest.param(None, marks=pytest.mark.slow), 5], ids=["at the start", "in the middle"]
)
async def test_a_deadline_that_passes_while_blocks_are_missing_names_them(
    model, tmp_path, network, token
):
    async with (
        swarm(model, tmp_path, over(network), (0, 2), (2, 5), (5, 6)) as built,
        built.client() as client,
    ):
        await whole(client.generate(ask(built, max_tokens=1)))
        doomed = built.nodes[1].node.identity.peer_id
        if token is None:
            network.kill(doomed)

        async def killed_at(run: Generation) -> None:
            async with run:
                async for event in run:
                    if isinstance(event, Token) and event.index == token:
                        network.kill(doomed)

        began_s = time.monotonic()
        with pytest.raises(SwarmIncomplete) as caught:
            await killed_at(client.generate(ask(built, wait_s=FOR_EVER, timeout_s=3.0)))
        spent_s = time.monotonic() - began_s

    assert caught.value.missing == ((2, 5),)
    assert spent_s < 3.0 + 5.0, "the deadline, and what it takes to settle on a busy machine"
