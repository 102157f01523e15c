"""What a hop has taken in and not run yet: with the engine, or waiting for a voucher.

In: rows in order. Out: runs, in order, and which of them a finished piece of work belongs to. A
rollback cuts both lists; a run that is cut while the engine has it keeps its ticket, and what the
engine did beyond the cut is ignored. The rules that use this are in `hop_session.py`.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from protocol.actions import Line, Run, Tab


class Runs:
    """Both lists of one session."""

    __slots__ = ("_pending", "_ticket", "_tickets", "_waiting")

    def __init__(self) -> None:
        self._pending: deque[Run] = deque()  # the engine has them
        self._waiting: deque[Run] = deque()  # for a voucher
        self._tickets: set[int] = set()  # of `_pending`; another thread may look
        self._ticket = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def make(
        self,
        start: int,
        rows: int,
        payload: bytes | memoryview,
        *,
        sample: bool,
        line: Line | None = None,
    ) -> Run:
        self._ticket += 1
        return Run(self._ticket, start, rows, payload, sample, line)

    def queue(self, run: Run, tab: Tab, prefill_until: int) -> list[Run]:
        """What the engine gets of it now, within the client's credit; the rest waits."""
        rows = 0 if self._waiting else affordable(run, tab, prefill_until)
        if rows == run.rows:
            self._pending.append(run)
            self._tickets.add(run.ticket)
            return [run]
        if rows == 0:
            self._waiting.append(run)
            return []
        width = len(run.payload) // run.rows
        is_judged = run.line is not None
        head = replace(run, rows=rows, payload=run.payload[: rows * width], sample=is_judged)
        start, payload = run.start + rows, run.payload[rows * width :]
        rest = self.make(start, run.rows - rows, payload, sample=run.sample, line=run.line)
        self._pending.append(head)
        self._tickets.add(head.ticket)
        self._waiting.append(rest)
        return [head]

    def release(self) -> Sequence[Run]:
        """What waited, to be tried again in its order."""
        waiting, self._waiting = self._waiting, deque()
        return waiting

    def is_current(self, ticket: int) -> bool:
        return ticket in self._tickets

    def ran(self, ticket: int, rows: int) -> tuple[Run, bool] | None:
        """(the piece that is done, whether it was the rest of its run); None: nobody wants it.

        rows: how many of the oldest run's next rows the engine says it ran.
        """
        if not self._pending or self._pending[0].ticket != ticket:
            return None
        run = self._pending.popleft()
        if rows < run.rows:  # a long prefill is run in chunks
            width = len(run.payload) // run.rows
            rest = replace(
                run,
                start=run.start + rows,
                rows=run.rows - rows,
                payload=run.payload[rows * width :],
            )
            self._pending.appendleft(rest)
            return replace(run, rows=rows, payload=run.payload[: rows * width]), False
        self._tickets.discard(ticket)
        return run, True  # of a run that was cut while it ran, only what is left counts

    def cut(self, length: int) -> None:
        """Forget rows from `length` on."""
        self._pending = deque(_cut(self._pending, length))
        self._tickets = {run.ticket for run in self._pending}
        self._waiting = deque(_cut(self._waiting, length))

    def clear(self) -> None:
        self._pending.clear()
        self._waiting.clear()
        self._tickets = set()


def affordable(run: Run, tab: Tab, prefill_until: int) -> int:
    """How many of a run's first rows stay within the client's credit."""
    low, high = 0, run.rows
    rows = high  # all of them, most of the time
    while low < high:  # the more rows, the dearer
        if tab.may_run(run.start, rows, prefill_until):
            low = rows
        else:
            high = rows - 1
        rows = (low + high + 1) // 2
    return low


def _cut(runs: deque[Run], length: int) -> list[Run]:
    whole = [run for run in runs if run.start + run.rows <= length]
    parts = [run for run in runs if run.start < length < run.start + run.rows]
    return whole + [replace(run, rows=length - run.start, sample=False) for run in parts]
