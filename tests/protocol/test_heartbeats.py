"""Heartbeats: only the peer can make them, each says that it lived then, and no more than that."""

from itertools import pairwise

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.announcement_table import MAX_SKEW_MS, Dropped, Merged
from protocol.announcements import read_announcement
from protocol.anti_entropy import Record
from protocol.canonical import NotCanonical
from protocol.errors import PeerMisbehaved
from protocol.heartbeats import LINK_BYTES, Beat, BeatChain, Heartbeats, encode_beats, follows
from protocol.signing import OPEN_SWARM_ID, Envelope, seal
from tests.announcing import NOW_MS, key_of, peer_of
from tests.exchanging import BEAT_MS, beating, table_of

LIFETIME_MS = 3 * BEAT_MS
KEY = key_of(1).public_key


def test_each_link_follows_from_any_earlier_one_and_from_nothing_else():
    chain = BeatChain(b"secret", KEY, n_beats=9, interval_ms=BEAT_MS)
    anchor = chain.promise.anchor

    def holds(link: bytes, number: int, known: bytes = anchor, known_number: int = 0) -> bool:
        return follows(link, number, known=known, known_number=known_number, public_key=KEY)

    assert all(holds(chain.link(n), n) for n in range(1, 10))
    assert holds(chain.link(9), 9, chain.link(4), 4)
    assert not holds(chain.link(4), 4, chain.link(9), 9), "nor does it go backwards"
    assert not holds(chain.link(5), 6)
    assert not holds(bytes(LINK_BYTES), 1)
    assert not holds(anchor, 0)


def test_a_chain_belongs_to_one_key():
    ours, theirs = (
        BeatChain(b"secret", key_of(n).public_key, n_beats=3, interval_ms=1) for n in (1, 2)
    )

    link, anchor = theirs.link(1), theirs.promise.anchor
    assert not follows(link, 1, known=anchor, known_number=0, public_key=KEY)
    assert not follows(link, 1, known=ours.promise.anchor, known_number=0, public_key=KEY)


@given(st.binary(max_size=80))
def test_random_bytes_are_beats_or_an_error(junk):
    try:
        beats = Beat.decode_all(junk)
    except ValueError:
        return
    assert encode_beats(beats) == junk


@pytest.mark.parametrize(
    "fields",
    [(b"short", 1, 1), (bytes(16), 0, 1), (bytes(16), 129, 1), (bytes(16), 1, 0)],
)
def test_an_impossible_promise_cannot_be_made(fields):
    with pytest.raises(PeerMisbehaved):
        Heartbeats(*fields)


@pytest.mark.parametrize("bad", [[b"a"], [b"short", 1, 1], [bytes(16), True, 1], 7, [1, 1, 1]])
def test_a_signed_announcement_with_a_nonsensical_promise_is_refused(bad):
    told, _ = beating(1)
    fields = cbor2.loads(Envelope.decode(told.data).payload)
    fields[-1] = [["beats", bad]]

    with pytest.raises((NotCanonical, PeerMisbehaved)):
        read_announcement(seal("mh/announcement/1", OPEN_SWARM_ID, fields, key_of(1)).encode())


# --- in the table --------------------------------------------------------------------------------


def test_a_peer_stands_as_long_as_its_heart_beats():
    told, beats = beating(1)
    table = table_of(told)

    for number in range(1, 6):
        now_ms = NOW_MS + number * BEAT_MS
        assert table.merge_beat(beats[number], sender="", now_ms=now_ms) is Merged.NEWER

    last_ms = NOW_MS + 5 * BEAT_MS
    assert table.get(peer_of(1), last_ms + LIFETIME_MS - 1) is not None
    assert table.heard_ms(peer_of(1), last_ms + 7) == 7
    assert table.get(peer_of(1), last_ms + LIFETIME_MS) is None
    assert table.live(last_ms + LIFETIME_MS) == ()


def test_nobody_else_can_make_a_heart_beat():
    told, beats = beating(1)
    table, later_ms = table_of(told), NOW_MS + BEAT_MS
    id = beats[1].record_id
    forged = [
        Beat(id, 1, bytes(LINK_BYTES)),
        Beat(id, 2, beats[1].link),
        Beat(id, 1, beats[2].link),
        Beat(id, 21, beats[20].link),
    ]

    assert [table.merge_beat(each, sender="m", now_ms=later_ms) for each in forged] == [
        Merged.FORGED
    ] * 4
    assert table.merge_beat(beats[0], sender="", now_ms=later_ms) is Merged.STALE
    unknown = Beat(bytes(8), 1, beats[1].link)
    assert table.merge_beat(unknown, sender="", now_ms=later_ms) is Merged.UNKNOWN
    assert table.dropped == {Dropped("m", Merged.FORGED): 4}
    assert table.get(peer_of(1), NOW_MS + LIFETIME_MS) is None


def test_beats_that_are_shown_ahead_of_time_prolong_nothing():
    told, beats = beating(1, n_beats=128)
    table = table_of(told)

    assert table.merge_beat(beats[128], sender="", now_ms=NOW_MS) is Merged.FUTURE
    ahead = MAX_SKEW_MS // BEAT_MS
    assert table.merge_beat(beats[ahead], sender="", now_ms=NOW_MS) is Merged.NEWER
    assert table.get(peer_of(1), NOW_MS + LIFETIME_MS) is None


def test_an_old_beat_does_not_raise_the_dead():
    told, beats = beating(1)
    table, late_ms = table_of(told), NOW_MS + LIFETIME_MS

    assert table.live(late_ms) == ()
    assert table.merge_beat(beats[2], sender="", now_ms=late_ms) is Merged.UNKNOWN
    replayed = Record(LIFETIME_MS, told.data, 0, b"")
    assert table.merge(replayed, sender="", now_ms=late_ms) is Merged.STALE
    much_later_ms = NOW_MS + 2 * BEAT_MS + LIFETIME_MS + MAX_SKEW_MS
    replayed = Record(LIFETIME_MS, told.data, 2, beats[2].link)
    assert table.merge(replayed, sender="", now_ms=much_later_ms) is Merged.EXPIRED


@pytest.mark.parametrize("skew_ms", [-MAX_SKEW_MS, -60_000, 60_000, MAX_SKEW_MS])
def test_the_heart_of_a_peer_with_a_wrong_clock_is_heard(skew_ms):
    told, beats = beating(1, issued_ms=NOW_MS + skew_ms)
    table = table_of(told)

    for number in range(1, 4):
        now_ms = NOW_MS + number * BEAT_MS
        assert table.merge_beat(beats[number], sender="", now_ms=now_ms) is Merged.NEWER

    last_ms = NOW_MS + 3 * BEAT_MS
    assert table.get(peer_of(1), last_ms + LIFETIME_MS - 1) is not None
    assert table.get(peer_of(1), last_ms + LIFETIME_MS) is None
    assert table.skew_ms(peer_of(1), last_ms) == skew_ms


def test_a_record_comes_with_a_beat_that_is_checked():
    told, beats = beating(1)
    late_ms = NOW_MS + 4 * BEAT_MS

    good = table_of(Record(LIFETIME_MS, told.data, 4, beats[4].link), now_ms=late_ms)
    bad = table_of(Record(LIFETIME_MS, told.data, 4, beats[3].link), now_ms=late_ms)
    plain = table_of(told._replace(ttl_ms=0), now_ms=late_ms)

    assert good.get(peer_of(1), late_ms) is not None
    assert bad.get(peer_of(1), late_ms) is None
    assert plain.get(peer_of(1), late_ms) is None


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(1, 20)), st.randoms(use_true_random=False))
def test_the_order_of_beats_does_not_matter(numbers, rng):
    told, beats = beating(1)
    shuffled = list(numbers)
    rng.shuffle(shuffled)
    tables = table_of(told), table_of(told)

    for table, order in zip(tables, (sorted(numbers), shuffled), strict=True):
        for number in order:
            table.merge_beat(beats[number], sender="", now_ms=NOW_MS + 20 * BEAT_MS // 10)

    one, other = (next(table.learned_since(0)) for table in tables)
    assert one.version == other.version
    assert one.deadline_ms == other.deadline_ms


def test_a_new_record_begins_another_chain():
    first, beats = beating(1)
    table = table_of(first)
    table.merge_beat(beats[1], sender="", now_ms=NOW_MS + BEAT_MS)
    second, next_beats = beating(1, issued_ms=NOW_MS + 15_000)

    assert table.merge(second, sender="", now_ms=NOW_MS + 15_000) is Merged.NEWER
    results = [
        table.merge_beat(each, sender="", now_ms=NOW_MS + 25_000)
        for each in (beats[2], next_beats[1])
    ]

    assert results == [Merged.UNKNOWN, Merged.NEWER]


def test_versions_of_a_record_are_ordered_by_their_beats():
    told, beats = beating(1)
    records = [Record(LIFETIME_MS, told.data, n, beats[n].link if n else b"") for n in range(4)]
    tables = [table_of(each, now_ms=NOW_MS + 3 * BEAT_MS) for each in records[1:]]

    versions = [next(table.learned_since(0)).version for table in tables]

    assert all(one < other for one, other in pairwise(versions))
