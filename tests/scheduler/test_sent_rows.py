"""37: who shows rows cannot make an auditor take in more than it asked for, nor wait for ever."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from protocol.checks import MAX_POSITIONS
from protocol.errors import PeerMisbehaved, PeerUnreachable
from protocol.sent_rows import PART_BYTES, SentPart, read_request
from scheduler.sent_rows import ALL_S, fetch_sent_rows
from tests.virtual_time import VirtualLoop, run_in_virtual_time

ROW_BYTES = 8192
HELD = cast("Any", SimpleNamespace(terms_oid=bytes(32), peer="hop"))


class Endless:
    """It has rows without end. at_once: how many of them it shows in one part, after `wait_s`."""

    def __init__(self, at_once: int = PART_BYTES // ROW_BYTES, wait_s: float = 0.0) -> None:
        self._at_once, self._wait_s, self.n_shown = at_once, wait_s, 0

    async def call(self, method: str, request: bytes, timeout_s: float) -> bytes:
        await asyncio.sleep(self._wait_s)
        _, start = read_request(request)
        self.n_shown += self._at_once
        rows = bytes(self._at_once * ROW_BYTES)
        return SentPart(ROW_BYTES, start, MAX_POSITIONS, rows).encode()


async def fetched(hop: Endless, most_rows: int) -> int:
    rows = await fetch_sent_rows(cast("Any", hop), HELD, ROW_BYTES, most_rows)
    return len(rows) // ROW_BYTES


async def test_no_more_rows_are_taken_in_than_were_asked_for():
    hop = Endless()

    assert await fetched(hop, 600) == 600
    assert hop.n_shown < 600 + PART_BYTES // ROW_BYTES


async def test_a_part_larger_than_was_agreed_is_no_part():
    with pytest.raises(PeerMisbehaved):
        await fetched(Endless(PART_BYTES // ROW_BYTES + 1), 600)


def test_who_shows_row_by_row_is_waited_for_a_minute_and_no_longer():
    async def wait(loop: VirtualLoop) -> float:
        with pytest.raises(PeerUnreachable, match="not all rows"):
            await fetched(Endless(1, wait_s=19.0), 600)
        return loop.time()

    assert run_in_virtual_time(wait) == pytest.approx(ALL_S)
