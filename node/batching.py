"""One worker thread for torch: the runnable rows of many sessions, packed into one forward.

In: `Work` from the event loop, in the order each session wants it run. Out: `Done`, handed back to
the loop with one wake-up per step. Decode rows go first and all together; a long prefill is cut
into chunks so that it never stalls them. A `SimpleQueue` and `call_soon_threadsafe` carry the work
across: an executor would cost 0.2 ms more per hop.
"""

import asyncio
import logging
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from node.engine import Lease, ShardEngine, StepItem
from protocol.actions import Run
from protocol.errors import ManyhandsError, OutOfMemory
from protocol.transport import PeerFailed

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PREFILL_ROWS = 256  # a step's rows when nobody decodes: the fastest chunk measured over a chain
MIXED_ROWS = 64  # prefill rows beside decodes: decode latency stays within about two steps
DECODE_ROWS = 8  # a run of at most these is a decode or a verify window
MAX_SESSIONS = 128  # of one step


class Lane(Protocol):
    """A session, as the batcher sees it."""

    @property
    def lease(self) -> Lease: ...

    @property
    def generation(self) -> int:
        """Goes up when queued work is void: at a raise, a close, a cancel."""

    @property
    def is_own_ring(self) -> bool:
        """Whether this node is the whole chain, so that a result is at once the next input."""

    @property
    def is_bare(self) -> bool:
        """Whether the client holds the ends: hidden rows in and out, whatever the blocks."""

    def draw(self, logits: "np.ndarray[Any, np.dtype[np.float32]]", position: int) -> int:
        """The id for `position`; called on the worker thread, a pure function of the session."""

    def ran(self, results: "Done") -> None:
        """Called on the event loop: what others wait for."""

    def afterwards(self) -> None:
        """Called on the event loop, once that is on its way: words to the client, books."""

    def run_failed(self, error: ManyhandsError) -> None:
        """Called on the event loop."""


@dataclass(slots=True)
class Work:
    """A run of one session; `at` rows of it are done."""

    lane: Lane
    run: Run
    generation: int
    at: int = 0

    @property
    def left(self) -> int:
        return self.run.rows - self.at


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the loop hands the worker at once; `is_answer`: all results of a step were handled."""

    works: list[Work]
    is_answer: bool


@dataclass(frozen=True, slots=True)
class Done:
    """Rows of one session that were run. `output` is empty where the model ends."""

    lane: Lane
    ticket: int
    rows: int
    output: bytes
    token_id: int | None
    run_us: int


@dataclass(slots=True)
class Load:
    """What the worker has done, for announcements and status."""

    steps: int = 0
    rows: int = 0
    busy_s: float = 0.0
    batch_rows: deque[int] = field(default_factory=lambda: deque(maxlen=256))


class Batcher:
    """Owns the engine from `start` to `stop`; everything torch happens on its thread."""

    def __init__(
        self,
        engine: ShardEngine,
        loop: asyncio.AbstractEventLoop,
        *,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        """`flush` is called on the loop after all results of a step were handed out."""
        self.load = Load()
        self._engine, self._loop, self._flush = engine, loop, flush
        self._inbox: SimpleQueue[Delivery | None] = SimpleQueue()
        self._queues: dict[Lane, deque[Work]] = {}
        self._is_awaited = False  # results are out whose next rows come back at once
        self._staged: list[Work] = []
        self._is_handing_out = False
        self._thread = threading.Thread(target=self._main, name="torch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Run this; what is submitted in one go of the loop reaches the worker together."""
        self._staged.append(work)
        if len(self._staged) == 1 and not self._is_handing_out:
            self._loop.call_soon(self.deliver)

    def deliver(self) -> None:
        """What was submitted goes to the worker now, not in the loop's next breath."""
        self._deliver(False)

    def _deliver(self, is_answer: bool) -> None:
        staged, self._staged = self._staged, []
        if staged or is_answer:
            self._inbox.put(Delivery(staged, is_answer))

    def stop(self) -> None:
        """Let the step at hand end, drop the rest."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # --- on the worker thread ---------------------------------------------------------------------

    def _main(self) -> None:
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        while self._receive():
            batch = self._take()
            if batch:
                self._run(batch)

    def _receive(self) -> bool:
        """Everything that waits now; blocks only when there is nothing to do. False: stop.

        Sessions whose ring is this node alone have their next row within the loop's next breath.
        Waiting for it keeps them in one batch: else they fall into groups that take turns.
        """
        try:
            while True:
                delivery = self._inbox.get(block=self._is_awaited or not self._queues)
                if delivery is None:
                    return False
                for work in delivery.works:
                    self._queues.setdefault(work.lane, deque()).append(work)
                self._is_awaited = self._is_awaited and not delivery.is_answer
        except Empty:
            return True

    def _take(self) -> list[tuple[Work, int]]:
        """The next step: one piece of every session that fits, decodes first."""
        heads: list[Work] = []
        for lane, queue in list(self._queues.items()):
            while queue and queue[0].generation != lane.generation:
                queue.popleft()
            if queue:
                heads.append(queue[0])
            else:
                del self._queues[lane]
        if not heads:
            return []
        heads.sort(key=lambda work: work.left > DECODE_ROWS)  # stable: fair among equals
        blocks = _blocks(heads[0].lane)
        batch: list[tuple[Work, int]] = []
        room = PREFILL_ROWS
        for work in heads:
            if _blocks(work.lane) != blocks or len(batch) == MAX_SESSIONS:
                continue
            if work.left <= DECODE_ROWS:
                room = MIXED_ROWS
                batch.append((work, work.left))
            elif room > 0:
                rows = min(work.left, room)
                room -= rows
                batch.append((work, rows))
        return batch

    def _run(self, batch: list[tuple[Work, int]]) -> None:
        began = time.perf_counter()
        try:
            done = self._step(batch)
        except ManyhandsError as error:
            self._blame(batch, error)
            return
        except Exception:  # a bug of ours must not silence the node: the sessions fail, typed
            log.exception("a step failed")
            self._blame(batch, OutOfMemory("the engine failed in a step"))
            return
        spent = time.perf_counter() - began
        self.load.steps += 1
        self.load.rows += sum(rows for _, rows in batch)
        self.load.busy_s += spent
        self.load.batch_rows.append(len(batch))
        results = [
            Done(work.lane, work.run.ticket, rows, output, token_id, int(spent * 1e6))
            for (work, rows), (output, token_id) in zip(batch, done, strict=True)
        ]
        for work, rows in batch:
            self._advance(work, rows)
        self._is_awaited = any(work.lane.is_own_ring for work, _ in batch)
        self._post(self._hand_out, results)

    def _step(self, batch: Sequence[tuple[Work, int]]) -> list[tuple[bytes, int | None]]:
        items = [self._item(work, rows) for work, rows in batch]
        at_end = items[0].lease.exit == self._engine.n_blocks
        out: list[tuple[bytes, int | None]] = []
        for (work, rows), result in zip(batch, self._engine.step(items), strict=True):
            token_id = None
            if result.logits is not None:
                position = work.run.start + work.at + rows
                token_id = work.lane.draw(result.logits[-1].cpu().numpy(), position)
            is_drawn = at_end and not work.lane.is_bare
            out.append((b"" if is_drawn else _to_bytes(result.hidden), token_id))
        return out

    def _item(self, work: Work, rows: int) -> StepItem:
        run = work.run
        width = len(run.payload) // run.rows
        payload = run.payload[work.at * width : (work.at + rows) * width]
        samples = run.sample and work.at + rows == run.rows
        lease = work.lane.lease
        is_ids = lease.entry == 0 and not work.lane.is_bare
        tensor = _ids(payload) if is_ids else self._hidden(payload)
        tensor = tensor.to(self._engine.device)
        return StepItem(lease, run.start + work.at, tensor, int(samples))

    def _hidden(self, payload: bytes | memoryview) -> "Tensor":
        import torch

        rows = torch.frombuffer(payload, dtype=self._engine.dtype)
        return rows.view(-1, self._engine.hidden_size)

    def _advance(self, work: Work, rows: int) -> None:
        queue = self._queues.pop(work.lane)
        work.at += rows
        if not work.left:
            queue.popleft()
        if queue:
            self._queues[work.lane] = queue  # to the end of the line

    def _blame(self, batch: list[tuple[Work, int]], error: ManyhandsError) -> None:
        """One bad session must not take the others of its step down: run them one by one."""
        if len(batch) > 1:
            for piece in batch:
                self._run([piece])
            return
        work = batch[0][0]
        self._queues.pop(work.lane, None)
        self._post(work.lane.run_failed, error)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the node is going down
            log.debug("a result came after the end")

    # --- on the event loop ------------------------------------------------------------------------

    def _hand_out(self, results: list[Done]) -> None:
        self._is_handing_out = True
        try:
            for result in results:
                _guarded(result.lane, partial(result.lane.ran, result))
        finally:
            self._is_handing_out = False
            self._deliver(True)
        self._flush()
        self._loop.call_soon(self._tidy_up, results)  # behind the writers that `flush` woke

    @staticmethod
    def _tidy_up(results: list[Done]) -> None:
        for result in results:
            _guarded(result.lane, result.lane.afterwards)


def _blocks(lane: Lane) -> tuple[int, int, bool]:
    """What sessions of one step share: where they enter, as what, and where they leave."""
    lease = lane.lease
    return lease.entry, lease.exit, lease.entry == 0 and lane.is_bare


def _guarded(lane: Lane, call: Callable[[], None]) -> None:
    """A session that trips over itself must not take the others of its step down."""
    try:
        call()
    except ManyhandsError as error:
        lane.run_failed(error)
    except Exception:  # a mistake of ours: the session fails, typed, and the node lives on
        log.exception("a session failed after its step")
        lane.run_failed(PeerFailed("", "a session failed on this node"))


def _ids(payload: bytes | memoryview) -> "Tensor":
    import torch

    return torch.from_numpy(np.frombuffer(payload, dtype="<u4").astype(np.int64))


def _to_bytes(hidden: "Tensor") -> bytes:
    import torch

    data: bytes = hidden.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return data
