"""Rows that were sent on are shown for a while to who paid for them, and to nobody else."""

import pytest

from node.sent_rows import SentRows
from protocol.errors import PeerMisbehaved, PeerRefused
from protocol.identity import PeerId
from protocol.journal import Journal
from protocol.sent_rows import PART_BYTES, SentPart, request_bytes

PAYER, STRANGER = PeerId("payer"), PeerId("stranger")
TAB, OTHER = bytes(32), bytes(31) + b"\x01"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def journal(n_rows: int = 10, row_bytes: int = 8) -> Journal:
    made = Journal(row_bytes, n_rows)
    made.append(bytes(range(256)) * (n_rows * row_bytes // 256) + bytes(n_rows * row_bytes % 256))
    return made


async def asked(shelf: SentRows, start: int = 0, tab: bytes = TAB, who: PeerId = PAYER) -> SentPart:
    return SentPart.decode(await shelf.handle(who, request_bytes(tab, start)))


async def test_the_payer_gets_all_rows_part_by_part_and_nobody_else_any():
    row_bytes = PART_BYTES // 4
    kept, shelf = journal(10, row_bytes), SentRows(60.0, 1 << 30)
    shelf.keep(TAB, PAYER, kept)

    parts = [await asked(shelf, start) for start in (0, 4, 8)]

    assert b"".join(part.rows for part in parts) == kept.rows(0, 10)
    for question in (request_bytes(OTHER, 0), request_bytes(TAB, 10)):
        with pytest.raises(PeerRefused):
            await shelf.handle(PAYER, question)
    with pytest.raises(PeerRefused):
        await asked(shelf, who=STRANGER)
    with pytest.raises(PeerMisbehaved):
        await shelf.handle(PAYER, b"rows, please")


async def test_rows_are_gone_when_their_time_is_over_or_others_need_the_room():
    clock, one = Clock(), journal()
    shelf = SentRows(60.0, 2 * one.n_bytes, clock)
    shelf.keep(TAB, PAYER, one)
    shelf.keep(OTHER, PAYER, journal())
    shelf.looked_at(TAB)
    shelf.keep(bytes(31) + b"\x02", PAYER, journal())

    assert (await asked(shelf)).length == 10  # the other one was not looked at
    with pytest.raises(PeerRefused):
        await asked(shelf, tab=OTHER)
    clock.now_s = 61.0
    shelf.expire()
    assert shelf.n_bytes == 0
    with pytest.raises(PeerRefused):
        await asked(shelf)


def test_what_began_elsewhere_or_is_larger_than_all_room_is_not_kept():
    shelf, late = SentRows(60.0, 100), Journal(8, 4)
    late.begin(2)
    late.append(bytes(8))

    shelf.keep(TAB, PAYER, late)
    shelf.keep(OTHER, PAYER, journal(100))

    assert shelf.n_bytes == 0
