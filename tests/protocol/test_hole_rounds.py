"""When holes are tried with whom."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.hole_rounds import AGAIN_S, MAX_AGAIN_S, MAX_AT_ONCE, MAX_KEPT, HoleRounds

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


def test_who_hangs_up_and_calls_again_waits_as_if_its_circuit_had_lasted():
    rounds, n_begun = HoleRounds[str](), 0
    for now_s in range(round(AGAIN_S)):
        begun = rounds.begin([ONE], [], now_s)
        n_begun += len(begun)
        assert rounds.begin([], [], now_s + 0.3) == []
        for peer in begun:
            rounds.ended(peer, now_s + 0.6)

    assert n_begun == 1
    assert rounds.begin([ONE], [], AGAIN_S + 1) == [ONE]
    rounds.ended(ONE, AGAIN_S + 1)
    assert rounds.begin([ONE], [], 3 * AGAIN_S) == []  # and each time longer
    assert rounds.begin([], [], 1e6) == []
    assert rounds.begin([ONE], [], 1e6) == [ONE]  # but not for ever


def test_a_round_counts_until_it_ends_though_its_caller_is_gone():
    rounds, crowd = HoleRounds[int](), range(1, 1 + MAX_AT_ONCE)
    assert rounds.begin(crowd, [], 0.0) == [*crowd]

    assert rounds.begin([0], [], 1.0) == []
    rounds.ended(1, 2.0)
    assert rounds.begin([0], [], 2.0) == [0]


def test_to_whom_a_hole_was_made_is_tried_at_once_when_it_comes_anew():
    rounds = HoleRounds[str]()
    assert rounds.begin([ONE], [], 0.0) == [ONE]
    rounds.ended(ONE, 2.0, is_open=True)
    assert rounds.begin([], [], 3.0) == []

    assert rounds.begin([ONE], [], 4.0) == [ONE]


def test_of_those_who_hung_up_so_many_are_remembered():
    rounds, n_all = HoleRounds[int](), MAX_KEPT + 10
    for peer in range(n_all):
        assert rounds.begin([peer], [], peer / 100) == [peer]
        rounds.ended(peer, peer / 100)

    assert rounds.begin([n_all - 1], [], 9.0) == []
    assert rounds.begin([0], [], 9.0) == [0]


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

        assert begun <= callers - holes - under_way

        under_way |= begun
        if ends:
            for peer in under_way:
                rounds.ended(peer, now_s)
            under_way.clear()
