"""What of which session goes into one step of the engine, and what the schedule is told of it.

In: the queues of sessions. Out: pieces, each rows of one session that run in one go.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.schedule import DECODE_ROWS, WINDOW_ROWS, Part, Waiting
from node.work import Lane, Work
from protocol.actions import Line


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one session in one step: of its oldest work, and of what follows on directly."""

    lane: Lane
    parts: tuple[tuple[Work, int], ...]

    @property
    def start(self) -> int:
        return self.parts[0][0].start

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.parts)

    @property
    def heads(self) -> int:
        """How many of its last rows need logits, to draw from."""
        work, rows = self.parts[-1]
        if work.run.line is not None:
            return rows
        return int(work.run.sample and rows == work.left)

    @property
    def line(self) -> Line | None:
        """The drafts among its rows."""
        return self.parts[-1][0].run.line


def in_one_piece(queue: deque[Work]) -> Iterator[tuple[Work, int]]:
    """The oldest work and what continues it row by row, up to where a token is drawn.

    What follows behind an answer's rows are frames of one window, which came apart so that the next
    hop runs the first while this one runs the second.
    """
    stop: int | None = None
    for work in queue:
        if stop not in (None, work.start) or work.generation != queue[0].generation:
            return
        if stop is not None and work.lane.is_answer(work.start):
            return
        yield work, work.left
        if work.run.sample:
            return
        stop = work.start + work.left


def waiting_of(lane: Lane, start: int, rows: int) -> Waiting:
    """Of a session whose next `rows` rows may run in one piece."""
    is_window = rows <= WINDOW_ROWS and lane.is_answer(start)
    is_read = rows > DECODE_ROWS and needs_logits(lane, start)
    part, mends = _part(lane), lane.mends(start)
    return Waiting(lane, part, start, rows, lane.deadline, mends, is_read, lane.is_guest, is_window)


def needs_logits(lane: Lane, start: int) -> bool:
    """Of every row from `start` on, not only where a token is drawn."""
    return lane.readout is not None and lane.readout.needs_logits(start)


def blocks_and_rows(pieces: Sequence[Piece]) -> tuple[int, int]:
    """The blocks that a step ran, and how many rows each of them had, in the mean."""
    parts = [(piece.lane.lease.entry, piece.lane.lease.exit, piece.rows) for piece in pieces]
    n_blocks = len({block for entry, exit, _ in parts for block in range(entry, exit)})
    run = sum((exit - entry) * rows for entry, exit, rows in parts)
    return n_blocks, max(1, round(run / n_blocks))


def _part(lane: Lane) -> Part:
    lease = lane.lease
    return Part(lease.entry, lease.exit, lease.entry == 0 and lane.is_bare)
