"""What a node says of itself, and when: nothing twice, everything that matters soon."""

from dataclasses import replace

import pytest

from node.announcer import Announcer, has_changed
from node.pace import GossipTiming, pace_of
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import MAX_LIFETIME_MS, Announcement
from protocol.heartbeats import MAX_BEATS
from protocol.measured import Measured, State
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import NOW_MS, announce, key_of, record

DRAFT = announce(1, sequence=0, issued_ms=0, expires_ms=0)


class Speaking:
    """An announcer with a clock, in a table of some size."""

    def __init__(self, n_others: int) -> None:
        self.draft = DRAFT
        self.table = AnnouncementTable(OPEN_SWARM_ID)
        for n in range(2, 2 + n_others):
            far = {"ttl_ms": MAX_LIFETIME_MS, "expires_ms": NOW_MS + MAX_LIFETIME_MS}
            self.table.merge(record(n, **far), sender="", now_ms=NOW_MS)
        self.announcer = Announcer(
            self.table, key_of(1), lambda: self.draft, lambda: (), GossipTiming()
        )

    def at(self, now_s: float) -> tuple[int, int]:
        """The sequence and beat in the table after a moment of the loop."""
        now_ms = NOW_MS + round(now_s * 1000)
        self.announcer.speak_when_due(now_s=now_s, now_ms=now_ms)
        newest = next(each for each in self.table.learned_since(0) if self._is_own(each))
        return newest.version.sequence - NOW_MS, newest.version.beat

    def _is_own(self, entry: object) -> bool:
        return getattr(entry, "announcement").peer_id == DRAFT.peer_id  # noqa: B009


def test_in_a_small_swarm_a_record_follows_every_ten_seconds():
    speaking = Speaking(n_others=3)

    assert [speaking.at(s) for s in (0, 9.9, 10, 19.9, 20)] == [
        (0, 0),
        (0, 0),
        (10_000, 0),
        (10_000, 0),
        (20_000, 0),
    ]


def test_in_a_larger_one_beats_do_while_nothing_changes():
    speaking = Speaking(n_others=50)

    assert [speaking.at(s) for s in (0, 10, 20, 39, 58, 75, 90)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 5),
        (0, 7),
        (90_000, 0),
    ]


def test_a_changed_load_is_told_before_the_next_record_is_due():
    speaking = Speaking(n_others=99)
    speaking.at(0)

    speaking.draft = replace(DRAFT, n_sessions=5)

    assert speaking.at(20) == (0, 2)
    assert speaking.at(31) == (31_000, 0)


def test_what_is_urgent_is_told_at_once():
    speaking = Speaking(n_others=99)
    speaking.at(0)

    speaking.announcer.hurry()

    assert speaking.at(1) == (1_000, 0)


def test_a_node_that_slept_through_its_beats_begins_anew():
    speaking = Speaking(n_others=49)
    speaking.at(0)

    assert speaking.at(400) == (400_000, 0)


def test_a_node_that_slept_past_its_expiry_announces_itself_again():
    speaking = Speaking(n_others=50)
    speaking.at(0)

    assert speaking.at(45) == (45_000, 0)
    assert speaking.at(55) == (45_000, 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"kv_free_bytes": DRAFT.kv_free_bytes - 1000}, False),
        ({"kv_free_bytes": DRAFT.kv_free_bytes // 2}, True),
        ({"n_sessions": 1}, True),
        ({"span": Span(0, 4)}, True),
        ({"adapters": ("pirate@0123456789ab",)}, True),
        ({"measured": Measured(queue_us=500)}, True),
        ({"measured": Measured(state=State.DRAINING)}, True),
        ({"sequence": 7, "issued_ms": 1, "expires_ms": 2}, False),
    ],
)
def test_only_what_would_change_a_route_counts_as_a_change(changes, expected):
    assert has_changed(DRAFT, replace(DRAFT, **changes)) is expected


@pytest.mark.parametrize("n_records", [0, 1, 10, 16, 17, 100, 150, 151, 1_000, 3_000, 10_000])
def test_every_pace_can_be_kept(n_records):
    pace = pace_of(n_records, GossipTiming())

    assert pace.lifetime_s * 1000 <= MAX_LIFETIME_MS
    assert pace.lifetime_s >= 2.9 * pace.beat_s, "two beats may be missed"
    assert 0 <= pace.n_beats <= MAX_BEATS
    assert pace.n_beats != 1
    assert pace.record_s <= pace.beat_s * max(1, pace.n_beats)
    assert pace.window_s < pace.lifetime_s


def test_the_pace_keeps_a_nodes_share_of_bytes():
    at_rest = {n: pace_of(n, GossipTiming()) for n in (200, 1_000, 2_000)}

    assert {round(n / pace.beat_s) for n, pace in at_rest.items()} == {15}
    assert all(0.55 < n / pace.record_s < 0.6 for n, pace in at_rest.items())


def test_an_announcement_that_stands_is_what_was_drafted():
    speaking = Speaking(n_others=49)
    speaking.at(0)

    [own] = [each for each in speaking.table.live(NOW_MS) if each.peer_id == DRAFT.peer_id]

    stamp = {name: getattr(own, name) for name in ("sequence", "issued_ms", "expires_ms")}
    assert own == replace(DRAFT, heartbeats=own.heartbeats, **stamp)
    assert isinstance(own, Announcement)


def test_who_knows_nobody_yet_promises_beats_so_that_its_second_record_can_wait():
    speaking = Speaking(n_others=0)

    assert [speaking.at(s) for s in (0, 10, 20)] == [(0, 0), (0, 1), (0, 2)]
