"""Lanes send what their sessions lack and no more, whatever was cropped, forked or forgotten."""

from collections.abc import Sequence

import pytest

from manyhands.distributed.lanes import Lanes
from protocol.errors import ContextExceeded

ROW = 4


class EchoSession:
    """Gives each row back with what came before it, so that a wrong history shows."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.rows, self.sent = capacity, b"", 0
        self.is_closed = False

    async def forward(self, start: int, rows: bytes) -> bytes:
        assert not self.is_closed
        assert start * ROW <= len(self.rows), "rows that were never sent are taken for known"
        self.rows = self.rows[: start * ROW] + rows
        assert len(self.rows) <= self.capacity * ROW
        self.sent += len(rows) // ROW
        ends = range(start * ROW + ROW, len(self.rows) + 1, ROW)
        return b"".join(hash(self.rows[:end]).to_bytes(8, "big", signed=True) for end in ends)

    async def aclose(self) -> None:
        self.is_closed = True


class Batch:
    """Lanes, the sessions they opened, and what each lane should have."""

    def __init__(self, max_back: int | None = None) -> None:
        self.sessions: list[EchoSession] = []
        self.lanes = Lanes(self._open, 8, 64, max_back=max_back)  # type: ignore[arg-type]
        self.histories: list[bytes] = []

    def _open(self, capacity: int) -> EchoSession:
        self.sessions.append(EchoSession(capacity))
        return self.sessions[-1]

    @property
    def sent(self) -> int:
        return sum(session.sent for session in self.sessions)

    async def run(self, batch: Sequence[str]) -> None:
        """One row a letter."""
        rows = [[letter.encode() * ROW for letter in text] for text in batch]
        answers = await self.lanes.run(rows)
        self.histories = self.histories or [b""] * len(batch)
        for lane, new in enumerate(rows):
            wanted = b""
            for row in new:
                self.histories[lane] += row
                wanted += hash(self.histories[lane]).to_bytes(8, "big", signed=True)
            assert answers[lane] == wanted

    async def select(self, indices: Sequence[int]) -> None:
        await self.lanes.select(indices)
        self.histories = [self.histories[index] for index in indices]

    def crop(self, length: int) -> None:
        self.lanes.crop([length] * len(self.lanes))
        self.histories = [history[: length * ROW] for history in self.histories]


async def test_a_fork_sends_the_rows_since_the_histories_parted():
    batch = Batch()
    await batch.run(["abc", "abc", "abd"])
    await batch.run(["e", "f", "g"])
    before = batch.sent

    await batch.select([1, 1, 1])
    await batch.run(["x", "y", "z"])

    assert batch.sent - before == 3 + 1 + 2, "a row each, what lane 0 and lane 2 had otherwise"


async def test_more_lanes_and_fewer_keep_their_histories_and_close_what_is_over():
    batch = Batch()
    await batch.run(["ab", "cd"])
    await batch.select([0, 0, 1, 1])
    await batch.run(["e", "f", "g", "h"])
    await batch.select([3])
    await batch.run(["i"])

    assert sum(not session.is_closed for session in batch.sessions) == 1
    await batch.lanes.aclose()
    assert all(session.is_closed for session in batch.sessions)


async def test_a_crop_costs_nothing_and_padding_is_not_sent():
    batch = Batch()
    await batch.run(["abcd", ""])
    batch.crop(2)
    await batch.run(["x", "y"])

    assert batch.sent == 4 + 2


async def test_lanes_that_outgrow_their_sessions_get_new_ones_up_to_what_the_model_takes():
    batch = Batch()
    await batch.run(["abcdefgh"])
    await batch.run(["ij"])

    assert [session.capacity for session in batch.sessions] == [8, 16]
    with pytest.raises(ContextExceeded):
        await batch.run(["k" * 60])


async def test_where_hops_forget_going_far_back_begins_again():
    batch = Batch(max_back=2)
    await batch.run(["abcdef"])
    batch.crop(4)
    await batch.run(["x"])
    assert batch.sent == 6 + 1
    batch.crop(2)

    await batch.run(["y"])

    assert batch.sent == 7 + 3, "from the start: the hops have forgotten what position 2 needs"
