"""The rows of a batch, each a lane with a session of its own; beams fork by rolling back.

In: rows of bytes per lane. Out: the same positions behind the last block. What a lane should know
and what its session knows may differ after a crop or a fork: the next run sends the rows from the
first difference on, so a fork costs the rows since the two histories parted, and is exact whatever
became of hops meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

from protocol.errors import ContextExceeded
from scheduler.hidden_session import HiddenSession

OpenSession = Callable[[int], HiddenSession]
"""A session with room for so many positions; nothing is asked of anybody before its first rows."""


class Lane:
    """`rows`: the history, a piece of bytes each; `known` of them are what the session has."""

    def __init__(self, session: HiddenSession, max_back: int | None) -> None:
        self.session, self.known = session, 0
        self.rows: list[bytes] = []
        self._max_back, self._top = max_back, 0

    def crop(self, length: int) -> None:
        del self.rows[length:]
        self.known = min(self.known, length)

    def become(self, rows: Sequence[bytes]) -> None:
        """Go on with another history."""
        self.known = _common(self.rows[: self.known], rows)
        self.rows = list(rows)

    async def run(self, new: Sequence[bytes]) -> bytes:
        """Add rows to the history; what comes back for these."""
        self.rows += new
        if self._max_back is not None and self.known < self._top - self._max_back:
            self.known = 0  # its hops have forgotten what lies there
        self._top = max(self._top if self.known else 0, len(self.rows))
        missing = self.rows[self.known :]
        answer = await self.session.forward(self.known, b"".join(missing))
        self.known = len(self.rows)
        row_bytes = len(answer) // len(missing)
        return answer[-len(new) * row_bytes :]


class Lanes:
    """All lanes of a batch.

    capacity: positions to begin with; it grows when they are used up.
    max_back: how far a session can go back, where its blocks forget; further is from the start.
    """

    def __init__(
        self,
        open_session: OpenSession,
        capacity: int,
        max_positions: int,
        *,
        max_back: int | None = None,
    ) -> None:
        self._open, self._max_positions, self._max_back = open_session, max_positions, max_back
        self._capacity = min(capacity, max_positions)
        self._lanes: list[Lane] = []

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def lengths(self) -> list[int]:
        return [len(lane.rows) for lane in self._lanes]

    @property
    def failovers(self) -> int:
        return sum(lane.session.failovers for lane in self._lanes)

    async def run(self, batch: Sequence[Sequence[bytes]]) -> list[bytes]:
        """New rows for every lane, some of which may get none; in the beginning, makes them.

        Raises:
            ContextExceeded: the model has no such positions.
            ManyhandsError: why a session could not go on.
        """
        if not self._lanes:
            self._lanes = [self._lane() for _ in batch]
        longest = max(
            len(lane.rows) + len(new) for lane, new in zip(self._lanes, batch, strict=True)
        )
        if longest > self._capacity:
            await self._grow(longest)
        running = [lane.run(new) for lane, new in zip(self._lanes, batch, strict=True) if len(new)]
        answers = await asyncio.gather(*running, return_exceptions=True)
        ran: list[bytes] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            ran.append(answer)
        rest = iter(ran)
        return [next(rest) if len(new) else b"" for new in batch]

    def _lane(self) -> Lane:
        return Lane(self._open(self._capacity), self._max_back)

    async def _grow(self, longest: int) -> None:
        """Sessions have their room from the beginning: longer lanes get new ones."""
        if longest > self._max_positions:
            raise ContextExceeded(
                f"{longest} positions do not fit the model's {self._max_positions}"
            )
        self._capacity = min(self._max_positions, max(longest, 2 * self._capacity))
        outgrown = [lane.session for lane in self._lanes]
        for lane in self._lanes:
            lane.session, lane.known = self._open(self._capacity), 0
        await _close(outgrown)

    def crop(self, lengths: Sequence[int]) -> None:
        for lane, length in zip(self._lanes, lengths, strict=True):
            lane.crop(length)

    async def select(self, indices: Sequence[int]) -> None:
        """Lane k goes on with what lane `indices[k]` has; there may be more of them, or fewer."""
        old = self._lanes
        histories = [lane.rows for lane in old]
        free = dict(enumerate(old))
        chosen = [free.pop(index, None) for index in indices]  # the first to ask keeps the session
        for place, index in enumerate(indices):
            if chosen[place] is None:
                lane = _nearest(free, histories[index]) or self._lane()
                lane.become(histories[index])
                chosen[place] = lane
        self._lanes = [lane for lane in chosen if lane is not None]
        await _close(lane.session for lane in free.values())

    async def aclose(self) -> None:
        lanes, self._lanes = self._lanes, []
        await _close(lane.session for lane in lanes)


def _nearest(free: dict[int, Lane], rows: Sequence[bytes]) -> Lane | None:
    """The lane that has most of these rows already, taken out of `free`."""
    if not free:
        return None
    best = max(free, key=lambda index: _common(free[index].rows[: free[index].known], rows))
    return free.pop(best)


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many first rows are the same; shared ones are so without a look."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a is not b and a != b:
            return index
    return min(len(one), len(other))


async def _close(sessions: Iterable[HiddenSession]) -> None:
    await asyncio.gather(*(session.aclose() for session in sessions), return_exceptions=True)
