"""The policy alone: who goes first, how much of a prompt beside decodes, nobody starves."""

from math import inf
from random import Random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.schedule import (
    LEAST_ROWS,
    MAX_STEP_US,
    MENDING_SLOWDOWN,
    PREFILL_ROWS,
    READ_ROWS,
    SLOWDOWN,
    UNKNOWN_ROWS,
    Part,
    Schedule,
    Step,
    Waiting,
)
from node.step_cost import Shape, StepCost

ALL = Part(0, 6)


def decode(session: str, start: int = 100, part: Part = ALL) -> Waiting:
    return Waiting(session, part, start, 1, inf)


def prompt(session: str, rows: int, start: int = 0, part: Part = ALL) -> Waiting:
    return Waiting(session, part, start, rows, inf)


def read(session: str, rows: int, start: int = 0) -> Waiting:
    return Waiting(session, ALL, start, rows, inf, is_read=True)


def mending(session: str, rows: int, start: int = 0) -> Waiting:
    return Waiting(session, ALL, start, rows, inf, mends=True)


def rows_of(step: Step) -> dict[object, int]:
    return {work.session: rows for work, rows in step.pieces}


def slow_machine() -> StepCost:
    """A decode takes 27 ms, a prompt's row 2 ms, as measured on a CPU."""
    return StepCost(27_000, 2_300)


def quick_machine() -> StepCost:
    """Rows cost almost nothing beside reading the weights, as on a GPU."""
    return StepCost(10_000, 160)


@pytest.mark.parametrize("cost", [slow_machine(), quick_machine()])
def test_an_answer_that_stands_still_goes_before_new_prompts_in_wide_pieces(cost):
    schedule = Schedule(cost)
    decodes = [decode(f"d{i}") for i in range(4)]
    alone = cost.step_us(schedule.next_step(decodes, 0.0).shape)
    ordinary = rows_of(schedule.next_step([prompt("new", 64), *decodes], 0.1))
    step = schedule.next_step([mending("m", 400), prompt("new", 64), *decodes], 0.2)
    mended = rows_of(step)

    assert mended.keys() >= {"d0", "d1", "d2", "d3", "m"}
    assert mended["m"] >= 2 * ordinary["new"] or mended["m"] == PREFILL_ROWS
    assert mended.get("new", 0) == 0
    assert cost.step_us(step.shape) <= MENDING_SLOWDOWN * alone


def test_a_new_prompt_that_waits_long_is_not_starved_by_answers_that_are_mended():
    schedule = Schedule(slow_machine())

    step = schedule.next_step([prompt("new", 400), mending("m", 400), decode("d")], 0.0)

    assert 0 < rows_of(step)["new"] < rows_of(step)["m"]


def test_answers_that_stand_still_are_mended_one_after_the_other():
    schedule, left = Schedule(slow_machine()), {"a": 300, "b": 310, "c": 320}
    done: list[str] = []
    for turn in range(30):
        waiting = [mending(name, rows, 330 - rows) for name, rows in left.items() if rows]
        step = schedule.next_step([*waiting, decode("d")], turn / 10)
        assert len({name for name in rows_of(step) if name != "d"} - set(done)) <= 2
        for work, rows in step.pieces:
            if work.session in left:
                left[work.session] -= rows
                done += [work.session] * (not left[work.session])
        if len(done) == 3:
            break

    assert done == ["a", "b", "c"]


@pytest.mark.parametrize("cost", [slow_machine(), quick_machine()])
def test_decodes_go_all_together_and_a_prompt_slows_them_by_a_known_share(cost):
    schedule = Schedule(cost)
    decodes = [decode(f"d{i}") for i in range(4)]
    alone = cost.step_us(schedule.next_step(decodes, 0.0).shape)

    step = schedule.next_step([prompt("p", 2048), *decodes], 0.1)

    assert {work.session for work, _ in step.pieces} == {"d0", "d1", "d2", "d3", "p"}
    assert rows_of(step)["p"] >= LEAST_ROWS
    assert cost.step_us(step.shape) <= max(
        SLOWDOWN * alone, alone + 1.01 * LEAST_ROWS * cost.row_us(0)
    )


def test_a_prompt_has_whole_chunks_when_nobody_decodes():
    schedule = Schedule(slow_machine())

    assert rows_of(schedule.next_step([prompt("p", 2048)], 0.0)) == {"p": PREFILL_ROWS}


def test_a_decoder_whose_row_is_under_way_on_its_ring_counts():
    schedule = Schedule(slow_machine())
    schedule.next_step([decode("d")], 0.0)

    soon = schedule.next_step([prompt("p", 2048)], 0.5)
    later = schedule.next_step([prompt("p", 2048)], 2.0)

    assert rows_of(soon)["p"] < 64
    assert rows_of(later)["p"] == PREFILL_ROWS, "it has gone"


def test_a_decoder_that_is_over_holds_no_prompt_back():
    schedule = Schedule(slow_machine())
    schedule.next_step([decode("d"), decode("e")], 0.0)

    schedule.over(hash("d"))
    beside_one = schedule.next_step([prompt("p", 2048)], 0.1)
    schedule.over(hash("e"))
    alone = schedule.next_step([prompt("p", 2048)], 0.2)

    assert rows_of(beside_one)["p"] < 64
    assert rows_of(alone)["p"] == PREFILL_ROWS


def test_before_anything_was_measured_a_prompt_beside_decodes_is_cut_by_habit():
    schedule = Schedule()

    step = schedule.next_step([decode("d"), prompt("p", 2048)], 0.0)

    assert rows_of(step) == {"d": 1, "p": UNKNOWN_ROWS}


def test_no_step_is_so_long_that_cancels_wait_for_it():
    cost = StepCost(500_000, 50_000)

    step = Schedule(cost).next_step([prompt("p", 2048)], 0.0)

    assert step.shape.rows > LEAST_ROWS
    assert cost.step_us(step.shape) <= 1.01 * MAX_STEP_US


def test_work_that_is_too_late_is_named_and_never_run():
    schedule = Schedule()
    late = Waiting("late", "all", 0, 5, 10.0)

    step = schedule.next_step([late, decode("d")], 10.0)

    assert step.late == (late,)
    assert rows_of(step) == {"d": 1}


def test_parts_that_have_no_block_in_common_take_turns():
    schedule, first, second = Schedule(quick_machine()), Part(0, 3), Part(3, 6)
    waiting = [prompt("a", 10**6, part=first), decode("b", part=second), decode("c", part=second)]

    turns = [schedule.next_step(waiting, i / 100).pieces[0][0].part for i in range(6)]

    assert turns == [first, second] * 3


def test_parts_that_overlap_share_a_step():
    schedule = Schedule(quick_machine())
    waiting = [decode("a", part=Part(0, 4)), decode("b", part=Part(2, 6)), decode("c", part=ALL)]

    step = schedule.next_step(waiting, 0.0)

    assert rows_of(step) == {"a": 1, "b": 1, "c": 1}


def test_rows_embedded_elsewhere_do_not_share_a_step_with_ids():
    schedule = Schedule(quick_machine())
    waiting = [decode("a"), decode("b", part=Part(0, 6, is_bare=True))]

    turns = [set(rows_of(schedule.next_step(waiting, i / 100))) for i in range(4)]

    assert turns == [{"a"}, {"b"}] * 2


def served(schedule: Schedule, waiting: list[Waiting], step: Step) -> list[Waiting]:
    """What waits after that step, the longest unserved first."""
    rows = rows_of(step)
    left = [
        Waiting(
            work.session,
            work.part,
            work.start + rows.get(work.session, 0),
            work.rows - rows.get(work.session, 0),
            work.deadline,
        )
        for work in waiting
        if work not in step.late
    ]
    return sorted((work for work in left if work.rows), key=lambda work: work.session in rows)


def test_a_short_prompt_does_not_wait_behind_a_long_one():
    schedule = Schedule(slow_machine())
    waiting, steps = [prompt("long", 100_000), prompt("short", 512)], 0
    while any(work.session == "short" for work in waiting):
        waiting = served(schedule, waiting, schedule.next_step(waiting, float(steps)))
        steps += 1

    assert steps <= 512 / (0.7 * PREFILL_ROWS) + 1


def test_a_long_prompt_moves_on_however_many_short_ones_come():
    schedule = Schedule(slow_machine())
    waiting, steps = [prompt("long", 4096)], 0
    while any(work.session == "long" for work in waiting):
        waiting.append(prompt(f"short {steps}", 200))
        waiting = served(schedule, waiting, schedule.next_step(waiting, steps * 2.0))
        steps += 1

    assert steps <= 4096 / (PREFILL_ROWS / 4) * 3


ALL_PARTS = (ALL, Part(0, 3), Part(3, 6), Part(2, 5))


def meeting(part: Part, waiting: list[Waiting]) -> list[Waiting]:
    return [work for work in waiting if work.part.meets(part)]


works = st.builds(
    lambda rows, start, part, lives: (rows, start, part, lives),
    st.integers(1, 3000),
    st.integers(0, 5000),
    st.sampled_from(ALL_PARTS),
    st.floats(0.5, 1000),
)


@given(
    arrivals=st.lists(st.lists(works, max_size=4), min_size=1, max_size=25),
    costs=st.tuples(st.floats(100, 1e5), st.floats(1, 1e4)),
    seed=st.integers(0, 999),
)
def test_every_session_is_served_in_turn_and_nobody_starves(arrivals, costs, seed):
    noise = Random(seed)
    schedule = Schedule(StepCost(*costs))
    waiting: list[Waiting] = []
    unserved: dict[object, int] = {}
    now, serial = 0.0, 0
    while arrivals or waiting:
        for rows, start, part, lives in arrivals.pop(0) if arrivals else []:
            serial += 1
            waiting.append(Waiting(serial, part, start, rows, now + lives))
        step = schedule.next_step(waiting, now)
        rows = rows_of(step)

        assert all(work.deadline <= now for work in step.late)
        assert all(work.deadline > now for work, _ in step.pieces)
        assert all(0 < n <= work.rows for work, n in step.pieces)
        assert len(rows) == len(step.pieces), "one piece per session"
        prompts = sum(n for work, n in step.pieces if not work.decodes)
        assert prompts <= PREFILL_ROWS
        if step.pieces:
            parts = {work.part for work, _ in step.pieces}
            ready = [w for w in waiting if w not in step.late]
            firsts = [
                first
                for first in {w.part for w in ready}
                if all(first.meets(part) for part in parts)
                and all(rows.get(w.session) == w.rows for w in meeting(first, ready) if w.decodes)
            ]
            assert firsts, "some part, all that meet it, and all their decodes"
            assert prompts or any(
                all(w.decodes for w in meeting(first, ready)) for first in firsts
            ), "and some of a prompt"
        for work in waiting:
            unserved[work.session] = (
                0 if work.session in rows else unserved.get(work.session, 0) + 1
            )
            assert unserved[work.session] <= 3 * (len(waiting) + 8)
        schedule.ran(step, noise.uniform(0.5, 2) * sum(costs) / 1e6)
        waiting = served(schedule, waiting, step)
        now += noise.uniform(0, 0.2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("base", "row", "pair", "sessions"),
    [(26_000, 1_900, 0.35, 4), (27_000, 2_000, 0, 1), (60_000, 4_000, 1, 16), (9_000, 20, 0.01, 8)],
)
def test_a_mixed_step_takes_what_was_promised_once_steps_were_measured(
    base, row, pair, sessions, seed
):
    """On machines whose steps follow the model but for noise and now and then a stall."""
    random = Random(seed)

    def takes(shape: Shape) -> float:
        stall = 6 if random.random() < 0.03 else 1
        return (base + row * shape.rows + pair * shape.pairs) * random.uniform(0.9, 1.1) * stall

    schedule = Schedule(StepCost(base + row, row + base / 64))
    position = 200
    for i in range(40):
        step = schedule.next_step([decode(f"d{n}", position + i) for n in range(sessions)], i / 50)
        schedule.ran(step, takes(step.shape) / 1e6)
    long, slower = prompt("p", 10**6), []
    for i in range(40, 100):
        decodes = [decode(f"d{n}", position + i) for n in range(sessions)]
        step = schedule.next_step([long, *decodes], i / 50)
        schedule.ran(step, takes(step.shape) / 1e6)
        rows = rows_of(step)["p"]
        assert rows >= LEAST_ROWS
        alone = base + row * sessions + pair * sum(work.start for work in decodes)
        least = alone + LEAST_ROWS * (row + pair * (long.start + LEAST_ROWS))
        mixed = base + row * step.shape.rows + pair * step.shape.pairs
        slower.append(mixed / max(alone, least / SLOWDOWN))
        long = prompt("p", long.rows - rows, long.start + rows)

    assert median(slower[20:]) <= 2.0


def test_an_hour_of_decoding_does_not_make_it_forget_what_a_prompt_costs():
    cost = StepCost()
    cost.saw("prefill", Shape.of((0, 256)), 25_000 + 256 * 2_000)
    for _ in range(10_000):
        cost.saw("decode", Shape(4, 400), 33_000)

    assert cost.row_us(0) == pytest.approx(2_000, rel=0.1)


def test_the_wait_for_prompts_is_longer_beside_decodes():
    schedule = Schedule(slow_machine())
    waiting = [prompt("a", 10_000), prompt("b", 10_000)]
    alone_s = schedule.backlog_s(waiting)
    schedule.next_step([decode("d"), *waiting], 0.0)

    assert alone_s == pytest.approx(2 * 10_000 * 0.002, rel=0.2)
    assert schedule.backlog_s(waiting) > 2 * alone_s


@pytest.mark.parametrize("cost", [slow_machine, quick_machine])
def test_prompts_that_are_read_get_few_rows_so_that_decodes_beside_them_go_on(cost):
    schedule = Schedule(cost())
    beside = schedule.next_step(
        [decode("a"), read("b", 300), read("c", 200), prompt("d", 100)], 0.0
    )
    alone = Schedule(cost()).next_step([read("b", 300), read("c", 200)], 0.0)

    given = rows_of(beside)
    assert 0 < given.get("b", 0) + given.get("c", 0) <= LEAST_ROWS
    assert given["a"] == 1
    assert sum(rows_of(alone).values()) == READ_ROWS


def test_a_step_in_which_prompts_are_read_says_nothing_about_what_others_take():
    schedule = Schedule(quick_machine())
    before_us = schedule.cost.step_us(Shape(64)), schedule.cost.row_us(0)

    for _ in range(20):
        schedule.ran(Step(((read("b", 64), 64), (decode("a"), 1))), 2.0)

    assert (schedule.cost.step_us(Shape(64)), schedule.cost.row_us(0)) == before_us
