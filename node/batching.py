"""One worker thread for torch: the runnable rows of many sessions, packed into one forward.

In: `Work` from the event loop, in the order each session wants it run. Out: `Done`, handed back to
the loop with one wake-up per step. What goes into a step is `schedule.py`'s decision; this takes
the rows out of the queues, runs them, and contains what goes wrong to the session that caused it. A
`SimpleQueue` and `call_soon_threadsafe` carry the work across: an executor would cost 0.2 ms more
per hop.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar, cast

from node.engine import ShardEngine, StepItem
from node.pieces import Piece, blocks_and_rows, in_one_piece, needs_logits, waiting_of
from node.rows import from_wire, ids_from_wire, joined, to_wire
from node.schedule import LEAST_ROWS, Schedule, Step, Waiting
from node.step_cost import StepCost
from node.work import Done, Lane, Load, RowCost, Seen, Work
from protocol.draws import Drawn
from protocol.errors import ManyhandsError, OutOfMemory, PeerBusy, SessionTimeout
from protocol.logprobs import PromptLogprobs
from protocol.transport import PeerFailed

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")
Ran = tuple[bytes | memoryview, tuple[Drawn, ...], PromptLogprobs | None]  # output, drawn, read


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the loop hands the worker at once; `is_answer`: all results of a step were handled."""

    works: list[Work]
    is_answer: bool = False
    call: Callable[[], None] | None = None


class Batcher:
    """Owns the engine from `start` to `stop`; everything torch happens on its thread."""

    def __init__(
        self,
        engine: ShardEngine,
        loop: asyncio.AbstractEventLoop,
        *,
        flush: Callable[[], None] = lambda: None,
        cost: StepCost | None = None,
        watch: Callable[[Seen], None] = lambda seen: None,
    ) -> None:
        """`flush` is called on the loop after all results of a step were handed out, `watch` later
        still, when nobody waits for it any more.
        """
        self.load = Load()
        self._engine, self._loop, self._flush, self._watch = engine, loop, flush, watch
        self._schedule = Schedule(cost)
        self._inbox: SimpleQueue[Delivery | None] = SimpleQueue()
        self._queues: dict[Lane, deque[Work]] = {}  # the longest unserved session first
        self._is_awaited = False  # results are out whose next rows come back at once
        self._staged: list[Work] = []
        self._came_s: float | None = None  # when what is being handled came here
        self._is_handing_out = False
        self._thread = threading.Thread(target=self._main, name="torch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def arriving(self, came_s: float) -> None:
        """What is submitted until `arrived` came here then, on the performance counter."""
        self._came_s = came_s

    def arrived(self) -> None:
        """All of it was submitted: the worker gets it."""
        self._came_s = None
        self.deliver()

    def submit(self, work: Work) -> None:
        """Run this; what is submitted in one go of the loop reaches the worker together."""
        work.since_s = time.perf_counter() if self._came_s is None else self._came_s
        work.found_idle = self._is_handing_out or self.load.busy_since_s is None
        self._staged.append(work)
        is_delivered = self._is_handing_out or self._came_s is not None  # without being asked to
        if len(self._staged) == 1 and not is_delivered:
            self._loop.call_soon(self.deliver)

    def deliver(self) -> None:
        """What was submitted goes to the worker now, not in the loop's next breath."""
        self._deliver(False)

    def _deliver(self, is_answer: bool) -> None:
        staged, self._staged = self._staged, []
        if staged or is_answer:
            self._inbox.put(Delivery(staged, is_answer))

    def between_steps(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """`call` on the worker thread, which alone may touch the engine and its caches.

        It is in line behind what was submitted before, and before what will be.
        """
        done: asyncio.Future[T] = self._loop.create_future()

        def told(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # a T: there was no error

        def run() -> None:
            try:
                self._post(told, call(), None)
            except Exception as error:  # it is the caller's, who awaits it
                self._post(told, None, error)

        self.deliver()  # what was submitted before it comes before it
        self._inbox.put(Delivery([], call=run))
        return done

    def ended(self, lane: Lane) -> None:
        """Nothing of this session is run any more."""
        over = partial(self._schedule.over, hash(lane))  # by its hash: nothing here keeps it alive
        self._inbox.put(Delivery([], call=over))

    def row_cost(self, position: int) -> RowCost:
        """As far as is known; any thread may ask."""
        cost = self._schedule.cost
        row_us, base_us = cost.roughly_us(position), cost.roughly_base_us()
        return RowCost(row_us / 1e6, self._schedule.n_decoding, base_us / 1e6)

    def check_wait(self, most_s: float) -> None:
        """Whether a session that can wait for so long is worth admitting.

        Raises:
            PeerBusy: the prompts before it would take all of that.
        """
        if self.load.backlog_s >= most_s:
            raise PeerBusy(
                "",
                f"{self.load.backlog_s:.1f} s of prompts wait here, the request waits {most_s:.1f}",
                queue_depth=self.load.waiting,
                hint="try again shortly",
            )

    def dismiss(self) -> None:
        """Let the step at hand end, drop the rest. Returns at once."""
        self._inbox.put(None)

    def stop(self) -> None:
        """The same, and wait until it has ended."""
        self.dismiss()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    # --- on the worker thread ---------------------------------------------------------------------

    def _main(self) -> None:
        import torch

        with torch.inference_mode():  # once: a step that has to enter it takes longer
            while self._receive():
                self._run_next()

    def _run_next(self) -> None:
        """In a frame of its own, which is gone while the worker waits."""
        self.load.busy_since_s = time.perf_counter()
        step, pieces = self._take()
        if pieces:
            self._run(pieces, step)

    def _receive(self) -> bool:
        """Everything that waits now; blocks only when there is nothing to do. False: stop.

        Sessions whose ring is this node alone have their next row within the loop's next breath.
        Waiting for it keeps them in one batch: else they fall into groups that take turns.
        """
        try:
            while True:
                must_wait = self._is_awaited or not self._queues
                if must_wait and self._inbox.empty():
                    self.load.busy_since_s = None
                delivery = self._inbox.get(block=must_wait)
                self.load.busy_since_s = time.perf_counter()
                if delivery is None:
                    return False
                self._take_in(delivery)
                del delivery  # while this waits for more, it holds on to no session
        except Empty:
            return True

    def _take_in(self, delivery: Delivery) -> None:
        for work in delivery.works:
            self._queues.setdefault(work.lane, deque()).append(work)
        if delivery.call is not None:
            self._call(delivery.call)
        self._is_awaited = self._is_awaited and not delivery.is_answer

    @staticmethod
    def _call(call: Callable[[], None]) -> None:
        """What it makes may be used elsewhere, and not only by steps."""
        import torch

        with torch.inference_mode(False):
            call()

    def _take(self) -> tuple[Step, list[Piece]]:
        """The next step, and the rows that are in it."""
        waiting: list[Waiting] = []
        for lane, queue in list(self._queues.items()):
            while queue and not _is_wanted(queue[0]):
                queue.popleft()
            if queue:
                rows = sum(rows for _, rows in in_one_piece(queue))
                waiting.append(waiting_of(lane, queue[0].start, rows))
            else:
                del self._queues[lane]
        # Whose draw waits for its grammar comes later, or all who are drawn beside it would wait.
        ready = [each for each in waiting if not cast("Lane", each.session).is_held_up]
        step = self._schedule.next_step(ready or waiting, time.monotonic())
        for late in step.late:
            self._drop(cast("Lane", late.session), SessionTimeout("the deadline passed"))
        pieces = [self._piece(cast("Lane", work.session), rows) for work, rows in step.pieces]
        self.load.waiting = len(waiting)
        self.load.backlog_s = self._schedule.backlog_s(waiting)
        return step, pieces

    def _piece(self, lane: Lane, rows: int) -> Piece:
        """The next `rows` rows of a session that has them in one piece."""
        parts: list[tuple[Work, int]] = []
        for work, left in in_one_piece(self._queues[lane]):
            parts.append((work, min(left, rows)))
            rows -= left
            if rows <= 0:
                break
        return Piece(lane, tuple(parts))

    def _run(self, pieces: Sequence[Piece], step: Step | None = None) -> None:
        """Run them in one forward; `step` is given where they are all of one."""
        began = time.perf_counter()
        try:
            done = self._step(pieces)
        except ManyhandsError as error:
            self._divide(pieces, error)
            return
        except Exception:  # a bug of ours must not silence the node: a session fails, typed
            log.exception("a step failed")
            self._divide(pieces, PeerFailed("", "the engine failed in a step"))
            return
        spent_s = time.perf_counter() - began
        if step is not None:
            self._schedule.ran(step, spent_s)
        self.load.steps += 1
        self.load.rows += sum(piece.rows for piece in pieces)
        self.load.busy_s += spent_s
        self.load.batch_rows.append(len(pieces))
        seen = None if step is None else _seen(pieces, step, began, spent_s)
        ended_s = began + spent_s
        results = [
            result
            for piece, ran in zip(pieces, done, strict=True)
            for result in _results(piece, ran, began, int(spent_s * 1e6))
        ]
        for piece in pieces:
            self._advance(piece)
        self._is_awaited = self._is_awaited or any(piece.lane.is_own_ring for piece in pieces)
        self._post(self._hand_out, results, seen, ended_s)

    def _step(self, pieces: Sequence[Piece]) -> list[Ran]:
        items = [self._item(piece) for piece in pieces]
        done: list[Ran] = []
        for piece, result in zip(pieces, self._engine.step(items), strict=True):
            lane, readout = piece.lane, piece.lane.readout
            drawn: tuple[Drawn, ...] = ()
            read = readout.read(self._engine, piece.start, result) if readout else None
            if piece.heads and result.logits is not None:
                logits = result.logits[-piece.heads :].cpu().numpy()
                drawn = lane.draw(logits, piece.start + piece.rows - piece.heads + 1, piece.line)
            at_end = lane.lease.exit == self._engine.n_blocks
            wire = lane.end_wire if at_end and not lane.is_bare else lane.wire
            output = b"" if wire is None else to_wire(wire, result.hidden)
            done.append((output, drawn, read))
        return done

    def _item(self, piece: Piece) -> StepItem:
        lease = piece.lane.lease
        parts = [self._tensor(piece.lane, work.payload(rows)) for work, rows in piece.parts]
        is_read = needs_logits(piece.lane, piece.start)
        n_logits = piece.rows if is_read else piece.heads
        return StepItem(lease, piece.start, joined(parts), n_logits)

    def _tensor(self, lane: Lane, payload: bytes | memoryview) -> "Tensor":
        engine = self._engine
        if lane.lease.entry == 0 and not lane.is_bare:
            return ids_from_wire(payload, engine.device)
        return from_wire(lane.wire, payload, engine.hidden_size, engine.dtype, engine.device)

    def _advance(self, piece: Piece) -> None:
        queue = self._queues.pop(piece.lane)
        for work, rows in piece.parts:
            work.at += rows
            if not work.left:
                queue.popleft()
        if queue:
            self._queues[piece.lane] = queue  # to the end of the line

    def _divide(self, pieces: Sequence[Piece], error: ManyhandsError) -> None:
        """One bad session must not take the others of its step down: it is found by halving."""
        if len(pieces) > 1:
            middle = len(pieces) // 2
            self._run(pieces[:middle])
            self._run(pieces[middle:])
        elif isinstance(error, OutOfMemory) and pieces[0].rows > LEAST_ROWS:
            self._run([self._piece(pieces[0].lane, pieces[0].rows // 2)])  # the rest comes later
        else:
            self._drop(pieces[0].lane, error)

    def _drop(self, lane: Lane, error: ManyhandsError) -> None:
        del self._queues[lane]
        self._post(lane.run_failed, error)

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: the node is going down
            log.debug("a result came after the end")

    # --- on the event loop ------------------------------------------------------------------------

    def _hand_out(self, results: list[Done], seen: Seen | None, ended_s: float) -> None:
        self._is_handing_out = True
        try:
            for result in results:
                _guarded(result.lane, result.lane.ran, result)
        finally:
            self._is_handing_out = False
            self._deliver(True)
        self._flush()
        # Behind the writers that `flush` woke.
        self._loop.call_soon(self._tidy_up, results, seen, ended_s)

    def _tidy_up(self, results: list[Done], seen: Seen | None, ended_s: float) -> None:
        left_us = (time.perf_counter() - ended_s) * 1e6
        for lane in dict.fromkeys(result.lane for result in results):
            _guarded(lane, lane.afterwards)
        if seen is not None:
            seen.left_us = left_us
            self._watch(seen)


def _is_wanted(work: Work) -> bool:
    """Whether nobody has given it up while it waited."""
    is_current = work.generation == work.lane.generation
    return is_current and work.lane.is_wanted(work.run.ticket)


def _seen(pieces: Sequence[Piece], step: Step, began_s: float, spent_s: float) -> Seen:
    works = [work for piece in pieces for work, _ in piece.parts if not work.at]
    known_us = [(max(0.0, began_s - work.since_s) * 1e6, work.found_idle) for work in works]
    waits_us = tuple(0.0 if found_idle else us for us, found_idle in known_us)
    came_us = tuple(us for us, found_idle in known_us if found_idle)
    n_blocks, rows = blocks_and_rows(pieces)
    return Seen(step.kind, n_blocks, rows, spent_s * 1e6, waits_us, came_us)


def _results(piece: Piece, ran: Ran, began_s: float, run_us: int) -> Iterator[Done]:
    """What each work of a piece is told; the token belongs to the last."""
    output, drawn, read = ran
    width = len(output) // piece.rows
    at = 0
    for work, rows in piece.parts:
        part = output[at * width : (at + rows) * width]
        at += rows
        is_last = at == piece.rows
        made = (drawn, run_us, read) if is_last else ((), run_us, None)
        yield Done(piece.lane, work.run.ticket, rows, part, *made, work.since_s, began_s)


def _guarded(lane: Lane, call: Callable[..., None], *args: Done) -> None:
    """A session that trips over itself must not take the others of its step down."""
    try:
        call(*args)
    except ManyhandsError as error:
        lane.run_failed(error)
    except Exception:  # a mistake of ours: the session fails, typed, and the node lives on
        log.exception("a session failed after its step")
        lane.run_failed(PeerFailed("", "a session failed on this node"))
