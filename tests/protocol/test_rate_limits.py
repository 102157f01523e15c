"""Rate limits: a flooding sender is refused, others do not notice, memory is bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.rate_limits import Limit, RateLimit

TEN = Limit(per_s=10, burst=20)


def test_a_sender_gets_its_burst_and_then_its_rate():
    limit = RateLimit(TEN)

    at_once = sum(limit.take("mallory", 1, now_s=0) for _ in range(100))
    later = sum(limit.take("mallory", 1, now_s=0.5) for _ in range(100))

    assert (at_once, later) == (20, 5)


def test_others_do_not_notice_a_flood():
    limit = RateLimit(TEN)

    for _ in range(1000):
        limit.take("mallory", 1, now_s=0)

    assert limit.take("alice", 20, now_s=0)


def test_what_is_owed_delays_the_next_request_but_not_for_ever():
    limit = RateLimit(TEN)

    limit.owe("alice", 1e9, now_s=0)

    assert not limit.take("alice", 1, now_s=2)
    assert limit.take("alice", 1, now_s=2.2)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5), st.floats(0, 1)), max_size=50),
)
def test_nobody_ever_gets_more_than_burst_and_rate_allow(requests):
    limit, now_s, taken = RateLimit(TEN), 0.0, {"a": 0.0, "b": 0.0}

    for sender, amount, wait_s in requests:
        now_s += wait_s
        if limit.take(sender, amount, now_s):
            taken[sender] += amount

    assert all(each <= 20 + 10 * now_s + 1e-6 for each in taken.values())


def test_a_crowd_of_names_takes_bounded_memory_and_shares_one_bucket():
    limit = RateLimit(TEN, max_senders=50)
    for n in range(50):
        limit.take(f"honest {n}", 1, now_s=0)

    passed = sum(limit.take(f"sybil {n}", 1, now_s=0) for n in range(10_000))

    assert len(limit) == 50
    assert passed == 20
    assert limit.take("honest 3", 19, now_s=0), "whoever was known before keeps its own"


def test_senders_that_were_silent_make_room():
    limit = RateLimit(TEN, max_senders=2)
    limit.take("old", 20, now_s=0)
    limit.take("older still", 20, now_s=0)

    limit.take("new", 1, now_s=10)

    assert len(limit) == 2
    assert not limit.take("new", 20, now_s=10), "it has a bucket of its own"


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (-1, 5), (10, 5), (float("nan"), 1)])
def test_a_limit_that_never_refills_cannot_be_made(per_s, burst):
    with pytest.raises(ValueError, match="refills"):
        Limit(per_s, burst)
