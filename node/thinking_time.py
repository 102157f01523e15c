"""What a model takes to think of a guess, measured where it guesses.

In: how many rows each of its steps had, and how long it took. Out: what one guess takes, and how
many rows of a prompt it may read at once. Reading a prompt is no guess: only steps of the few rows
that stand between two guesses count. The middle one of the latest is taken, so that one long wait
tells nothing.
"""

from collections import deque
from statistics import median

FEW_ROWS = 4  # the newest id, those that came with it
LATEST = 31  # steps
PIECE_S = 0.01  # of a prompt: others' rows may wait that long behind it
FIRST_PIECE, LEAST_PIECE, MOST_PIECE = 16, 8, 64  # rows


class ThinkingTime:
    """Of one model, for all sessions that it guesses for."""

    def __init__(self) -> None:
        self.guess_s = 0.0  # 0: nothing is known yet
        self.piece_rows = FIRST_PIECE
        self._steps_s: deque[float] = deque(maxlen=LATEST)

    def took(self, n_rows: int, spent_s: float, waited_s: float = 0.0) -> None:
        """A step was run. waited_s: for a moment to run it, which belongs to what a guess takes."""
        if n_rows <= FEW_ROWS:
            self._steps_s.append(spent_s + waited_s)
            self.guess_s = median(self._steps_s)
        elif spent_s > 0:
            rows = int(PIECE_S * n_rows / spent_s)
            self.piece_rows = min(max(rows, LEAST_PIECE), MOST_PIECE)
