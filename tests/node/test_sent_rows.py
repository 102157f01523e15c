"""Rows that were sent on are shown for a while to who paid for them, and to nobody else."""

import pytest

from node.sent_rows import TAB_BYTES, SentRows
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
    shelf = SentRows(60.0, 2 * (one.n_bytes + TAB_BYTES), clock)
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
    shelf, late = SentRows(60.0, TAB_BYTES + 100), Journal(8, 4)
    late.begin(2)
    late.append(bytes(8))

    shelf.keep(TAB, PAYER, late)
    shelf.keep(OTHER, PAYER, journal(100))

    assert shelf.n_bytes == 0


async def test_room_that_was_reserved_and_not_used_flushes_nobodys_rows():
    """Two keys of one owner, of whom nothing but a row each was run: a cheat's way to have its
    predecessor forget what proves it."""
    shelf = SentRows(60.0, 1 << 20)
    shelf.keep(TAB, PAYER, journal(100))
    for number in range(2, 102):
        wide = Journal(8, 1 << 16)
        wide.append(bytes(8))
        shelf.keep(number.to_bytes(32, "big"), STRANGER, wide)

    assert (await asked(shelf)).length == 100
    assert shelf.n_bytes < 1 << 20


async def test_who_fills_the_room_loses_its_own_rows_and_not_those_of_others():
    shelf = SentRows(60.0, 10 * (800 + TAB_BYTES))
    shelf.keep(TAB, PAYER, journal(100))
    for number in range(2, 102):
        shelf.keep(number.to_bytes(32, "big"), STRANGER, journal(100))

    assert (await asked(shelf)).length == 100
    newest = (101).to_bytes(32, "big")
    assert (await asked(shelf, tab=newest, who=STRANGER)).length == 100


async def test_rows_that_were_cut_off_still_take_the_room_that_they_stood_in():
    shelf, long = SentRows(60.0, 100_000), journal(10_000)
    long.cut(1)

    shelf.keep(TAB, PAYER, journal(10))
    shelf.keep(OTHER, STRANGER, long)

    assert 80_000 < shelf.n_bytes <= 100_000


async def test_a_tab_that_is_kept_twice_is_counted_once():
    shelf = SentRows(60.0, 1 << 20)
    for _ in range(3):
        shelf.keep(TAB, PAYER, journal())

    assert shelf.n_bytes == 80 + TAB_BYTES


async def test_room_that_a_session_reserved_and_did_not_use_is_given_back():
    shelf, wide = SentRows(60.0, 1 << 20), Journal(8, 1 << 16)
    wide.append(bytes(80))

    shelf.keep(TAB, PAYER, wide)

    assert wide.n_bytes == 80
    assert (await asked(shelf)).rows == bytes(80)
