"""The thread of a model that guesses: whom it holds on to, and what it keeps."""

import asyncio
import threading
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from node import draft_model
from node.draft_model import DraftModel, Thoughts

IDS = [1, 2, 3]


class Leased:
    is_open = True

    def close(self) -> None:
        self.is_open = False


class Engine:
    """Says that 3 follows whatever comes, as soon as `may_step` is set."""

    max_positions, device, n_blocks = 1000, "cpu", 1

    def __init__(self) -> None:
        self.leases: list[Leased] = []
        self.n_begun, self.may_step = 0, threading.Event()
        self.may_step.set()

    def open(self, capacity: int) -> Leased:
        self.leases.append(Leased())
        return self.leases[-1]

    def step(self, items: list[object]) -> list[object]:
        self.n_begun += 1
        self.may_step.wait(60)
        return [SimpleNamespace(logits=torch.eye(5)[3:4])]


class Hop:
    def told(self) -> None: ...


async def until(holds) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110  (a thread thinks)
            await asyncio.sleep(0.01)


@pytest.fixture
def model() -> DraftModel:
    return DraftModel(Engine(), 5)  # type: ignore[arg-type]  # as much of one as is needed


def thoughts(model: DraftModel, told=lambda: None) -> Thoughts:
    call_on_loop = asyncio.get_running_loop().call_soon_threadsafe
    return Thoughts(model, 100, lambda: False, told, call_on_loop)


async def test_a_thread_that_waits_holds_on_to_no_session_that_is_over(model, monkeypatch):
    """Else a span that ended kept its weights, and the next one found no room."""
    monkeypatch.setattr(draft_model, "IDLE_S", 600.0)
    hop = Hop()
    mind, gone = thoughts(model, hop.told), weakref.ref(hop)
    mind.guess(IDS, 4)
    await until(partial(mind.guess, IDS, 4))

    mind.close()
    del mind, hop

    await until(lambda: gone() is None)
    monkeypatch.undo()
    model.think(thoughts(model))  # the thread ends in time


async def test_room_is_given_back_at_once_whatever_the_thread_is_at(model):
    engine, over, other = model.engine, thoughts(model), thoughts(model)
    over.guess(IDS, 4)
    await until(lambda: over.guess(IDS, 4))
    engine.may_step.clear()
    begun = engine.n_begun
    other.guess(IDS, 4)
    await until(lambda: engine.n_begun > begun)

    over.guess([*IDS, 4], 4)  # it waits for its turn
    over.close()

    assert [lease.is_open for lease in engine.leases] == [False, True]
    engine.may_step.set()
    await until(lambda: other.guess(IDS, 4))
    other.close()


async def test_room_of_a_session_that_ends_in_a_step_is_given_back_behind_it(model):
    told = []
    engine, mind = model.engine, thoughts(model, lambda: told.append(1))
    engine.may_step.clear()
    mind.guess(IDS, 4)
    await until(lambda: engine.n_begun)

    mind.close()
    assert engine.leases[0].is_open
    engine.may_step.set()

    await until(lambda: not engine.leases[0].is_open)
    assert (engine.n_begun, told) == (1, [])


async def test_where_no_thread_can_be_had_nothing_is_guessed_and_sessions_end(model, monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    mind = thoughts(model)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert mind.guess(IDS, 4) == ()
        thoughts(model).close()

    mind.guess([*IDS, 4], 4)
    await until(lambda: mind.guess([*IDS, 4], 4))
    mind.close()
