"""Least loaded is not fastest, nor is who says so: a peer that lies, and one that is stuck."""

import asyncio
import threading
import time
from collections.abc import Sequence

from node.engine import ShardEngine, StepItem, StepResult
from node.node import Node
from node.vitals import STUCK_S
from tests.failure_modes.conftest import ask
from tests.local_swarm import Swarm, whole

SLOW_S = 0.05  # what each step of the liar takes longer than it says


class Slow:
    """An engine on a machine that is slow, in front of a real one."""

    def __init__(self, engine: ShardEngine) -> None:
        self._engine = engine

    def step(self, items: Sequence[StepItem]) -> list[StepResult]:
        time.sleep(SLOW_S)
        return self._engine.step(items)

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)


def make_it_lie(node: Node) -> None:
    """It says what it measured at the start, whatever its steps take now."""
    node.batcher._engine = Slow(node.engine)  # type: ignore[assignment]
    node.batcher._watch = lambda seen: None


async def test_least_loaded_is_not_fastest_and_a_liar_loses_its_traffic(pair: Swarm):
    """A peer that takes ten times what it announces, or more, is in few sessions of the first
    twenty and in hardly any after them, though nobody else ever said a word against it.
    """
    make_it_lie(pair.nodes[1].node)
    liar = pair.nodes[1].node.identity.peer_id

    async with pair.client() as client:
        rode = []
        for _ in range(25):
            answer = await whole(client.generate(ask(pair, max_tokens=12)))
            rode.append(liar in {step.peer for step in answer.route})

    assert sum(rode[:20]) <= 5
    assert sum(rode[20:]) <= 1


async def test_least_loaded_is_not_stuck_and_a_stuck_node_says_so(pair: Swarm):
    """Its sessions have left, its event loop answers: only its torch thread never came back."""
    node, release = pair.nodes[0].node, threading.Event()
    stuck = node.batcher.between_steps(lambda: release.wait(30))
    began_s = time.perf_counter() - STUCK_S - 4.0  # as if it had been away for longer than it has
    async with asyncio.timeout(5):
        while node.batcher.load.busy_since_s is None:  # noqa: ASYNC110 (a thread's, no event)
            await asyncio.sleep(0.01)
    node.batcher.load.busy_since_s = began_s

    said = node.draft()

    assert said.n_sessions == 0
    assert said.measured.queue_us > 4e6
    release.set()
    await stuck
