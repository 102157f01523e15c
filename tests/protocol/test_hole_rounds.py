"""When holes are tried with whom."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.hole_rounds import AGAIN_S, MAX_AGAIN_S, MAX_AT_ONCE, HoleRounds

ONE, TWO = "one", "two"
HALF_OPEN_S = 120.0  # what Linux remembers of a connection that nobody answered


def test_a_caller_is_tried_at_once_and_again_while_its_circuit_lasts_each_time_later():
    rounds, now_s, waits = HoleRounds[str](), 0.0, []
    assert rounds.begin([ONE], [], now_s) == [ONE]
    for _ in range(5):
        assert rounds.begin([ONE], [], now_s + 1e6) == []  # one is under way
        now_s += 20.0
        rounds.ended(ONE, now_s)
        ended_s = now_s
        while not rounds.begin([ONE], [], now_s):
            now_s += 1.0
        waits.append(now_s - ended_s)

    assert waits == [AGAIN_S, 2 * AGAIN_S, MAX_AGAIN_S, MAX_AGAIN_S, MAX_AGAIN_S]
    assert min(waits) > HALF_OPEN_S


def test_to_whom_there_is_a_hole_is_tried_when_it_has_closed():
    rounds = HoleRounds[str]()
    assert rounds.begin([ONE, TWO], [TWO], 0.0) == [ONE]
    rounds.ended(ONE, 5.0)

    assert rounds.begin([ONE, TWO], [ONE, TWO], 1_000.0) == []
    assert rounds.begin([ONE, TWO], [], 1_001.0) == [ONE, TWO]


def test_who_calls_anew_is_tried_anew_and_the_end_of_an_older_round_is_nothing_to_it():
    rounds = HoleRounds[str]()
    assert rounds.begin([ONE], [], 0.0) == [ONE]
    assert rounds.begin([], [], 1.0) == []
    rounds.ended(ONE, 2.0)

    assert rounds.begin([ONE], [], 3.0) == [ONE]


def test_of_a_crowd_a_few_are_tried_at_a_time_and_everybody_once():
    rounds, crowd, tried, now_s = HoleRounds[int](), range(3 * MAX_AT_ONCE), list[int](), 0.0
    while begun := rounds.begin(crowd, [], now_s):
        assert len(begun) == MAX_AT_ONCE
        assert rounds.begin(crowd, [], now_s) == []
        tried += begun
        now_s += 20.0
        for peer in begun:
            rounds.ended(peer, now_s)

    assert tried == [*crowd]


@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.sampled_from([ONE, TWO])),
            st.sets(st.sampled_from([ONE, TWO])),
            st.floats(0.1, 400.0),
            st.booleans(),
        )
    )
)
def test_nobody_is_tried_twice_at_once_or_without_a_circuit_or_beside_a_hole(steps):
    rounds, now_s, under_way = HoleRounds[str](), 0.0, set[str]()
    for callers, holes, step_s, ends in steps:
        now_s += step_s
        begun = set(rounds.begin(callers, holes, now_s))
        under_way &= callers

        assert begun <= callers - holes - under_way

        under_way |= begun
        if ends:
            for peer in under_way:
                rounds.ended(peer, now_s)
            under_way.clear()
