"""The worker packs what is runnable, cuts long prompts so that nobody stalls, contains faults."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from math import inf

import numpy as np
import pytest

from node.batching import Batcher
from node.engine import load_shard
from node.engine.kv_layout import STEP_ROWS
from node.schedule import PREFILL_ROWS, UNKNOWN_ROWS
from node.work import Done, Work
from protocol.actions import Run
from protocol.draws import Drawn
from protocol.errors import ManyhandsError, OutOfMemory, PeerBusy, SessionTimeout, UsageError
from protocol.wire import BFLOAT16, FLOAT32, INT8_64, decode, encode


class Session:
    """A lane that decodes `n_tokens` greedily on its own ring, as a chain of one node does."""

    is_own_ring, is_bare, wire, deadline = True, False, FLOAT32, inf
    is_held_up, is_guest, end_wire = False, False, None

    def __init__(self, batcher: Batcher, engine, prompt: list[int], n_tokens: int) -> None:
        self.batcher, self.prompt, self.left = batcher, prompt, n_tokens
        self.lease = engine.open(len(prompt) + n_tokens)
        self.generation = 0
        self.ids = list(prompt)
        self.chunks: list[int] = []
        self.error: ManyhandsError | None = None
        self.ended, self.decoding = asyncio.Event(), asyncio.Event()
        self.begun = asyncio.Event()
        self.unwanted: set[int] = set()
        self._ticket = 0

    def start(self) -> None:
        self._submit(0, self.prompt)

    def _submit(self, start: int, ids: list[int]) -> None:
        self._ticket += 1
        payload = np.asarray(ids, dtype="<u4").tobytes()
        run = Run(self._ticket, start, len(ids), payload, sample=True)
        self.batcher.submit(Work(self, run, self.generation))

    readout = None

    def mends(self, position: int) -> bool:
        return False

    def is_answer(self, position: int) -> bool:
        return position >= len(self.prompt)

    def is_wanted(self, ticket: int) -> bool:
        return ticket not in self.unwanted

    def draw(self, logits, position: int, line=None) -> tuple[Drawn, ...]:
        return (Drawn(int(logits[-1].argmax())),)

    def ran(self, results: Done) -> None:
        self.chunks.append(results.rows)
        self.begun.set()
        if not results.drawn:
            return
        self.ids.append(results.drawn[0].token_id)
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


class Passing(Session):
    """A lane of the first blocks alone: its rows go on elsewhere."""

    is_own_ring = False

    def __init__(self, batcher: Batcher, engine, prompt: list[int]) -> None:
        super().__init__(batcher, engine, prompt, 1)
        self.lease = engine.open(len(prompt), entry=0, exit=1)
        self.rows = b""

    def ran(self, results: Done) -> None:
        self.rows += bytes(results.output)
        assert not results.drawn
        self.ended.set()


async def test_rows_that_leave_early_share_a_step_with_those_that_go_on(engine):
    seen, rows = [], []
    for others in (0, 2):
        batcher = Batcher(engine, asyncio.get_running_loop(), watch=seen.append)
        batcher.start()
        passing = Passing(batcher, engine, [7, 8, 9, 10])
        sessions = [Session(batcher, engine, [i + 3, 9], 1) for i in range(others)]
        for session in (passing, *sessions):
            session.start()
        await ended(passing, *sessions)
        await asyncio.to_thread(batcher.stop)
        rows.append(np.frombuffer(passing.rows, "<f4"))

    n_blocks = engine.n_blocks
    assert [(step.n_blocks, step.rows) for step in seen] == [
        (1, 4),
        (n_blocks, round((4 + 2 * 2 * n_blocks) / n_blocks)),  # rows of a block, in the mean
    ]
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)


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


async def test_a_prompt_is_not_cut_smaller_for_a_session_that_is_over(batcher, engine):
    short = Session(batcher, engine, [3, 4, 5], 4)
    long = Session(batcher, engine, [5 + i % 200 for i in range(600)], 1)
    short.start()
    await ended(short)

    batcher.ended(short)
    long.start()
    await ended(long)

    assert long.chunks[0] > UNKNOWN_ROWS


class HeldUp(Session):
    """One whose mask is not there before the others have had two tokens."""

    others: Sequence[Session]

    @property
    def is_held_up(self) -> bool:
        return any(len(each.ids) < len(each.prompt) + 2 for each in self.others)

    def draw(self, logits, position: int, line=None) -> tuple[Drawn, ...]:
        assert not self.is_held_up
        return super().draw(logits, position)


async def test_a_session_that_waits_for_its_grammar_holds_nobody_else_up(batcher, engine):
    others = [Session(batcher, engine, [1, 2, 3], 4) for _ in range(2)]
    held = HeldUp(batcher, engine, [1, 2, 3], 4)
    held.others = others

    for session in (held, *others):
        session.start()
    for session in (held, *others):
        await session.ended.wait()

    assert [session.error for session in (held, *others)] == [None] * 3
    assert held.ids == others[0].ids, "its tokens are the same, later"


async def test_one_who_waits_for_its_grammar_alone_is_run(batcher, engine):
    alone = HeldUp(batcher, engine, [1, 2, 3], 2)
    alone.others = [Session(batcher, engine, [1], 1)]  # which never begins
    alone.draw = lambda logits, position, line=None: (Drawn(int(logits[-1].argmax())),)

    alone.start()
    await alone.ended.wait()

    assert alone.error is None


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


async def test_a_session_whose_draw_fails_ends_alone_and_its_batch_goes_on(batcher, engine):
    class Unlucky(Session):
        def draw(self, logits, position: int, line=None) -> tuple[Drawn, ...]:
            raise ValueError("a mistake of ours")

    good = [Session(batcher, engine, [i + 3, 4], 8) for i in range(5)]
    unlucky = Unlucky(batcher, engine, [9, 9], 8)
    for session in (*good[:2], unlucky, *good[2:]):
        session.start()
    await ended(unlucky, *good)

    assert unlucky.error is not None
    assert "mistake" not in str(unlucky.error)
    assert [len(session.ids) for session in good] == [10] * 5


async def test_work_that_comes_too_late_ends_its_session_with_a_timeout(batcher, engine):
    late, good = Session(batcher, engine, [3, 4], 4), Session(batcher, engine, [5, 6], 4)
    late.deadline = asyncio.get_running_loop().time() - 1
    late.start()
    good.start()
    await ended(late, good)

    assert isinstance(late.error, SessionTimeout)
    assert late.chunks == []
    assert len(good.ids) == 6


class TightDevice:
    """The engine, on a device that has room for `most` rows in a step."""

    def __init__(self, engine, most: int) -> None:
        self._engine, self._most = engine, most

    def __getattr__(self, name: str):
        return getattr(self._engine, name)

    def step(self, items):
        if sum(len(item.rows) for item in items) > self._most:
            raise OutOfMemory("the device ran out of memory in a step")
        return self._engine.step(items)


@pytest.mark.parametrize(("most", "fits"), [(100, True), (20, True), (5, False)])
async def test_out_of_memory_ends_only_the_session_that_cannot_be_run_in_parts(engine, most, fits):
    batcher = Batcher(TightDevice(engine, most), asyncio.get_running_loop())
    batcher.start()
    try:
        short = [Session(batcher, engine, [i + 3, 4, 5], 8) for i in range(4)]
        long = Session(batcher, engine, [5 + i % 200 for i in range(300)], 4)
        for session in (*short[:2], long, *short[2:]):
            session.start()
        await ended(long, *short)
    finally:
        await asyncio.to_thread(batcher.stop)

    assert [len(session.ids) for session in short] == [11] * 4
    if fits:
        assert len(long.ids) == 304
        assert max(long.chunks) <= most
    else:
        assert isinstance(long.error, OutOfMemory)


class Middle(Session):
    """A hop inside a chain: hidden rows in and out, some per frame."""

    is_own_ring = False

    def __init__(self, batcher: Batcher, engine, frames, wire=FLOAT32) -> None:
        super().__init__(batcher, engine, [0] * 64, 64)
        self.lease = engine.open(128, entry=2, exit=5)
        self.wire, self.frames = wire, frames
        self.told: list[tuple[int, int]] = []
        self.outputs: list[bytes] = []
        self.missing = sum(len(frame) for frame in frames)

    def start(self) -> None:
        at = 0
        for ticket, frame in enumerate(self.frames):
            payload = memoryview(encode(self.wire, frame))
            run = Run(ticket, at, len(frame), payload, sample=False)
            self.batcher.submit(Work(self, run, self.generation))
            at += len(frame)

    def ran(self, results: Done) -> None:
        self.told.append((results.ticket, results.rows))
        self.outputs.append(bytes(results.output))
        self.missing -= results.rows
        if not self.missing:
            self.ended.set()

    @property
    def rows(self):
        return decode(self.wire, b"".join(self.outputs), 64)


def hidden_rows(seed: int, *counts: int):
    random = np.random.default_rng(seed)
    return [random.standard_normal((count, 64), dtype=np.float32) for count in counts]


async def test_rows_of_several_frames_are_run_in_one_step_and_told_apart(batcher, engine):
    frames = hidden_rows(1, 20, 30, 14)
    together, alone = Middle(batcher, engine, frames), Middle(batcher, engine, frames)
    steps = batcher.load.steps
    together.start()
    await ended(together)

    assert batcher.load.steps == steps + 1
    assert together.told == [(0, 20), (1, 30), (2, 14)]
    for frame in frames:
        alone.frames, alone.missing = [frame], len(frame)
        alone.ended.clear()
        at = sum(rows for _, rows in alone.told)
        run = Run(len(alone.told), at, len(frame), encode(FLOAT32, frame), sample=False)
        batcher.submit(Work(alone, run, 0))
        await ended(alone)
    assert np.allclose(together.rows, alone.rows, rtol=1e-4, atol=1e-4)


async def test_frames_of_an_answer_run_one_by_one_and_those_given_up_meanwhile_not_at_all(
    batcher, engine
):
    frames = hidden_rows(2, 4, 4, 4)
    whole, given_up = (Middle(batcher, engine, frames) for _ in range(2))
    whole.prompt = given_up.prompt = []
    given_up.unwanted, given_up.missing = {1, 2}, 4
    steps = batcher.load.steps

    whole.start()
    await ended(whole)
    assert (batcher.load.steps, whole.told) == (steps + 3, [(0, 4), (1, 4), (2, 4)])
    given_up.start()
    await ended(given_up)
    await batcher.between_steps(lambda: None)

    assert (batcher.load.steps, given_up.told) == (steps + 4, [(0, 4)])


@pytest.mark.parametrize(("wire", "error"), [(BFLOAT16, 2e-2), (INT8_64, 5e-2)], ids=str)
async def test_an_engine_in_float32_may_speak_another_format(batcher, engine, wire, error):
    frames = hidden_rows(4, 12)
    exact, rounded = Middle(batcher, engine, frames), Middle(batcher, engine, frames, wire)
    exact.start()
    rounded.start()
    await ended(exact, rounded)

    assert len(b"".join(rounded.outputs)) == 12 * wire.row_bytes(64)
    assert np.linalg.norm(rounded.rows - exact.rows) <= error * np.linalg.norm(exact.rows)


async def test_what_else_needs_the_engine_is_done_between_steps(batcher, engine):
    session = Session(batcher, engine, [3, 4], 30)
    session.start()
    await session.decoding.wait()

    assert await batcher.between_steps(lambda: engine.hidden_size) == 64
    with pytest.raises(UsageError, match="no such blocks"):
        await batcher.between_steps(fail)
    await ended(session)
    assert len(session.ids) == 32


def fail() -> None:
    raise UsageError("no such blocks")


async def test_a_session_whose_time_would_pass_waiting_is_told_that_we_are_busy(batcher, engine):
    batcher.check_wait(1e-6)  # nobody waits: however short its time, it may try
    batcher.load.backlog_s, batcher.load.waiting = 12.0, 3

    batcher.check_wait(13.0)
    with pytest.raises(PeerBusy, match=r"12\.0 s") as refused:
        batcher.check_wait(11.0)

    assert refused.value.queue_depth == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_rows_that_are_no_numbers_end_their_own_session_alone(batcher, engine, bad):
    alone = Middle(batcher, engine, hidden_rows(2, 5))
    alone.start()
    await ended(alone)
    poisoned = hidden_rows(3, 6)
    poisoned[0][4, 7] = bad
    guilty = Middle(batcher, engine, poisoned)
    good = [Middle(batcher, engine, hidden_rows(2, 5)) for _ in range(4)]
    for session in (*good[:1], guilty, *good[1:]):
        session.start()
    await ended(guilty, *good)

    assert isinstance(guilty.error, ManyhandsError)
    assert guilty.outputs == []
    for session in good:
        assert np.allclose(session.rows, alone.rows, rtol=1e-4, atol=1e-5)


async def test_an_idle_worker_keeps_no_session_alive(batcher, engine):
    sessions = [Session(batcher, engine, [i + 3, 4], 5) for i in range(3)]
    for session in sessions:
        session.start()
    await ended(*sessions)
    gone = [weakref.ref(session) for session in sessions]
    del session, sessions
    await batcher.between_steps(lambda: None)
    await asyncio.sleep(0)  # the loop lets go of what it was handed
    gc.collect()

    assert [session() for session in gone] == [None] * 3


async def test_what_a_step_took_and_how_long_its_rows_waited_is_told(engine):
    seen = []
    batcher = Batcher(engine, asyncio.get_running_loop(), watch=seen.append)
    batcher.start()
    session = Session(batcher, engine, [1, 2, 3], 4)

    session.start()
    await ended(session)
    await asyncio.to_thread(batcher.stop)

    assert [step.rows for step in seen] == [3, 1, 1, 1]
    assert all(step.n_blocks == engine.n_blocks and step.spent_us > 0 for step in seen)
    assert all(len(step.waits_us) == 1 and step.waits_us[0] >= 0 for step in seen)


async def test_a_worker_that_does_not_come_back_shows_since_when(engine):
    batcher = Batcher(engine, asyncio.get_running_loop())
    batcher.start()
    begun, release = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        release.wait(10)

    batcher.between_steps(stuck)
    await asyncio.to_thread(begun.wait)
    assert batcher.load.busy_since_s is not None

    release.set()
    await asyncio.to_thread(batcher.stop)


class Spoiling(Session):
    """Its step fails once it is run; whoever was in the same step has to run again."""

    def draw(self, logits, position: int, line=None) -> tuple[Drawn, ...]:
        raise OutOfMemory("this session's draw needs too much")


async def test_a_failed_step_costs_no_windowed_session_beside_it_its_life(checkpoint):
    """A longer run would make such a session forget: it could not go back to where it began."""
    assert PREFILL_ROWS <= STEP_ROWS
    directory = checkpoint("mistral", num_hidden_layers=2, max_position_embeddings=2048)
    engine = load_shard(directory, None, dtype="float32")
    batcher = Batcher(engine, asyncio.get_running_loop())
    batcher.start()
    prompt = [3 + i % 300 for i in range(2000)]
    alone = Session(batcher, engine, prompt, 4)
    beside = Session(batcher, engine, prompt, 4)
    spoiler = Spoiling(batcher, engine, [5, 6, 7], 1)
    try:
        alone.start()
        await alone.ended.wait()
        beside.start()
        await beside.begun.wait()
        spoiler.start()
        await asyncio.gather(beside.ended.wait(), spoiler.ended.wait())
    finally:
        await asyncio.to_thread(batcher.stop)

    assert isinstance(spoiler.error, OutOfMemory)
    assert beside.error is None
    assert beside.ids == alone.ids


async def test_how_long_rows_were_on_their_way_to_a_step_and_on_from_it_is_seen(engine):
    seen, loop = [], asyncio.get_running_loop()
    batcher = Batcher(engine, loop, watch=seen.append)
    batcher.start()
    session = Session(batcher, engine, [3, 4, 5], 2)

    batcher.arriving(time.perf_counter() - 1000)
    session.start()
    batcher.arrived()
    await ended(session)
    await asyncio.to_thread(batcher.stop)
    await asyncio.sleep(0)

    prompt, decode = seen
    assert prompt.waits_us == (0.0,), "it found nobody before it"
    assert prompt.came_us[0] >= 1000e6
    assert decode.came_us[0] < 1000e6, "it came later, and from here"
    assert prompt.left_us > 0 < decode.left_us


async def test_rows_that_come_while_others_run_are_seen_to_wait(engine):
    seen, loop = [], asyncio.get_running_loop()
    batcher = Batcher(engine, loop, watch=seen.append)
    batcher.start()
    begun, release = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        release.wait(10)

    batcher.between_steps(stuck)
    await asyncio.to_thread(begun.wait)
    session = Session(batcher, engine, [3, 4, 5], 1)
    session.start()
    release.set()
    await ended(session)
    await asyncio.to_thread(batcher.stop)
    await asyncio.sleep(0)

    assert seen[0].waits_us[0] > 0
    assert seen[0].came_us == ()
