"""Exchanges between tables: what is new first, then sums; bounded bytes, few rounds."""

import random
from itertools import pairwise

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.announcement_table import AnnouncementTable, Merged
from protocol.anti_entropy import SUMMARIES, GossipMessage, Lately, Record, Summary
from protocol.errors import PeerMisbehaved
from protocol.gossip_rules import MOST_TOLD, WINDOW_MS, Exchange, answer, tell
from protocol.heartbeats import LINK_BYTES
from protocol.key_ranges import SUM_BYTES, Range
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import NOW_MS, announce, peer_of, record
from tests.exchanging import BEAT_MS, beating, content, exchange, table_of

POOL = [
    record(n, span, sequence=NOW_MS + s, region=region)
    for n in range(1, 5)
    for s, span in ((0, (0, 4)), (1, (4, 8)), (2, None))
    for region in ("", "eu")  # the same sequence used twice
]
some_records = st.lists(st.sampled_from(POOL), max_size=24)
MANY = [record(n, ttl_ms=300_000, expires_ms=NOW_MS + 300_000) for n in range(250)]
LATER_MS = NOW_MS + 2 * WINDOW_MS  # nothing of `MANY` is new any more


@settings(max_examples=40)
@given(some_records, some_records)
def test_an_exchange_makes_two_tables_one(first, second):
    ours, theirs = table_of(*first), table_of(*second)

    exchange(ours, theirs)

    assert content(ours) == content(theirs) == content(table_of(*first, *second))
    assert sum(exchange(ours, theirs)) < 500, "and then there is nothing left to say"


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_differences_are_found_without_any_memory_of_what_was_new(not_ours, not_theirs):
    ours = table_of(*(each for n, each in enumerate(MANY[:100]) if n not in not_ours))
    theirs = table_of(*(each for n, each in enumerate(MANY[:100]) if n not in not_theirs))

    exchange(ours, theirs, LATER_MS)

    lost = not_ours & not_theirs
    assert len(ours) == len(theirs) == 100 - len(lost)


def test_tables_that_agree_spend_a_few_bytes_however_large_they_are():
    ours, theirs = table_of(*MANY), table_of(*MANY)

    assert sum(exchange(ours, theirs, LATER_MS)) < 150


def test_one_difference_among_many_costs_little_more_than_the_record():
    ours, theirs = table_of(*MANY), table_of(*MANY[:-1])

    sizes = exchange(ours, theirs, LATER_MS)

    assert len(theirs) == len(MANY)
    assert sum(sizes) - len(MANY[-1].data) < 1_000


def test_a_node_that_joins_is_known_after_one_call():
    joiner, member = table_of(MANY[0]), table_of(*MANY[1:9])

    told = answer(member, Exchange(joiner).question(NOW_MS), sender="us", now_ms=NOW_MS).reply
    Exchange(joiner).take(told, sender="them", now_ms=NOW_MS)

    assert len(joiner) == len(member) == 9


def test_what_was_learned_lately_is_not_told_to_those_who_know():
    ours, theirs = table_of(*MANY[:100]), table_of(*MANY[1:101])

    sizes = exchange(ours, theirs, compare=False)

    assert len(ours) == len(theirs) == 101
    assert sum(sizes) < 2 * len(MANY[0].data) + 2 * 100 + 150


def one_call(ours, theirs, *, tells_since_ms):
    """An exchange in a storm of news; whether it needs another call."""
    exchange = Exchange(ours, compare=False, tells_since_ms=tells_since_ms)
    told = answer(theirs, exchange.question(NOW_MS), sender="us", now_ms=NOW_MS).reply
    return bool(exchange.take(told, sender="them", now_ms=NOW_MS).reply)


def test_in_a_storm_of_news_one_call_brings_both_sides_what_came_since_the_last():
    ours, theirs = table_of(MANY[0], MANY[1]), table_of(MANY[1], MANY[2])

    needs_more = one_call(ours, theirs, tells_since_ms=NOW_MS)

    assert not needs_more
    assert len(ours) == len(theirs) == 3


def test_in_a_storm_of_news_what_was_told_before_is_left_to_others():
    ours, theirs = table_of(MANY[0], MANY[1]), table_of(MANY[1], MANY[2])

    needs_more = one_call(ours, theirs, tells_since_ms=NOW_MS + 1)

    assert not needs_more
    assert (len(ours), len(theirs)) == (3, 2)
    exchange(theirs, ours)
    assert len(theirs) == 3, "and comes when they ask"


def test_who_has_just_learned_everything_takes_none_of_it_for_news():
    ours, theirs = table_of(*MANY[: MOST_TOLD + 1]), table_of(MANY[0], MANY[1])

    one_call(ours, theirs, tells_since_ms=NOW_MS)

    assert len(theirs) == 2


def test_news_reach_a_swarm_in_a_logarithmic_number_of_rounds():
    rng = random.Random(7)
    tables = [table_of(record(n)) for n in range(32)]

    n_rounds = 0
    while n_rounds < 20 and any(len(table) < 32 for table in tables):
        n_rounds += 1
        for table in tables:
            exchange(table, rng.choice([other for other in tables if other is not table]))

    assert n_rounds <= 6


def test_several_models_share_one_table():
    models = [bytes((n,)) * 32 for n in range(3)]
    tables = [
        table_of(*(record(10 * m + n, manifest=model) for n in range(4)))
        for m, model in enumerate(models)
    ]

    for table in tables[1:] + tables:
        exchange(table, tables[0])

    for table in tables:
        served = [peer.manifest for peer in table.live(NOW_MS)]
        assert {model: served.count(model) for model in models} == dict.fromkeys(models, 4)


def test_an_answer_is_bounded_and_the_rest_follows():
    full, empty = table_of(*MANY[:40], reply_bytes=4_000), table_of()

    for n_exchanges in range(1, 11):
        assert max(exchange(empty, full)) < 4_500
        if n_exchanges == 1:
            assert len(empty) < 40

    assert len(empty) == 40


def test_a_client_takes_and_gives_nothing():
    client, node = table_of(*MANY[:5]), table_of(*MANY[3:30])
    before = content(node)

    for _ in range(2):
        conversation = Exchange(client, gives=False)
        message = conversation.question(NOW_MS)
        while message:
            told = answer(node, message, sender="a client", now_ms=NOW_MS).reply
            message = conversation.take(told, sender="a node", now_ms=NOW_MS).reply

    assert len(client) == 30
    assert content(node) == before


# --- heartbeats ----------------------------------------------------------------------------------


def test_a_beat_is_passed_on_without_its_record():
    (told, beats), later_ms = beating(1), NOW_MS + BEAT_MS
    ours, theirs = table_of(told, *MANY[2:9]), table_of(told, *MANY[2:9])
    exchange(ours, theirs)
    ours.merge_beat(beats[1], sender="", now_ms=later_ms)

    sizes = exchange(theirs, ours, later_ms, compare=False)

    assert content(theirs) == content(ours)
    assert (told.data, 1) in content(theirs)
    assert sum(sizes) < 150


def test_who_lacks_the_record_gets_it_with_its_last_beat():
    (told, beats), later_ms = beating(1), NOW_MS + 9 * BEAT_MS
    ours = table_of(told)
    for number in range(1, 10):
        ours.merge_beat(beats[number], sender="", now_ms=NOW_MS + number * BEAT_MS)
    theirs = table_of(*MANY[2:12])

    exchange(ours, theirs, later_ms, compare=False)  # the beat is new, the record is not
    exchange(theirs, ours, later_ms)

    assert theirs.get(peer_of(1), later_ms + 3 * BEAT_MS - 1) is not None
    assert theirs.get(peer_of(1), later_ms + 3 * BEAT_MS) is None


def test_beats_that_were_missed_are_asked_for_before_the_record_expires():
    told, beats = beating(1)
    ours, theirs = table_of(told), table_of(told)
    ours.merge_beat(beats[1], sender="", now_ms=NOW_MS + BEAT_MS)
    late_ms = NOW_MS + BEAT_MS + 2 * WINDOW_MS - 1  # no news to anybody any more

    exchange(theirs, ours, late_ms, compare=False)

    assert content(theirs, late_ms) == {(told.data, 1)}


def test_after_a_partition_a_peer_whose_record_is_old_is_seen_again():
    told, beats = beating(1)
    ours, theirs = table_of(told), table_of(told)
    for number in range(1, 9):
        ours.merge_beat(beats[number], sender="", now_ms=NOW_MS + number * BEAT_MS)
    now_ms = NOW_MS + 8 * BEAT_MS
    assert theirs.live(now_ms) == ()

    exchange(ours, theirs, now_ms)

    assert [peer.peer_id for peer in theirs.live(now_ms)] == [peer_of(1)]


# --- the first version ---------------------------------------------------------------------------


def test_a_peer_of_the_first_version_is_answered_in_kind():
    told, beats = beating(1)
    table = table_of(told, record(2))
    table.merge_beat(beats[1], sender="", now_ms=NOW_MS + BEAT_MS)
    now_ms = NOW_MS + BEAT_MS

    asked = cbor2.dumps([1, [b"", b"", b""], [], b""])
    reply = cbor2.loads(answer(table, asked, sender="old", now_ms=now_ms).reply)

    version, summary, records, wanted = reply
    assert (version, summary, wanted) == (1, [], b"")
    assert {data for _, data in records} == {told.data, record(2).data}
    assert {len(each) for each in records} == {2}


def test_a_peer_of_the_first_version_is_told_what_it_lacks_and_asked_for_the_rest():
    mine, theirs = table_of(record(1)), table_of(record(2))
    [entry] = theirs.learned_since(0)
    listed = dict.fromkeys(theirs.ranges.keys(), entry.version)
    asked = GossipMessage(version=SUMMARIES, ranges=(Summary(b"", b"", listed),)).encode()

    reply = GossipMessage.decode(answer(mine, asked, sender="old", now_ms=NOW_MS).reply, sender="")

    assert [each.data for each in reply.records] == [record(1).data]
    assert reply.wanted == tuple(theirs.ranges.keys())


# --- the bytes -----------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_random_bytes_are_misbehaviour_never_a_crash(junk):
    with pytest.raises(PeerMisbehaved, match="gossip"):
        GossipMessage.decode(junk, sender="mallory")


SUM = bytes(SUM_BYTES)


@pytest.mark.parametrize(
    "fields",
    [
        [3, [], [], b""],
        [1, [], [], b"short"],
        [1, [b"", b"", b"odd"], [], b""],
        [1, [bytes(17), b"", b""], [], b""],
        [1, [], [[-1, b""]], b""],
        [1, [], [[2**63, b""]], b""],
        [1, [], [[1, b""]] * 4097, b""],
        {},
        [2, [], [], b""],
        [2, [], [], b"", b"odd", [], b"", b""],
        [2, [], [], b"", b"", [b"salt", b""], b"", b""],
        [2, [], [], b"", b"", [bytes(8), b"odd"], b"", b""],
        [2, [], [], b"", b"", [], b"odd", b""],
        [2, [], [], b"", b"", [], b"", b"odd"],
        [2, [], [[1, b"", 0, bytes(LINK_BYTES)]], b"", b"", [], b"", b""],
        [2, [], [[1, b"", 1, b"short"]], b"", b"", [], b"", b""],
        [2, [[b"", b"", 1, b"short"]], [], b"", b"", [], b"", b""],
        [2, [[b"", b"", -1, SUM]], [], b"", b"", [], b"", b""],
        [2, [[bytes(17), b"", 1, SUM]], [], b"", b"", [], b"", b""],
        [2, [[b"b", b"a", 1, SUM]], [], b"", b"", [], b"", b""],
        [2, [[b"", b"b", 1, SUM], [b"a", b"", 1, SUM]], [], b"", b"", [], b"", b""],
        [2, [[b"", b"", 1, SUM]] * 2, [], b"", b"", [], b"", b""],
        [2, [[]], [], b"", b"", [], b"", b""],
        [2, [[b"", b"\x01", b""]] * 3000, [], b"", b"", [], b"", b""],
    ],
)
def test_malformed_gossip_is_misbehaviour(fields):
    with pytest.raises(PeerMisbehaved, match="mallory"):
        GossipMessage.decode(cbor2.dumps(fields), sender="mallory")


def test_a_message_survives_its_bytes():
    told, beats = beating(1)
    [entry] = table_of(told).learned_since(0)
    message = GossipMessage(
        records=(Record(5, told.data, 3, beats[3].link), record(2)),
        wanted=(bytes(16), b"k" * 16),
        beats=(beats[1], beats[2]),
        lately=Lately(b"saltsalt", (b"ab", b"cd")),
        lacking=(b"ef",),
        overdue=(b"recordid",),
        ranges=(Range(b"", b"a", 7, SUM), Summary(b"a", b"", {bytes(16): entry.version})),
    )

    assert GossipMessage.decode(message.encode(), sender="") == message


def test_a_later_version_may_say_more():
    fields = [*cbor2.loads(GossipMessage(wanted=(bytes(16),)).encode()), "more"]

    assert GossipMessage.decode(cbor2.dumps(fields), sender="").wanted == (bytes(16),)


def test_a_message_of_junk_is_not_read_to_its_end_and_its_sender_is_counted():
    table = AnnouncementTable(OPEN_SWARM_ID)
    forged = [record(n, signer=13) for n in range(1, 100)]

    taken = answer(table, tell(*forged), sender="mallory", now_ms=NOW_MS)
    with pytest.raises(PeerMisbehaved):
        answer(table, b"junk", sender="mallory", now_ms=NOW_MS)

    assert taken.n_checked == 9
    assert {(each.sender, each.why): n for each, n in table.dropped.items()} == {
        ("mallory", Merged.FORGED): 10
    }


def test_what_a_stranger_asks_costs_one_pass_over_the_table():
    """Ranges without overlap: a message cannot make us sum the same records again and again."""
    table = table_of(*MANY)
    keys = table.ranges.keys()
    asked = GossipMessage(
        ranges=tuple(Range(start, stop, 9, SUM) for start, stop in pairwise(keys))
    )

    reply = GossipMessage.decode(
        answer(table, asked.encode(), sender="mallory", now_ms=NOW_MS).reply, sender=""
    )

    assert sum(len(each.versions) for each in reply.ranges) <= len(MANY)


def test_announcements_with_heartbeats_are_announced_again():
    told, _ = beating(1)
    [held] = table_of(told).live(NOW_MS)

    assert held.heartbeats is not None
    assert held == announce(1, heartbeats=held.heartbeats)
