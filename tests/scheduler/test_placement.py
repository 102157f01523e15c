"""Placement: a newcomer takes what the swarm misses most."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.placement import choose_move, choose_span
from scheduler.routing import Wanted, missing_blocks
from tests.announcing import MANIFEST, announce, peer_of

N = 8


def choose(swarm: list[Announcement], capacity: int, n: int = 99) -> Span:
    return choose_span(
        swarm, manifest=MANIFEST, n_blocks=N, capacity_blocks=capacity, peer_id=peer_of(n)
    )


def move(swarm: list[Announcement], peer_id: PeerId, capacity: int = 4) -> Span | None:
    return choose_move(
        swarm, manifest=MANIFEST, n_blocks=N, capacity_blocks=capacity, peer_id=peer_id
    )


def test_a_node_that_can_hold_everything_takes_everything():
    assert choose([], capacity=80) == Span(0, 8)


def test_uncovered_blocks_come_first():
    assert choose([announce(1, (0, 3)), announce(2, (5, 8))], capacity=2) == Span(3, 5)
    assert choose([announce(1, (0, 6))], capacity=2) == Span(6, 8)


def test_the_rest_stays_coverable_by_few_nodes():
    assert {choose([], capacity=4, n=n) for n in range(20)} == {Span(0, 4), Span(4, 8)}


def test_the_slowest_blocks_are_strengthened_when_none_is_missing():
    swarm = [announce(1, (0, 4), decode_us=1_000), announce(2, (4, 8), decode_us=90_000)]

    assert choose(swarm, capacity=4) == Span(4, 8)


def test_other_models_do_not_count_and_neither_does_the_node_itself():
    swarm = [announce(1, (0, 4), manifest=bytes(32)), announce(2, (4, 8)), announce(99, (0, 4))]

    assert choose(swarm, capacity=4) == Span(0, 4)


def test_a_node_without_room_for_a_block_is_told():
    with pytest.raises(ValueError, match="a block"):
        choose([], capacity=0)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 1000)), min_size=1, max_size=8))
def test_nodes_that_join_one_after_another_cover_the_model_as_soon_as_they_can(nodes):
    swarm: list[Announcement] = []
    for n, (capacity, _) in enumerate(nodes):
        span = choose(swarm, capacity, n)
        swarm.append(announce(n, (span.start, span.stop)))

    missing = missing_blocks(swarm, Wanted(manifest=MANIFEST, n_blocks=N))
    smallest = min(capacity for capacity, _ in nodes)
    if len(nodes) * smallest >= 2 * N:
        assert missing == ()


@settings(max_examples=50)
@given(st.integers(1, 8), st.integers(0, 10_000))
def test_nodes_that_start_together_end_up_covering_the_model(capacity, first):
    n_nodes = -(-N // capacity)
    spans = {n: choose([], capacity, n) for n in range(first, first + n_nodes)}

    for _ in range(2 * n_nodes):
        swarm = [announce(n, (span.start, span.stop)) for n, span in spans.items()]
        moves = {n: move(swarm, peer_of(n), capacity) for n in spans}
        moving = {n: span for n, span in moves.items() if span is not None}
        assert len(moving) <= 1
        spans |= moving

    swarm = [announce(n, (span.start, span.stop)) for n, span in spans.items()]
    assert missing_blocks(swarm, Wanted(manifest=MANIFEST, n_blocks=N)) == ()
    assert all(move(swarm, peer_of(n), capacity) is None for n in spans)


def test_the_last_host_of_a_block_never_moves():
    swarm = [announce(1, (0, 4)), announce(2, (2, 6))]

    assert move(swarm, peer_of(1)) is None
    assert move(swarm, peer_of(2)) is None


def test_nobody_moves_while_nothing_is_missing():
    swarm = [announce(1), announce(2), announce(3, (0, 4))]

    assert all(move(swarm, peer_of(n)) is None for n in (1, 2, 3))
