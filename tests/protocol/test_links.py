"""A link's pointers: what a sender sends again after a rollback that was lost on the way."""

from protocol.frames import Ack
from protocol.links import OutLink
from protocol.messages import SessionId

SESSION = SessionId(b"session-of-tests")


def sent_rows(link: OutLink, available: int, branch: int) -> list[tuple[int, int]]:
    """The runs of rows that are pushed now."""
    pushes = link.pump(SESSION, 0, branch, available, lambda start, stop: b"x" * (stop - start))
    return [(push.group.start, push.group.start + push.group.rows) for push in pushes]


def test_a_receiver_that_missed_a_rollback_is_sent_the_rows_from_where_it_began():
    link = OutLink(row_bytes=1)
    link.reset("next", 0)
    assert sent_rows(link, 10, branch=0) == [(0, 10)]
    link.fork(1, 4)
    assert sent_rows(link, 9, branch=1) == [(4, 9)]

    link.acknowledged(Ack(SESSION, 0, 10, rewind=True, branch=0), available=9)

    assert sent_rows(link, 12, branch=1) == [(4, 12)]


def test_a_receiver_that_knows_the_branch_is_believed():
    link = OutLink(row_bytes=1)
    link.reset("next", 0)
    sent_rows(link, 10, branch=0)
    link.fork(1, 4)
    sent_rows(link, 9, branch=1)

    link.acknowledged(Ack(SESSION, 0, 6, rewind=True, branch=1), available=9)

    assert sent_rows(link, 9, branch=1) == [(6, 9)]


def test_of_several_rollbacks_missed_the_lowest_counts():
    link = OutLink(row_bytes=1)
    link.reset("next", 0)
    sent_rows(link, 10, branch=0)
    for branch, start in ((1, 3), (2, 7), (3, 5)):
        sent_rows(link, 9, branch=branch - 1)
        link.fork(branch, start)

    link.acknowledged(Ack(SESSION, 0, 9, rewind=True, branch=1), available=9)

    assert sent_rows(link, 9, branch=3) == [(5, 9)]


def test_a_window_leaves_in_frames_that_follow_each_other():
    link = OutLink(row_bytes=1)
    link.reset("next", 0)

    pushes = link.pump(SESSION, 0, 0, 7, lambda start, stop: b"x" * (stop - start), at_once=3)

    assert [(push.group.start, push.group.rows) for push in pushes] == [(0, 3), (3, 3), (6, 1)]
    assert [push.group.step for push in pushes] == [0, 1, 2]
