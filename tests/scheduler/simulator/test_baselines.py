"""The rules we measure against do in small what their sources do: cases worked by hand."""

import random
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator import EvenSplit, ModelShape, Parallax, PeerSpec, RandomRule, World
from scheduler.simulator.parallax import pipelines, water_fill
from scheduler.simulator.petals import (
    NO_ROOM_S,
    OVERHEAD_S,
    Candidate,
    Server,
    best_start,
    block_speeds,
    cheapest_chain,
    should_move,
)
from scheduler.simulator.policies import Standing
from scheduler.simulator.simple_rules import stages
from scheduler.simulator.traces import Request
from scheduler.simulator.world import peer_id_of


def test_petals_takes_the_run_whose_weakest_block_is_weakest_and_then_the_next_weakest():
    speeds = np.array([3.0, 1.0, 2.0, 1.0, 0.0, 5.0])

    # Sorted runs of two: 1 3 | 1 2 | 1 2 | 0 1 | 0 5. The one with 0 1 is the smallest.
    assert best_start(speeds, 2) == 3
    # Without the 0: 1 3 | 1 2 | 1 2 | 1 4 | 4 5: two are equal, the first one is taken.
    assert best_start(np.array([3.0, 1.0, 2.0, 1.0, 4.0, 5.0]), 2) == 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 9))
def test_petals_choice_is_the_least_of_all_sorted_runs(speeds, length):
    length = min(length, len(speeds))
    runs = [(sorted(speeds[i : i + length]), i) for i in range(len(speeds) - length + 1)]

    assert best_start(np.array(speeds, float), length) == min(runs)[1]


def servers(*spans: tuple[int, int, float]) -> dict[PeerId, Server]:
    return {PeerId(str(i)): Server(Span(a, b), speed) for i, (a, b, speed) in enumerate(spans)}


def test_petals_moves_when_the_weakest_block_would_gain_a_third():
    # Blocks 0:2 have 3, blocks 2:4 have 1. If one of the three came over: 2 and 2. 1 / 2 < 0.75.
    crowded = servers((0, 2, 1.0), (0, 2, 1.0), (0, 2, 1.0), (2, 4, 1.0))
    # 2 and 1; if one came over, 1 and 2: nothing gained.
    balanced = servers((0, 2, 1.0), (0, 2, 1.0), (2, 4, 1.0))

    assert block_speeds(list(crowded.values()), 4).tolist() == [3, 3, 1, 1]
    assert should_move(crowded, PeerId("0"), 4, random.Random(1))
    assert not should_move(balanced, PeerId("0"), 4, random.Random(1))
    assert not should_move(crowded, PeerId("3"), 4, random.Random(1))  # the last host of 2:4


def test_petals_does_not_move_for_less_than_a_third():
    # 4 + 1 over 0:2 against 4 over 2:4. The 1 coming over makes 4 and 5: nothing for the weakest.
    swarm = servers((0, 2, 4.0), (0, 2, 1.0), (2, 4, 4.0))

    assert not should_move(swarm, PeerId("1"), 4, random.Random(1))


def test_petals_route_goes_to_the_end_of_a_span_and_shuns_who_has_no_room():
    hop_s = np.full((3, 3), 0.05)
    ends_s = np.full(3, 0.02)
    near = Candidate(Span(0, 4), 0.001, OVERHEAD_S)
    rest = Candidate(Span(4, 8), 0.001, OVERHEAD_S)
    slow = Candidate(Span(0, 8), 0.02, OVERHEAD_S)

    # Two servers: 2 x 18 ms + 8 ms + 50 ms + 2 x 20 ms = 134 ms. The slow one: 18 + 160 + 40 = 218,
    # and from its middle on, after the near one: 2 x 18 + 4 + 50 + 80 + 40 = 210.
    chain = cheapest_chain([near, rest, slow], Span(0, 8), hop_s, ends_s, ends_s)
    full = rest._replace(enter_s=OVERHEAD_S + NO_ROOM_S)
    without = cheapest_chain([near, full, slow], Span(0, 8), hop_s, ends_s, ends_s)

    assert chain == [(0, Span(0, 4)), (1, Span(4, 8))]
    assert without == [(0, Span(0, 4)), (2, Span(4, 8))]
    assert cheapest_chain([near], Span(0, 8), hop_s[:1, :1], ends_s[:1], ends_s[:1]) is None


def test_petals_enters_in_the_middle_but_never_leaves_there():
    hop_s = np.zeros((2, 2))
    ends_s = np.zeros(2)
    slow_all = Candidate(Span(0, 6), 0.1, 0.0)
    fast_end = Candidate(Span(3, 8), 0.001, 0.0)

    # Leaving the slow one at 3 would be faster; its span ends at 6, and so does its part.
    chain = cheapest_chain([slow_all, fast_end], Span(0, 8), hop_s, ends_s, ends_s)

    assert chain == [(0, Span(0, 6)), (1, Span(6, 8))]


def test_parallax_weighs_pipelines_against_stages():
    # 8 blocks. One pipeline: 8 alone, 1 / 1 = 1. Two: 8, and 4 + 4: 4 / 3. Three would need 24.
    assert pipelines([4, 8, 4, 2], 8) == [[1], [0, 2]]
    # One of 6 + 2: 1 / 2. Two need all four: 6 + 2 and 4 + 4: 4 / 4. Two it is.
    assert sorted(map(sorted, pipelines([6, 4, 4, 2], 8))) == [[0, 3], [1, 2]]
    assert pipelines([3, 4], 8) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_parallax_finds_the_best_of_all_ways_to_make_pipelines(sizes):
    n_blocks = 6
    best = 0.0
    for assigned in product(range(len(sizes) + 1), repeat=len(sizes)):
        groups = [[i for i, g in enumerate(assigned) if g == k] for k in set(assigned) if k > 0]
        if groups and all(sum(sizes[i] for i in group) >= n_blocks for group in groups):
            best = max(best, len(groups) ** 2 / sum(map(len, groups)))

    found = pipelines(sizes, n_blocks)

    assert all(sum(sizes[i] for i in pipeline) >= n_blocks for pipeline in found)
    value = len(found) ** 2 / sum(map(len, found)) if found else 0.0
    assert value == pytest.approx(best)


def test_parallax_fills_in_proportion_to_speed_as_far_as_memory_goes():
    # Level 2: 6 + 2 + ... in proportion 3 : 1 they would be 6 and 2.
    assert water_fill([8, 8], [3.0, 1.0], 8) == [6, 2]
    # The fast one holds 4 only; the rest goes to the slow one.
    assert water_fill([4, 8], [3.0, 1.0], 8) == [4, 4]
    # 8 / 3 each: two whole blocks, and the two left over to the largest remainders, first first.
    assert water_fill([8, 8, 8], [1.0, 1.0, 1.0], 8) == [3, 3, 2]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.1, 10)), min_size=1, max_size=6),
    st.floats(0.1, 1.0),
)
def test_parallax_filling_covers_the_model_and_overfills_nobody(peers, share):
    capacities, speeds = [c for c, _ in peers], [f for _, f in peers]
    n_blocks = max(1, int(sum(capacities) * share))

    blocks = water_fill(capacities, speeds, n_blocks)

    assert sum(blocks) == n_blocks
    assert all(0 <= b <= c for b, c in zip(blocks, capacities, strict=True))


# --- whole rules, on a swarm of a few hosts -------------------------------------------------------

MODEL = ModelShape(n_blocks=8, block_bytes=100_000_000, row_bytes=1000, kv_bytes=100)
ASKED = Request(0.0, "eu", 100, 100)


def host(n: int, capacity: int = 8, block_ms: float = 1.0) -> PeerSpec:
    return PeerSpec(
        peer_id=peer_id_of(n),
        region="eu",
        block_s=block_ms / 1000,
        prefill_block_s=0.0001,
        capacity_blocks=capacity,
        kv_bytes=10_000_000,
        last_mile_s=0.0,
    )


@dataclass
class Swarm:
    """What rules look at: hosts 20 ms from each other, and what they serve or wait with."""

    specs: list[PeerSpec]
    spans: list[tuple[int, int] | None]
    sessions: list[int] = field(default_factory=list)
    full: set[int] = field(default_factory=set)
    now_s: float = 60.0

    def __post_init__(self) -> None:
        self.world = World(MODEL, self.specs, region_rtt_ms={("eu", "eu"): 40.0})
        self.announcements = ()

    @property
    def standing(self) -> dict[PeerId, Standing]:
        return {
            spec.peer_id: Standing(
                spec,
                Span(*span) if span else None,
                span is not None,
                0 if i in self.full else spec.kv_bytes,
                self.sessions[i] if self.sessions else 0,
                0.0,
            )
            for i, (spec, span) in enumerate(zip(self.specs, self.spans, strict=True))
        }

    def ask_load(self, peer_id: PeerId) -> None:
        return None


def route(rule, swarm: Swarm, rng: random.Random | None = None) -> list[tuple[int, int, int]]:
    """(host, blocks) of the chain that it takes."""
    chain = rule.route(swarm, ASKED, (), rng or random.Random(1)) or ()
    index = swarm.world.index
    return [(index[seat.peer_id], seat.span.start, seat.span.stop) for seat in chain]


def joined(rule, swarm: Swarm, n: int) -> dict[int, tuple[int, int]]:
    spans = rule.joined(swarm, peer_id_of(n), random.Random(1))
    index = swarm.world.index
    return {index[peer]: (span.start, span.stop) for peer, span in spans.items()}


def test_with_parallax_a_peer_that_comes_takes_the_blocks_that_fewest_have_from_there_on():
    specs = [host(0, 4), host(1, 4), host(2, 4), host(3, 3), host(4, 8)]
    swarm = Swarm(specs, [(0, 4), (0, 4), (4, 8), None, None])

    # 2 2 2 2 1 1 1 1: from block 4, as many as fit; of one that could hold all, to the model's end.
    assert joined(Parallax(dynamic=True), swarm, 3) == {3: (4, 7)}
    assert joined(Parallax(dynamic=True), swarm, 4) == {4: (4, 8)}
    # Then 2 2 2 2 2 2 2 1: the last block alone.
    swarm.spans[3] = (4, 7)
    assert joined(Parallax(dynamic=True), swarm, 4) == {4: (7, 8)}


def test_with_parallax_everything_is_laid_out_anew_where_a_block_has_nobody():
    swarm = Swarm([host(0, 4), host(1, 4), host(2, 8)], [(0, 4), None, None])

    # 8 in one pipeline: 1 / 1; with 4 + 4 beside it two of three stages: 4 / 3.
    assert joined(Parallax(dynamic=True), swarm, 2) == {0: (0, 4), 1: (4, 8), 2: (0, 8)}


def test_parallax_takes_the_chain_of_whole_spans_with_the_least_latency():
    # 0:4 and 4:8 at 1 ms a block, 40 ms to the other and back: 4 + 4 + 40 = 48 ms. All eight at
    # 5 ms: 40; at 7 ms: 56. 3:8 at 0.1 ms begins where nobody ends.
    def hosts(whole_ms: float, **more: object) -> Swarm:
        specs = [host(0), host(1), host(2, block_ms=whole_ms), host(3, block_ms=0.1)]
        return Swarm(specs, [(0, 4), (4, 8), (0, 8), (3, 8)], **more)  # type: ignore[arg-type]  # its own

    rule = Parallax(dynamic=True)
    assert route(rule, hosts(5.0)) == [(2, 0, 8)]
    assert route(rule, hosts(7.0)) == [(0, 0, 4), (1, 4, 8)]
    assert route(rule, hosts(7.0, full={1})) == [(2, 0, 8)], "the other has no room"
    assert route(rule, hosts(7.0, full={1, 2})) == []
    # As its source counts: 7 ms once, not eight times, against 1 + 1 + 40.
    assert route(Parallax(dynamic=True, per_shard=False), hosts(7.0)) == [(2, 0, 8)]


def test_parallax_by_default_sends_requests_round_its_pipelines():
    swarm = Swarm([host(0, 4), host(1, 4), host(2, 8)], [None, None, None], now_s=0.0)
    rule = Parallax()
    assert joined(rule, swarm, 2) == {0: (0, 4), 1: (4, 8), 2: (0, 8)}

    swarm.spans = [(0, 4), (4, 8), (0, 8)]
    taken = [route(rule, swarm) for _ in range(4)]

    assert taken == [[(0, 0, 4), (1, 4, 8)], [(2, 0, 8)]] * 2


def test_even_split_makes_stages_that_three_of_four_can_hold_and_fills_the_emptiest():
    specs = [host(0, 8), host(1, 4), host(2, 5), host(3, 2)]
    swarm = Swarm(specs, [(0, 4), None, None, None])

    # Capacities 8 5 4 2: the third largest is 4, so that 8 blocks make two stages.
    assert stages(swarm.world) == (Span(0, 4), Span(4, 8))
    assert joined(EvenSplit(), swarm, 1) == {1: (4, 8)}
    assert joined(EvenSplit(), swarm, 3) == {}, "it holds no stage"
    swarm.spans[1] = (4, 8)
    assert joined(EvenSplit(), swarm, 2) == {2: (0, 4)}, "one each: the first"


def test_even_split_moves_one_of_several_where_a_stage_lost_its_last():
    swarm = Swarm([host(0, 4), host(1, 4), host(2, 4)], [(0, 4), (0, 4), None])

    moved = EvenSplit().left(swarm, peer_id_of(2), random.Random(1))

    assert list(moved.values()) == [Span(4, 8)]
    assert set(moved) <= {peer_id_of(0), peer_id_of(1)}


def test_even_split_gives_each_stage_s_work_to_who_has_the_fewest_answers():
    swarm = Swarm([host(n, 4) for n in range(4)], [(0, 4), (0, 4), (4, 8), (4, 8)], [3, 1, 0, 2])

    assert route(EvenSplit(), swarm) == [(1, 0, 4), (2, 4, 8)]


class Dice(random.Random):
    """Whose next whole number is known."""

    def __init__(self, falls: int) -> None:
        super().__init__(1)
        self._falls = falls

    def randint(self, a: int, b: int) -> int:
        assert a <= self._falls <= b
        return self._falls


def test_random_places_fall_beyond_both_ends_too_and_are_pushed_back():
    swarm = Swarm([host(0, 4)], [None])

    def place(fall: int) -> Span:
        return RandomRule().joined(swarm, peer_id_of(0), Dice(fall))[peer_id_of(0)]

    # Four blocks of eight, from -3 to 7: the ends get 4 of 11 each, what lies between one each.
    starts = [place(fall).start for fall in range(-3, 8)]
    assert starts == [0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4]
    assert all(len(place(fall)) == 4 for fall in range(-3, 8))


@given(st.integers(0, 1_000))
def test_a_random_chain_uses_each_host_it_draws_to_its_end_and_none_twice(seed):
    swarm = Swarm([host(n) for n in range(4)], [(0, 5), (0, 3), (3, 8), (2, 8)])

    chain = route(RandomRule(), swarm, random.Random(seed))

    assert chain in (
        [(0, 0, 5), (2, 5, 8)],
        [(0, 0, 5), (3, 5, 8)],
        [(1, 0, 3), (0, 3, 5), (2, 5, 8)],
        [(1, 0, 3), (0, 3, 5), (3, 5, 8)],
        [(1, 0, 3), (2, 3, 8)],
        [(1, 0, 3), (3, 3, 8)],
    )
    assert route(RandomRule(), Swarm([host(0)], [(0, 7)]), random.Random(seed)) == []
