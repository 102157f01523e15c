"""Prompts keep out of the way of tokens: what may be under way, on links of any width."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.uplink import FEW_ROWS, FRAME_BYTES, FRAME_S, GAIN, QUEUE_S, STALL_S, Rows, Uplink
from protocol.errors import PeerMisbehaved
from protocol.frames import RowGroup
from protocol.messages import SessionId

ROW_BYTES = 2048
GROUP_ROWS = FRAME_BYTES // ROW_BYTES


def rows_of(session: int, step: int, n_rows: int = GROUP_ROWS, epoch: int = 0) -> Rows:
    start = step * GROUP_ROWS
    group = RowGroup(SessionId(bytes([session]) * 16), epoch, 0, step, start, n_rows)
    return Rows(group, ROW_BYTES, bytes(n_rows * ROW_BYTES))


@dataclass
class Link:
    """One way of `rate` bytes/s and `delay_s`, in a clock of its own; words come back as late."""

    uplink: Uplink
    rate: float
    delay_s: float
    now_s: float = 0.0
    free_at_s: float = 0.0
    came: list[RowGroup] = field(default_factory=list)
    longest_queue_s: float = 0.0
    _events: list[tuple[float, int, Rows | None]] = field(default_factory=list)

    def let_out(self) -> None:
        while (rows := self.uplink.take(self.now_s)) is not None:
            self.longest_queue_s = max(self.longest_queue_s, self.free_at_s - self.now_s)
            self.free_at_s = max(self.now_s, self.free_at_s) + len(rows.body) / self.rate
            self.uplink.sent(len(rows.body), self.now_s)
            there_s = self.free_at_s + self.delay_s
            heapq.heappush(self._events, (there_s + self.delay_s, self.uplink.mark, rows))

    def step(self) -> None:
        self.now_s, mark, rows = heapq.heappop(self._events)
        assert rows is not None
        self.came.append(rows.group)
        self.uplink.arrived(mark, self.now_s)

    def carry(self, waiting: list[Rows]) -> None:
        """All of it, and until it is there."""
        for rows in waiting:
            self.uplink.push(rows)
        self.let_out()
        while self._events:
            self.step()
            self.let_out()


def told(delay_s: float) -> Uplink:
    """To a peer that has said that it says what arrives."""
    uplink = Uplink()
    uplink.sent(100, 0.0)
    uplink.arrived(1, 2 * delay_s)
    return uplink


@pytest.mark.parametrize("mbit", [4, 15, 100, 1000])
@pytest.mark.parametrize("delay_s", [0.002, 0.025, 0.15])
def test_a_long_prompt_fills_a_link_and_no_queue(mbit, delay_s):
    link = Link(told(delay_s), mbit * 1e6 / 8, delay_s)
    prompt = [rows_of(1, step) for step in range(600)]  # 39 MB

    link.carry(prompt[:400])  # until it knows the link
    link.longest_queue_s, began_s = 0.0, link.now_s
    link.carry(prompt[400:])

    frame_s = FRAME_BYTES / link.rate
    least_s = 200 * FRAME_BYTES / link.rate
    assert link.now_s - began_s - 2 * delay_s <= 1.25 * least_s
    assert link.longest_queue_s <= QUEUE_S + GAIN * 2 * delay_s + 3 * (frame_s + FRAME_S)


def test_a_prompt_of_unknown_speed_begins_with_little():
    link = Link(told(0.025), 15e6 / 8, 0.025)

    link.carry([rows_of(1, step) for step in range(64)])

    assert link.longest_queue_s < 0.4


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([1, FEW_ROWS, FEW_ROWS + 1, GROUP_ROWS])),
        max_size=60,
    ),
    st.sampled_from([1e5, 1e6, 1e8]),
)
def test_each_sessions_rows_keep_their_order_and_come_once(pushes, rate):
    link, steps = Link(told(0.01), rate, 0.01), Counter[int]()
    at_once: list[RowGroup] = []
    for session, n_rows in pushes:
        rows = rows_of(session, steps[session], n_rows)
        steps[session] += 1
        if link.uplink.must_wait(rows.group):
            link.uplink.push(rows)
        else:
            assert n_rows <= FEW_ROWS
            at_once.append(rows.group)
            link.came.append(rows.group)
    link.carry([])

    assert link.uplink.n_waiting == 0
    for session in steps:
        of_it = [group for group in link.came if group.session[0] == session]
        seen = [group.step for group in of_it]
        assert seen == sorted(set(seen))
        assert sum(group.rows for group in of_it) == sum(n for s, n in pushes if s == session)


def test_sessions_take_turns():
    link = Link(told(0.001), 1e6, 0.001)

    link.carry([rows_of(1, step) for step in range(20)] + [rows_of(2, step) for step in range(2)])

    places = [at for at, group in enumerate(link.came) if group.session[0] == 2]
    assert places == [1, 3]


def test_what_is_next_to_each_other_becomes_one_group_where_the_link_is_fast():
    uplink = told(0.025)
    for step in range(4):
        uplink.push(rows_of(1, step))
    while (rows := uplink.take(0.1)) is not None:
        uplink.sent(len(rows.body), 0.1)
    uplink.arrived(uplink.mark, 0.1005)  # 256 KiB in half a millisecond

    for step in range(4, 8):
        uplink.push(rows_of(1, step))
    rows = uplink.take(0.11)

    assert rows is not None
    assert (rows.group.step, rows.group.start) == (7, 4 * GROUP_ROWS)
    assert rows.group.rows == 4 * GROUP_ROWS
    assert len(rows.body) == 4 * FRAME_BYTES


def test_a_peer_that_never_says_what_arrived_gets_all_at_once():
    uplink = Uplink()

    assert uplink.wants_word(1)
    uplink.sent(10**9, 0.0)

    assert not uplink.must_wait(rows_of(1, 0).group)


def test_words_that_are_lost_hold_a_prompt_up_for_a_moment_only():
    uplink = told(0.025)
    for step in range(40):
        uplink.push(rows_of(1, step))
    while (rows := uplink.take(1.0)) is not None:
        uplink.sent(len(rows.body), 1.0)

    assert uplink.take(1.0 + STALL_S) is None
    assert uplink.take(1.1 + STALL_S) is not None


def test_rows_of_an_earlier_epoch_leave_no_more():
    uplink = told(0.025)
    uplink.push(rows_of(1, 0))
    uplink.push(rows_of(1, 0, epoch=1))

    rows = uplink.take(0.1)

    assert rows is not None
    assert rows.group.epoch == 1
    assert uplink.take(0.1) is None


def test_word_of_a_frame_that_was_never_sent_breaks_a_rule():
    uplink = told(0.025)

    with pytest.raises(PeerMisbehaved, match="frame 7 arrived, 1 were sent"):
        uplink.arrived(7, 1.0)
