"""What one machine runs again for several audits: in turns, and not for those who have given up."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from manyhands.auditing.own_engine import IsGivenUp, OwnEngine
from manyhands.gateway.work_limit import WorkLimit
from node.recomputing import GivenUp
from protocol.wire import Rows

ROWS = np.zeros((1, 1), np.float32)
LONG_S = 600.0  # that nothing takes, if it goes on at all


def new_engine() -> OwnEngine:
    """Without a model: these tests say themselves what runs."""
    return OwnEngine(cast("Any", None), cast("Any", None))


class Slow:
    """A run that lasts until it is told to end, or given up."""

    def __init__(self) -> None:
        self.began, self.may_end, self.ended = (threading.Event() for _ in range(3))

    def __call__(self, is_given_up: IsGivenUp) -> Rows:
        self.began.set()
        try:
            while not self.may_end.wait(0.001):
                if is_given_up():
                    raise GivenUp
            return ROWS
        finally:
            self.ended.set()


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, LONG_S)


async def test_a_run_that_nobody_waits_for_ends_and_the_next_gets_its_turn() -> None:
    engine, first, second = new_engine(), Slow(), Slow()
    look = asyncio.create_task(engine._in_turn(first, waiting_told([])))
    behind = asyncio.create_task(engine._in_turn(second, waiting_told([])))
    await happened(first.began)
    assert not second.began.is_set()

    look.cancel()

    await happened(first.ended)
    second.may_end.set()
    assert (await behind).shape == (1, 1)
    assert look.cancelled()


async def test_a_run_that_is_given_up_while_it_waits_is_never_begun() -> None:
    engine, first, second, third = new_engine(), Slow(), Slow(), Slow()
    looks = [
        asyncio.create_task(engine._in_turn(each, waiting_told([])))
        for each in (first, second, third)
    ]
    await happened(first.began)

    looks[1].cancel()
    await asyncio.wait(looks[1:2])
    for each in (first, third):
        each.may_end.set()
    await asyncio.wait(looks)

    assert not second.began.is_set()
    assert not looks[2].exception()


async def test_a_limit_counts_from_when_the_thread_takes_a_run_up() -> None:
    engine, first, second = new_engine(), Slow(), Slow()
    second.may_end.set()
    waits = asyncio.Event()

    async def look(slow: Slow, limit_s: float) -> Rows:
        async with WorkLimit(limit_s) as limit:
            return await engine._in_turn(slow, waiting_told([waits.set], limit))

    holds = asyncio.create_task(look(first, LONG_S))
    await happened(first.began)
    waits.clear()
    behind = asyncio.create_task(look(second, 0.05))
    await waits.wait()
    await asyncio.sleep(0.1)  # twice its limit
    assert not behind.done()

    first.may_end.set()
    await asyncio.wait([holds, behind])

    assert not holds.exception()
    assert second.began.is_set()


def waiting_told(told: list[Callable[[], None]], limit: WorkLimit | None = None) -> Any:
    """What is entered while others have the thread."""

    @contextmanager
    def waiting() -> Any:
        for each in told:
            each()
        if limit is None:
            yield
        else:
            with limit.waiting():
                yield

    return waiting
