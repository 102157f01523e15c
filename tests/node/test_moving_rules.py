"""Nodes that want to move at the same time never leave a block alone."""

import random
from dataclasses import replace
from functools import lru_cache

from hypothesis import given
from hypothesis import strategies as st

from node.moving_rules import Pace, Target, as_it_will_be, lot, movers, orphans
from protocol.announcements import Announcement
from protocol.measured import Measured, State
from protocol.messages import Span
from tests.announcing import MANIFEST, announce, peer_of

N_BLOCKS = 8
HALF, WAIT = 10, 20  # a word takes at most half of the wait

spans = st.tuples(st.integers(0, N_BLOCKS - 1), st.integers(1, N_BLOCKS)).map(
    lambda pair: (pair[0], min(N_BLOCKS, pair[0] + pair[1]))
)


@lru_cache(maxsize=2000)
def in_state(n: int, span: tuple[int, int], state: State) -> Announcement:
    return announce(n, span, measured=Measured(state=state))


def target(span: tuple[int, int]) -> Target:
    return Target(MANIFEST, Span(*span))


def alone(table: list[Announcement], n: int, to: tuple[int, int]) -> tuple[int, ...]:
    own = next(one for one in table if one.peer_id == peer_of(n))
    assert own.span is not None
    return orphans(table, own.peer_id, Target(MANIFEST, own.span), target(to))


def test_the_only_host_of_a_block_stays():
    table = [announce(1, (0, 4)), announce(2, (4, 8))]

    assert alone(table, 1, (4, 8)) == (0, 1, 2, 3)


def test_whoever_drains_or_moves_is_no_host_to_rely_on():
    serving = [announce(1, (0, 4)), announce(2, (4, 8))]

    for state in (State.MOVING, State.DRAINING):
        assert alone([*serving, in_state(3, (0, 4), state)], 1, (4, 8)) == (0, 1, 2, 3)
    assert alone([*serving, in_state(3, (0, 4), State.SERVING)], 1, (4, 8)) == ()


def test_a_broken_swarm_may_be_mended_by_a_shift_of_what_nobody_can_use():
    table = [announce(1, (0, 4)), announce(2, (2, 6))]  # 6 and 7 are missing

    assert alone(table, 2, (4, 8)) == ()
    assert alone(table, 2, (6, 8)) == (4, 5)


def test_a_whole_swarm_is_not_broken_even_for_a_while():
    table = [announce(1, (0, 4)), announce(2, (2, 8))]

    assert alone(table, 2, (4, 8)) == (4, 5, 6, 7)


@given(st.lists(spans, min_size=1, max_size=8), st.data())
def test_of_all_who_speak_at_once_so_many_stay_that_no_block_is_left_alone(hosts, data):
    moving = data.draw(st.sets(st.integers(0, len(hosts) - 1)))
    to = data.draw(spans)
    table = [
        in_state(n, span, State.MOVING if n in moving else State.SERVING)
        for n, span in enumerate(hosts)
    ]

    going = {n for n in moving if not alone(as_it_will_be(table, peer_of(n), ()), n, to)}

    whole = len(covered(hosts)) == N_BLOCKS
    after = {n: span for n, span in enumerate(hosts) if n not in going}
    if not whole:  # then only what comes of it counts
        after |= dict.fromkeys(going, to)
    assert covered(hosts) <= covered(after.values())


@given(
    st.lists(st.tuples(spans, st.integers(0, 60)), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
)
def test_words_that_take_up_to_half_the_wait_are_early_enough(nodes, rng):
    delays = {(i, j): rng.randint(0, HALF) for i in range(len(nodes)) for j in range(len(nodes))}
    left = who_leaves(nodes, delays)

    whole = len(covered([span for span, _ in nodes])) == N_BLOCKS
    stay = [span for n, (span, _) in enumerate(nodes) if n not in left]
    ends_at = [(0, 1)] if left and not whole else []
    assert covered([span for span, _ in nodes]) <= covered([*stay, *ends_at])


def test_lots_that_go_round_in_a_circle_with_who_heard_whom_leave_nobody_alone():
    """The third heard the first before it spoke, the second spoke at the same time as both."""
    first, second, third = 0, 1, 2
    assert lot(peer_of(first)) < lot(peer_of(second)) < lot(peer_of(third))
    hosts = [((0, N_BLOCKS), 0), ((0, N_BLOCKS), 8), ((0, N_BLOCKS), 13)]

    left = who_leaves(hosts, {(i, j): HALF for i in range(3) for j in range(3)})

    assert len(left) == 2


def who_leaves(nodes, delays) -> set[int]:
    """Everybody wants to go, at a time of its own, to where it needs nobody's blocks."""
    spoke: dict[int, int] = {}
    withdrew: dict[int, int] = {}
    gone: dict[int, list[Announcement]] = {}
    left: set[int] = set()
    for now in range(100):
        for n, (_, speaks_at) in enumerate(nodes):
            table = heard([span for span, _ in nodes], spoke, withdrew, delays, n, now)
            if now == speaks_at:
                if not alone(table, n, (0, 1)):
                    spoke[n], gone[n] = now, movers(table, peer_of(n))
            elif n in spoke and now == spoke[n] + WAIT:
                seen = as_it_will_be(table, peer_of(n), gone[n])
                if alone(seen, n, (0, 1)):
                    withdrew[n] = now
                else:
                    left.add(n)
    return left


def heard(hosts, spoke, withdrew, delays, listener, now) -> list[Announcement]:
    """The table of one node: what others said, when it has come."""
    table = []
    for n, span in enumerate(hosts):
        delay = 0 if n == listener else delays[n, listener]
        is_moving = n in spoke and spoke[n] + delay <= now
        is_back = n in withdrew and withdrew[n] + delay <= now
        state = State.MOVING if is_moving and not is_back else State.SERVING
        table.append(in_state(n, span, state))
    return table


def covered(hosts) -> set[int]:
    return {block for start, stop in hosts for block in range(start, stop)}


def test_those_who_were_on_the_move_before_are_gone_whatever_their_lot():
    first, second = sorted((1, 2), key=lambda n: lot(peer_of(n)))
    table = [in_state(1, (0, 8), State.MOVING), in_state(2, (0, 8), State.MOVING)]

    seen = as_it_will_be(table, peer_of(second), gone=table[:1] if first == 1 else table[1:])

    states = {one.peer_id: one.measured.state for one in seen}
    assert states[peer_of(first)] is State.MOVING
    assert states[peer_of(second)] is State.SERVING


def test_looks_become_rare_unless_a_block_is_missing():
    pace, rng = Pace(jitter=0.0), random.Random(1)

    looks = [pace.look_s(n, rng, is_whole=True) for n in range(1000)]

    assert looks == sorted(looks)
    assert (looks[0], looks[-1]) == (pace.first_s, pace.last_s)
    assert pace.look_s(1000, rng, is_whole=False) == pace.first_s


def test_a_node_moves_a_few_times_an_hour_however_the_table_looks():
    pace = replace(Pace(), jitter=0.0)
    spent_s, n = 0.0, 0
    while spent_s < 3600:
        n += 1
        spent_s += pace.pause_s(n, random.Random(1))

    assert n <= 12
