"""A small model that guesses for a last hop, on a thread of its own.

In: the ids of sessions, and how many guesses each wants. Out: what this model would say next, when
it has thought of it. It is loaded once, as any span is, and keeps each session's keys and values in
a lease that was counted when the session was admitted. It only begins a step while the torch thread
has none, so that nobody's rows wait for guesses; where there is no such moment, nothing is guessed.
What a guess takes is measured, and `drafting.py` weighs it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from node.thinking_time import ThinkingTime
from protocol.asking import ANY_DRAFTER, MAX_DRAFTS, MODEL_DRAFTER
from protocol.errors import ManyhandsError
from protocol.messages import Reserve

if TYPE_CHECKING:
    from node.engine import Lease, ShardEngine
    from node.surroundings import Surroundings

log = logging.getLogger(__name__)

LOOK_S, PATIENCE_S = 0.0005, 0.05  # between looks; then these guesses would come too late
IDLE_S = 5.0  # a thread with nothing to do ends


class DraftModel:
    """`engine`: all of a model whose first `n_ids` ids mean what the served model's do."""

    def __init__(self, engine: "ShardEngine", n_ids: int) -> None:
        self.engine, self.n_ids = engine, n_ids
        self.time = ThinkingTime()
        self._jobs: deque[Thoughts] = deque()  # sessions that wait, each once
        self._wanted = threading.Condition()
        self._thread: threading.Thread | None = None

    def kept_bytes(self, positions: int) -> int:
        """What a session of so many keeps here."""
        engine = self.engine
        rows = min(positions, engine.max_positions)
        return engine.lease_bytes(rows, entry=0, exit=engine.n_blocks)

    def think(self, thoughts: "Thoughts") -> None:
        """As soon as there is a moment. Returns at once; any thread."""
        with self._wanted:
            if self._thread is None and not self._start():
                return
            if thoughts not in self._jobs:
                self._jobs.append(thoughts)
            self._wanted.notify()

    def forget(self, thoughts: "Thoughts") -> None:
        """Nobody wants its guesses any more."""
        with self._wanted, suppress(ValueError):
            self._jobs.remove(thoughts)

    @property
    def is_wanted(self) -> bool:
        """Whether others wait, or somebody has something new to think of."""
        return bool(self._jobs)

    def _start(self) -> bool:
        self._thread = threading.Thread(target=self._main, name="drafts", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system gives us no more of them now
            log.warning("no guesses", extra={"error": str(error)})
            self._thread = None
        return self._thread is not None

    def _main(self) -> None:
        while self._is_needed():
            self._run_next()

    def _is_needed(self) -> bool:
        with self._wanted:
            if not self._jobs:
                self._wanted.wait(IDLE_S)
            if not self._jobs:
                self._thread = None
            return bool(self._jobs)

    def _run_next(self) -> None:
        """In a frame of its own: a thread that waits keeps no session, with its span's weights."""
        with self._wanted:
            if not self._jobs:  # it was forgotten meanwhile
                return
            thoughts = self._jobs.popleft()
        try:
            thoughts.go_on()
        except ManyhandsError as error:
            log.info("no guesses", extra={"error": str(error)})
            thoughts.give_up()
        except Exception:  # a mistake of ours costs this session its guesses, and no more
            log.exception("no guesses")
            thoughts.give_up()


class Thoughts:
    """What the model makes of one session; made on the event loop, which `told` is called on.

    capacity: positions of the session. is_busy: whether rows are run now; any thread may ask.
    """

    def __init__(
        self,
        model: DraftModel,
        capacity: int,
        is_busy: Callable[[], bool],
        told: Callable[[], None],
        call_on_loop: Callable[[Callable[[], None]], object],
    ) -> None:
        self.model = model
        self._capacity = min(capacity, model.engine.max_positions)
        self._is_busy, self._told, self._call_on_loop = is_busy, told, call_on_loop
        self._lock = threading.Lock()
        self._ids: list[int] = []  # as far as they were handed over, and where they are new from
        self._new_from = self._asked = 0  # how many guesses are wanted behind them
        self._handed = 0
        self._guess: tuple[int, Sequence[int]] = 0, ()  # behind how many ids, and what
        self._is_over = False
        self._at_work = threading.Lock()  # by whoever is at the next two
        self._lease: Lease | None = None
        self._run: list[int] = []  # ids whose rows are in it, guesses among them

    # --- on the event loop ------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """The ids may be others now."""
        self._handed = 0

    def guess(self, ids: Sequence[int], most: int) -> Sequence[int]:
        """See `protocol.actions.Drafter`: what is known by now; the rest is thought of."""
        n, guess = self._guess
        came = ids[n:]
        if n <= len(ids) < n + len(guess) and list(guess[: len(came)]) == list(came):
            return guess[len(came) : len(came) + most]
        if most > 0 and len(ids) + most < self._capacity:
            self._ask(ids, min(most, MAX_DRAFTS))
        return ()

    def _ask(self, ids: Sequence[int], most: int) -> None:
        if len(ids) == self._handed:
            return  # it is thought of already
        with self._lock:
            self._ids[self._handed :] = ids[self._handed :]
            self._new_from = min(self._new_from, self._handed)
            self._asked = most
        self._handed = len(ids)
        self.model.think(self)

    def close(self) -> None:
        """Its session is over: its room is given back now, or behind the step that is run for it,
        whoever else waits."""
        self.model.forget(self)
        self.give_up()

    # --- on the model's thread --------------------------------------------------------------------

    def go_on(self) -> None:
        """Read what is new, then guess, until there is something newer."""
        with self._at_work:
            self._go_on()
        if self._is_over:  # meanwhile, and somebody could not free what we were at
            self.give_up()

    def give_up(self) -> None:
        """No guesses from here on. Any thread."""
        self._is_over, self._told = True, _nobody
        if not self._at_work.acquire(blocking=False):
            return  # who is at it looks behind it, in `go_on`
        try:
            if self._lease is not None:
                self._lease.close()
                self._lease = None
            self._run.clear()
        finally:
            self._at_work.release()

    def _go_on(self) -> None:
        with self._lock:
            ids, most = list(self._ids), self._asked
            self._forget(ids)
            self._new_from = len(ids)
        n, guess = len(ids), list[int]()
        follows = self._read(ids)
        while follows is not None and follows < self.model.n_ids:
            guess.append(follows)
            if len(guess) == most:
                break
            follows = self._step(guess[-1:])
        if not guess:
            return
        self._guess = n, tuple(guess)
        try:
            self._call_on_loop(self._tell)
        except RuntimeError:  # the loop is closed: the node is going down
            log.debug("guesses came after the end")

    def _tell(self) -> None:
        if not self._is_over:
            self._told()

    def _forget(self, ids: Sequence[int]) -> None:
        """Rows of guesses that did not come, from the first one on."""
        first = min(self._new_from, len(self._run))
        same = next(
            (at for at in range(first, min(len(ids), len(self._run))) if ids[at] != self._run[at]),
            min(len(ids), len(self._run)),
        )
        del self._run[min(same, len(ids) - 1) :]  # the last row is run again, for what follows it

    def _read(self, ids: Sequence[int]) -> int | None:
        """What follows these; None: somebody else waits, or there was no moment."""
        follows = None
        while len(self._run) < len(ids):
            at = len(self._run)
            follows = self._step(ids[at : at + self.model.time.piece_rows])
            if follows is None:
                return None
            if self.model.is_wanted and len(self._run) < len(ids):
                self.model.think(self)  # a long prompt gives way, and goes on behind them
                return None
        return follows

    def _step(self, rows: Sequence[int]) -> int | None:
        from torch import tensor

        from node.engine import StepItem

        came_s = time.perf_counter()
        if not self._wait():
            return None
        began_s = time.perf_counter()
        engine = self.model.engine
        if self._lease is None:
            self._lease = engine.open(self._capacity)
        item = StepItem(self._lease, len(self._run), tensor(rows, device=engine.device), 1)
        [result] = engine.step([item])
        assert result.logits is not None
        self._run += rows
        follows = int(result.logits[-1].argmax())
        self.model.time.took(len(rows), time.perf_counter() - began_s, began_s - came_s)
        return follows

    def _wait(self) -> bool:
        """For the torch thread to have nothing to do. False: it has not, or nobody wants this."""
        until_s = time.perf_counter() + PATIENCE_S
        while self._is_busy():
            if time.perf_counter() > until_s:
                return False
            time.sleep(LOOK_S)  # in its own thread; nobody tells it that a step is over
        return not self._is_over


def _nobody() -> None:
    """Is told of guesses of a session that is over."""


def thoughts_of(
    reserve: Reserve, around: "Surroundings", told: Callable[[], None]
) -> Thoughts | None:
    """None: there is no model here, or nobody asks for its guesses."""
    model, load = around.draft_model, around.batcher.load
    if model is None or not wants_model(reserve):
        return None
    return Thoughts(
        model,
        reserve.capacity,
        is_busy=lambda: load.busy_since_s is not None,
        told=told,
        call_on_loop=asyncio.get_running_loop().call_soon_threadsafe,
    )


def wants_model(reserve: Reserve) -> bool:
    asked = reserve.extensions
    return reserve.is_last and earns(asked.drafter) and not asked.reads_prompt


def earns(drafter: str) -> bool:
    """Whether a client that asked for it pays for what a model guessed."""
    return drafter in (MODEL_DRAFTER, ANY_DRAFTER)
