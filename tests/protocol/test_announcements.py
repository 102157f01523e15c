"""Announcements, the rules that merge them, and the exchange that spreads them."""

from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.address import Address
from protocol.announcement_table import MAX_SKEW_MS, AnnouncementTable, Dropped, Merged
from protocol.announcements import (
    MAX_RECORD_BYTES,
    Link,
    read_announcement,
    seal_announcement,
    verify_announcement,
)
from protocol.anti_entropy import Record
from protocol.canonical import NotCanonical
from protocol.errors import BadSignature, IntegrityError, ManyhandsError, PeerMisbehaved
from protocol.measured import Measured, State
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID, Envelope, seal
from tests.announcing import NOW_MS, announce, key_of, peer_of, record
from tests.exchanging import content, exchange, table_of

GOLDEN = Path(__file__).parents[1] / "golden" / "announcement.hex"


# --- the record ----------------------------------------------------------------------------------


def test_an_announcement_survives_its_bytes():
    links = tuple(Link(peer_of(n), 100 * n) for n in range(2, 18))
    announcement = announce(1, (2, 6), links=links, region="eu", offer=b"offer", n_sessions=3)

    data = seal_announcement(announcement, OPEN_SWARM_ID, key_of(1))
    claimed, envelope = read_announcement(data)
    verify_announcement(claimed, envelope, OPEN_SWARM_ID)

    assert claimed == announcement


def test_a_peer_that_loads_says_what_and_is_no_host_until_its_record_has_a_span():
    table = AnnouncementTable(OPEN_SWARM_ID)
    begun = record(1, None, addresses=(), loading=Span(2, 6))

    assert table.merge(begun, sender="", now_ms=NOW_MS) is Merged.NEW
    [seen] = table.loading(NOW_MS)
    assert (seen.loading, table.live(NOW_MS), table.get(peer_of(1), NOW_MS)) == (
        Span(2, 6),
        (),
        None,
    )
    assert table.loading(NOW_MS + 30_000) == (), "for its lifetime"

    later = record(1, (2, 6), sequence=NOW_MS + 1)
    assert table.merge(later, sender="", now_ms=NOW_MS + 1) is Merged.NEW
    assert not table.loading(NOW_MS + 1)
    assert len(table.live(NOW_MS + 1)) == 1


@pytest.mark.parametrize("loading", [(2,), (2, 1), (0, 9), "2:6", 7, None])
def test_blocks_to_be_loaded_that_are_none_are_refused(loading):
    fields = cbor2.loads(Envelope.decode(record(1, None, addresses=()).data).payload)
    fields.append([["loading", list(loading) if isinstance(loading, tuple) else loading]])
    data = seal("mh/announcement/1", OPEN_SWARM_ID, _tuples(fields), key_of(1)).encode()

    with pytest.raises((NotCanonical, PeerMisbehaved)):
        read_announcement(data)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def test_the_signed_bytes_are_those_of_the_golden_file():
    links = (Link(peer_of(2), 1500), Link(peer_of(3), 20_000))
    announcement = announce(
        1,
        (2, 6),
        links=links,
        profile="float32/none",
        region="eu",
        software="manyhands 0.1",
        offer=b"o",
    )

    data = seal_announcement(announcement, OPEN_SWARM_ID, key_of(1))

    assert data.hex() == GOLDEN.read_text().strip()


def test_the_largest_announcement_fits():
    peer_id = peer_of(1)
    largest = announce(
        1,
        addresses=tuple(
            Address(f"{'a' * 60}.{'b' * 60}.example", 1 + i, peer_id) for i in range(8)
        ),
        links=tuple(Link(peer_of(n), 2**40) for n in range(2, 18)),
        offer=bytes(4096),
        model="m" * 128,
        region="r" * 128,
        software="s" * 128,
    )

    assert len(seal_announcement(largest, OPEN_SWARM_ID, key_of(1))) <= MAX_RECORD_BYTES


@pytest.mark.parametrize(
    "changes",
    [
        {"span": Span(4, 9)},
        {"addresses": ()},
        {"addresses": (Address("10.0.0.1", 1, peer_of(2)),)},
        {"expires_ms": NOW_MS - 1},
        {"expires_ms": NOW_MS + 600_001},
        {"manifest": b"short"},
        {"region": "\x1b[31m"},
        {"model": "m" * 129},
        {"links": tuple(Link(peer_of(n), 1) for n in range(17))},
        {"links": (Link(peer_of(2), 1), Link(peer_of(2), 2))},
        {"offer": bytes(4097)},
        {"n_blocks": 0},
        {"decode_us": -1},
        {"peer_id": "nobody"},
    ],
)
def test_an_impossible_announcement_cannot_be_made(changes):
    with pytest.raises(PeerMisbehaved):
        replace(announce(1), **changes)


def test_relayed_addresses_stand_apart_where_peers_who_know_no_relays_pass_them_over():
    peer, relay = peer_of(1), peer_of(2)
    own, relayed = Address("10.0.0.1", 1, peer), Address("203.0.113.5", 31402, peer, relay)
    announcement = announce(1, addresses=(own, relayed))

    data = seal_announcement(announcement, OPEN_SWARM_ID, key_of(1))

    assert read_announcement(data)[0] == announcement
    fields = cbor2.loads(Envelope.decode(data).payload)
    assert fields[5] == [str(own)]
    assert fields[20] == [["circuits", [str(relayed)]]]
    for direct, circuits in (([str(relayed)], []), ([str(own)], [str(own)]), ([str(own)], "x")):
        fields[5], fields[20] = direct, [["circuits", circuits]]
        with pytest.raises((NotCanonical, PeerMisbehaved)):
            read_announcement(seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode())
    with pytest.raises(PeerMisbehaved, match="come before"):
        replace(announcement, addresses=(relayed, own))


def test_tunnels_are_announced_apart_from_relayed_addresses_and_after_them():
    peer, relay = peer_of(1), peer_of(2)
    relayed = Address("203.0.113.5", 31402, peer, relay)
    tunnel = Address("203.0.113.5", 31401, peer, relay, is_tunnel=True)
    announcement = announce(1, addresses=(relayed, tunnel))

    data = seal_announcement(announcement, OPEN_SWARM_ID, key_of(1))

    assert read_announcement(data)[0] == announcement
    fields = cbor2.loads(Envelope.decode(data).payload)
    assert [["circuits", [str(relayed)]], ["tunnels", [str(tunnel)]]] == fields[20]
    fields[20] = [["circuits", [str(tunnel)]]]
    with pytest.raises((NotCanonical, PeerMisbehaved)):
        read_announcement(seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode())
    with pytest.raises(PeerMisbehaved, match="come before"):
        replace(announcement, addresses=(tunnel, relayed))


@pytest.mark.parametrize("bad", [[5, 5], [7, 3], [3], ["a", "b"], None])
def test_a_signed_announcement_with_a_nonsensical_span_is_refused(bad):
    fields = cbor2.loads(Envelope.decode(record(1).data).payload)
    fields[9] = bad

    with pytest.raises((NotCanonical, PeerMisbehaved)):
        read_announcement(seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode())


def test_a_signed_announcement_with_a_bad_address_is_refused():
    fields = cbor2.loads(Envelope.decode(record(1).data).payload)
    fields[5] = ["/ip4/999.0.0.1/tcp/1/p2p/x"]

    with pytest.raises(NotCanonical):
        read_announcement(seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode())


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_random_bytes_are_never_an_announcement(junk, position):
    data = bytearray(record(1).data)
    at = position % len(data)
    data[at : at + len(junk)] = junk
    if bytes(data) == record(1).data:
        return

    with pytest.raises(ManyhandsError):
        verify_announcement(*read_announcement(bytes(data)), OPEN_SWARM_ID)


def test_nobody_can_announce_for_another_peer():
    claimed, envelope = read_announcement(record(1, signer=2).data)

    with pytest.raises(BadSignature):
        verify_announcement(claimed, envelope, OPEN_SWARM_ID)


def test_an_announcement_for_another_swarm_does_not_verify():
    claimed, envelope = read_announcement(record(1, swarm_id=bytes(32)).data)

    with pytest.raises(IntegrityError):
        verify_announcement(claimed, envelope, OPEN_SWARM_ID)


# --- merging -------------------------------------------------------------------------------------

POOL = [
    record(n, span, sequence=NOW_MS + s, region=region)
    for n in range(1, 5)
    for s, span in ((0, (0, 4)), (1, (4, 8)), (2, None))
    for region in ("", "eu")  # the same sequence used twice
]
some_records = st.lists(st.sampled_from(POOL), max_size=24)


@settings(max_examples=40)
@given(some_records, st.randoms(use_true_random=False))
def test_the_order_and_repetition_of_records_does_not_matter(records, rng):
    shuffled = [*records, *records]
    rng.shuffle(shuffled)

    assert content(table_of(*records)) == content(table_of(*shuffled))


@settings(max_examples=40)
@given(some_records, some_records, some_records)
def test_merging_tables_is_associative(first, second, third):
    def merged(*tables: AnnouncementTable) -> AnnouncementTable:
        result = AnnouncementTable(OPEN_SWARM_ID)
        for table in tables:
            for data, _ in content(table):
                result.merge(Record(30_000, data), sender="", now_ms=NOW_MS)
        return result

    a, b, c = table_of(*first), table_of(*second), table_of(*third)

    assert content(merged(merged(a, b), c)) == content(merged(a, merged(b, c)))


def test_the_newest_sequence_wins():
    table = table_of(record(1, (0, 4)))

    assert table.merge(record(1, (0, 8), sequence=NOW_MS + 1), sender="", now_ms=NOW_MS)
    assert table.merge(record(1, (4, 8), sequence=NOW_MS - 1), sender="", now_ms=NOW_MS) is (
        Merged.STALE
    )

    assert [announcement.span for announcement in table.live(NOW_MS)] == [Span(0, 8)]


def test_a_leave_is_not_undone_by_an_older_record():
    table = table_of(record(1), record(1, None, sequence=NOW_MS + 5))

    assert table.merge(record(1, sequence=NOW_MS + 4), sender="", now_ms=NOW_MS) is Merged.STALE

    assert table.live(NOW_MS) == ()
    assert table.get(peer_of(1), NOW_MS) is None
    assert len(table) == 1  # the leave is told


def test_what_expires_vanishes_and_no_replay_brings_it_back():
    table = table_of(record(1))
    late_ms = NOW_MS + 30_000

    assert table.get(peer_of(1), late_ms - 1) is not None
    assert table.get(peer_of(1), late_ms) is None
    assert table.live(late_ms) == ()
    assert table.merge(record(1), sender="", now_ms=late_ms) is Merged.STALE
    assert len(table) == 0

    much_later_ms = late_ms + MAX_SKEW_MS
    assert table.live(much_later_ms) == ()
    assert table.merge(record(1), sender="", now_ms=much_later_ms) is Merged.EXPIRED


@pytest.mark.parametrize("skew_ms", [-MAX_SKEW_MS, -60_000, 3_000, 60_000, MAX_SKEW_MS])
def test_a_peer_with_a_wrong_clock_is_seen_for_its_lifetime(skew_ms):
    issued_ms = NOW_MS + skew_ms
    skewed = record(1, sequence=issued_ms, issued_ms=issued_ms, expires_ms=issued_ms + 30_000)

    table = table_of(skewed)

    assert table.get(peer_of(1), NOW_MS + 29_000) is not None
    assert table.get(peer_of(1), NOW_MS + 30_001) is None


def test_time_spent_with_others_counts():
    slow_clock = NOW_MS - 60_000
    stamp = {"sequence": slow_clock, "issued_ms": slow_clock, "expires_ms": slow_clock + 30_000}
    first = table_of(record(1, **stamp))

    second = AnnouncementTable(OPEN_SWARM_ID)
    exchange(second, first, now_ms=NOW_MS + 25_000)

    assert second.get(peer_of(1), NOW_MS + 29_000) is not None
    assert second.get(peer_of(1), NOW_MS + 30_000) is None


def test_a_sender_cannot_hide_a_live_peer_by_telling_a_short_life():
    table = table_of(record(1)._replace(ttl_ms=1))

    assert table.get(peer_of(1), NOW_MS + 20_000) is not None


def test_junk_is_dropped_and_counted_for_its_sender():
    table = AnnouncementTable(OPEN_SWARM_ID)
    year_ms = 365 * 86_400_000
    ancient = record(6, issued_ms=NOW_MS - year_ms, expires_ms=NOW_MS - year_ms + 1)
    early = record(7, issued_ms=NOW_MS + year_ms, expires_ms=NOW_MS + year_ms + 1)
    junk = [
        record(1, signer=2),  # forged
        record(3, swarm_id=bytes(32)),  # from another swarm
        Record(1000, record(4).data[:-1]),
        Record(1000, b"junk"),
        Record(1000, bytes(MAX_RECORD_BYTES + 1)),
        ancient,
        early,
    ]

    for each in junk:
        table.merge(each, sender="mallory", now_ms=NOW_MS)

    assert table.live(NOW_MS) == ()
    assert table.dropped == {
        Dropped("mallory", Merged.FORGED): 5,
        Dropped("mallory", Merged.EXPIRED): 1,
        Dropped("mallory", Merged.FUTURE): 1,
    }


def test_a_full_table_keeps_whom_it_knows():
    table = AnnouncementTable(OPEN_SWARM_ID, capacity=2)
    results = [table.merge(record(n), sender="", now_ms=NOW_MS) for n in (1, 2, 3)]
    refreshed = table.merge(record(1, sequence=NOW_MS + 1), sender="", now_ms=NOW_MS)

    assert results == [Merged.NEW, Merged.NEW, Merged.FULL]
    assert refreshed is Merged.NEWER
    later_ms = NOW_MS + 30_000
    newcomer = record(3, issued_ms=later_ms, expires_ms=later_ms + 1)
    assert table.merge(newcomer, sender="", now_ms=later_ms) is Merged.NEW


def test_the_counters_of_junk_are_bounded():
    table = AnnouncementTable(OPEN_SWARM_ID)

    for n in range(2_000):
        table.merge(Record(1, b""), sender=f"sybil {n}", now_ms=NOW_MS)

    assert len(table.dropped) <= 1_002
    assert table.dropped.total() == 2_000


def test_what_a_node_measured_travels_and_what_it_did_not_takes_no_room():
    measured = Measured(
        decode_steps_us=((1, 900), (8, 2100)),
        visit_us=1300,
        queue_us=40,
        shared_us=7,
        backlog_us=900,
        up_bytes_per_s=10**7,
        capacity_blocks=5,
        since_ms=NOW_MS,
        state=State.MOVING,
        group="lab",
        relayed=(bytes(32),),
    )
    plain, told = announce(1), announce(1, measured=measured)
    sealed = seal_announcement(told, OPEN_SWARM_ID, key_of(1))
    assert read_announcement(sealed)[0] == told
    assert len(seal_announcement(plain, OPEN_SWARM_ID, key_of(1))) < len(sealed) - 150


@pytest.mark.parametrize(
    "extras",
    [
        {"queue_us": -1},
        {"queue_us": "1"},
        {"queue_us": True},
        {"decode_steps_us": [4, 1, 2, 1]},
        {"decode_steps_us": [1, 0]},
        {"decode_steps_us": [1, 2, 3]},
        {"decode_steps_us": [True, 2]},
        {"decode_steps_us": 7},
        {"relayed": [b"short"]},
        {"group": "a\nb"},
    ],
)
def test_measurements_that_make_no_sense_are_refused(extras):
    with pytest.raises((NotCanonical, PeerMisbehaved)):
        Measured.read(extras)


def test_a_state_of_a_later_version_is_one_that_takes_no_new_sessions():
    assert Measured.read({"state": "hibernating"}).state is State.DRAINING
    assert Measured.read({"something_new": 1}) == Measured()
