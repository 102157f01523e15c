"""Pages of a distributed hash table: what is kept of what strangers put there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.announcement_table import AnnouncementTable, Dropped, Merged
from protocol.anti_entropy import GossipMessage, Record
from protocol.errors import PeerMisbehaved
from protocol.record_pages import (
    MAX_VALUE_BYTES,
    N_PAGES,
    key_of_page,
    keys_of,
    page_of,
    read_key,
    record_of,
    take,
    write_page,
    write_records,
)
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import NOW_MS, peer_of, record

OTHER_SWARM = bytes(32)


def table_of(*peers: int) -> AnnouncementTable:
    table = AnnouncementTable(OPEN_SWARM_ID)
    for n in peers:
        table.merge(record(n), sender="test", now_ms=NOW_MS)
    return table


def test_what_one_table_holds_is_found_on_the_pages_by_another():
    full, empty = table_of(*range(1, 60)), table_of()

    for page in range(N_PAGES):
        if value := write_page(full, page, NOW_MS):
            assert take(empty, value, sender="peer", now_ms=NOW_MS).is_clean

    assert empty.live(NOW_MS) == full.live(NOW_MS)


def test_a_record_is_on_the_page_that_its_peer_hashes_to_and_on_no_other():
    table = table_of(7)

    written = [page for page in range(N_PAGES) if write_page(table, page, NOW_MS)]

    assert written == [page_of(peer_of(7))]


def test_a_page_grows_by_what_is_put_and_no_writer_takes_from_it():
    table = table_of(1, 2, 3)

    put = take(table, write_records([record(4)]), sender="peer", now_ms=NOW_MS)

    assert put.n_taken == 1
    assert len(table.live(NOW_MS)) == 4


def test_of_one_peers_records_the_highest_sequence_stays_whatever_the_order():
    table = table_of()
    for sequence in (NOW_MS + 2, NOW_MS + 3, NOW_MS + 1):
        value = write_records([record(1, sequence=sequence)])
        take(table, value, sender="peer", now_ms=NOW_MS)

    assert table.last_sequence(peer_of(1)) == NOW_MS + 3


def test_what_is_left_of_a_lifetime_travels_with_the_record():
    table = table_of(1)

    own = record_of(table, peer_of(1), NOW_MS + 20_000)

    assert own is not None
    assert own.ttl_ms == 10_000
    assert record_of(table, peer_of(1), NOW_MS + 30_000) is None
    assert record_of(table, peer_of(2), NOW_MS) is None


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (record(1, signer=2), Merged.FORGED),
        (record(1, swarm_id=OTHER_SWARM), Merged.FORGED),
        (Record(60_000, b"no announcement"), Merged.FORGED),
        (record(1, issued_ms=1, expires_ms=30_001, sequence=1), Merged.EXPIRED),
        (record(1, issued_ms=2 * NOW_MS, expires_ms=2 * NOW_MS + 1), Merged.FUTURE),
    ],
    ids=["forged", "another swarm's", "junk", "expired", "of the future"],
)
def test_a_bad_record_is_counted_and_nothing_after_it_is_looked_at(bad, why):
    table = table_of()

    put = take(table, write_records([bad, record(5)]), sender="peer", now_ms=NOW_MS)

    assert not put.is_clean
    assert not table.live(NOW_MS)
    assert table.dropped == {Dropped("peer", why): 1}


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff" * 40,
        bytes(MAX_VALUE_BYTES + 1),
        GossipMessage(wanted=(bytes(16),)).encode(),
        GossipMessage(records=(record(1),), wanted=(bytes(16),)).encode(),
    ],
    ids=["nothing", "no CBOR", "too large", "a question", "records and a question"],
)
def test_a_value_that_is_no_set_of_records_is_refused_and_counted(value):
    table = table_of()

    with pytest.raises(PeerMisbehaved):
        take(table, value, sender="peer", now_ms=NOW_MS)

    assert table.dropped == {Dropped("peer", Merged.FORGED): 1}


def test_keys_name_the_swarm_and_nobody_elses_are_ours():
    assert [read_key(OPEN_SWARM_ID, key, sender="") for key in keys_of(OPEN_SWARM_ID)] == [
        *range(N_PAGES)
    ]
    for foreign in (b"", b"/pk/abc", b"/mh/abc/00", key_of_page(OTHER_SWARM, 0), b"/mh/\xff"):
        with pytest.raises(PeerMisbehaved):
            read_key(OPEN_SWARM_ID, foreign, sender="peer")


@given(st.binary(max_size=300))
def test_no_bytes_of_a_stranger_do_more_than_raise(value):
    table = table_of(1)

    with pytest.raises(PeerMisbehaved):
        take(table, value, sender="peer", now_ms=NOW_MS)

    assert len(table) == 1
