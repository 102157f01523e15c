"""How long a search goes on, and how it rests."""

import math
import random

import pytest

from scheduler.search_time import AGAIN_S, MAX_FULL_S, SearchTime

FOR_EVER = math.inf


def searching(room_wait_s: float | None) -> SearchTime:
    time = SearchTime(5.0, room_wait_s, random.Random(1))
    time.begin()
    return time


@pytest.mark.parametrize(
    ("room_wait_s", "is_full", "has_begun", "waits_s"),
    [
        (None, False, False, 5.0),
        (None, False, True, 5.0),
        (None, True, False, FOR_EVER),
        (30.0, True, False, 30.0),
        (0.0, True, False, 5.0),
        (30.0, True, True, FOR_EVER),
    ],
)
def test_who_is_full_is_waited_for_longer_than_who_is_missing(
    room_wait_s, is_full, has_begun, waits_s
):
    time = searching(room_wait_s)
    since = time.until(FOR_EVER, is_full=False, has_begun=False) - 5.0

    until = time.until(FOR_EVER, is_full=is_full, has_begun=has_begun)

    assert until == pytest.approx(since + waits_s)
    assert time.until(since + 1.0, is_full=is_full, has_begun=has_begun) <= since + 1.0


def test_who_is_full_is_asked_less_and_less_often_and_at_no_common_moment():
    time = searching(None)
    missing = [time.rest_s(is_full=False) for _ in range(20)]
    full = [time.rest_s(is_full=True) for _ in range(200)]

    assert AGAIN_S[0] <= min(missing) <= max(missing) <= AGAIN_S[1]
    assert full[0] <= AGAIN_S[1]
    assert all(MAX_FULL_S / 4 <= rest_s <= MAX_FULL_S for rest_s in full[20:])
    assert max(full[20:]) - min(full[20:]) > MAX_FULL_S / 4
    time.over()
    assert time.rest_s(is_full=True) <= AGAIN_S[1]
