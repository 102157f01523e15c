"""The worker packs what is runnable, cuts long prompts so that nobody stalls, contains faults."""

import asyncio
from math import inf

import numpy as np
import pytest

from node.batching import Batcher
from node.engine import load_shard
from node.schedule import PREFILL_ROWS, UNKNOWN_ROWS
from node.work import Done, Work
from protocol.actions import Run
from protocol.errors import ManyhandsError, UsageError
from protocol.wire import FLOAT32


class Session:
    """A lane that decodes `n_tokens` greedily on its own ring, as a chain of one node does."""

    is_own_ring, is_bare, wire, deadline = True, False, FLOAT32, inf

    def __init__(self, batcher: Batcher, engine, prompt: list[int], n_tokens: int) -> None:
        self.batcher, self.prompt, self.left = batcher, prompt, n_tokens
        self.lease = engine.open(len(prompt) + n_tokens)
        self.generation = 0
        self.ids = list(prompt)
        self.chunks: list[int] = []
        self.error: ManyhandsError | None = None
        self.ended, self.decoding = asyncio.Event(), asyncio.Event()
        self._ticket = 0

    def start(self) -> None:
        self._submit(0, self.prompt)

    def _submit(self, start: int, ids: list[int]) -> None:
        self._ticket += 1
        payload = np.asarray(ids, dtype="<u4").tobytes()
        run = Run(self._ticket, start, len(ids), payload, sample=True)
        self.batcher.submit(Work(self, run, self.generation))

    def draw(self, logits, position: int) -> int:
        return int(logits.argmax())

    def ran(self, results: Done) -> None:
        self.chunks.append(results.rows)
        if results.token_id is None:
            return
        self.ids.append(results.token_id)
        self.decoding.set()
        self.left -= 1
        if self.left:
            self._submit(len(self.ids) - 1, self.ids[-1:])
        else:
            self.ended.set()

    def afterwards(self) -> None:
        pass

    def run_failed(self, error: ManyhandsError) -> None:
        self.error = error
        self.ended.set()


@pytest.fixture(scope="module")
def engine(checkpoint):
    return load_shard(checkpoint("llama", max_position_embeddings=1024), None, dtype="float32")


@pytest.fixture
async def batcher(engine):
    made = Batcher(engine, asyncio.get_running_loop())
    made.start()
    yield made
    await asyncio.to_thread(made.stop)


async def ended(*sessions: Session) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(session.ended.wait() for session in sessions))


async def test_sessions_on_one_node_stay_in_one_batch(batcher, engine):
    sessions = [Session(batcher, engine, [i + 3, i + 4, i + 5], 20) for i in range(6)]
    for session in sessions:
        session.start()
    await ended(*sessions)

    assert batcher.load.steps <= 22, "one step per token, not one per session and token"


async def test_a_batch_gives_every_session_what_it_gets_alone(batcher, engine):
    alone = []
    for i in range(4):
        session = Session(batcher, engine, [i + 3, 9, i + 5], 12)
        session.start()
        await ended(session)
        alone.append(session.ids)
    together = [Session(batcher, engine, [i + 3, 9, i + 5], 12) for i in range(4)]
    for session in together:
        session.start()
    await ended(*together)

    assert [session.ids for session in together] == alone


async def test_a_long_prompt_is_cut_smaller_while_others_decode(batcher, engine):
    short = Session(batcher, engine, [3, 4, 5], 40)
    long = Session(batcher, engine, [5 + i % 200 for i in range(600)], 1)
    short.start()
    await short.decoding.wait()
    long.start()
    await ended(short, long)

    assert sum(long.chunks) == 600
    assert long.chunks[0] <= UNKNOWN_ROWS
    assert max(long.chunks) <= PREFILL_ROWS
    assert len(short.ids) == 43, "and the short one was never starved"


async def test_one_bad_session_fails_alone(batcher, engine):
    good = [Session(batcher, engine, [i + 3, 4], 8) for i in range(3)]
    bad = Session(batcher, engine, [engine.vocab_size + 5], 8)
    for session in (good[0], bad, *good[1:]):
        session.start()
    await ended(*good, bad)

    assert isinstance(bad.error, UsageError)
    assert [len(session.ids) for session in good] == [10, 10, 10]


async def test_work_that_is_void_is_not_run(batcher, engine):
    session = Session(batcher, engine, [5 + i % 200 for i in range(900)], 1)
    session.start()
    await asyncio.sleep(0)  # the loop's next breath hands it to the worker
    session.generation += 1  # a cancel
    other = Session(batcher, engine, [3, 4], 4)
    other.start()
    await ended(other)
    await asyncio.sleep(0.05)

    assert sum(session.chunks) < 900
    assert not session.ended.is_set()


async def test_a_session_that_trips_over_its_own_result_fails_alone(batcher, engine):
    class Clumsy(Session):
        def ran(self, results: Done) -> None:
            raise ValueError("a mistake of ours")

    clumsy, good = Clumsy(batcher, engine, [3, 4], 4), Session(batcher, engine, [5, 6], 8)
    clumsy.start()
    good.start()
    await ended(good, clumsy)

    assert clumsy.error is not None
    assert "mistake" not in str(clumsy.error), "our internals are nobody's business"
    assert len(good.ids) == 10
