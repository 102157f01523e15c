"""What a node says of its speed and load follows what its steps really take."""

import pytest

from node.engine import load_shard
from node.throughput import BATCHES, Speeds, measure
from node.vitals import STUCK_S, WAIT_AGE_S, Vitals
from node.work import Load, Seen

SPEEDS = Speeds(((1, 1000), (4, 1300), (16, 2500)), 100, 200)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def load():
    return Load()


@pytest.fixture
def vitals(load, clock):
    return Vitals(SPEEDS, 4, load, now_s=clock)


def decode(rows=1, us=1000.0, n_blocks=4, waits_us=()):
    return Seen("decode", n_blocks, rows, us, tuple(waits_us))


def test_a_real_span_is_measured_alone_and_with_several_sessions(checkpoint):
    speeds = measure(load_shard(checkpoint("llama"), None, dtype="float32"))

    assert [size for size, _ in speeds.decode_steps_us] == list(BATCHES)
    times = [us for _, us in speeds.decode_steps_us]
    assert times == sorted(times)
    assert speeds.decode_us == times[0] > 0
    assert speeds.prefill_us_per_row > 0
    assert 0 <= speeds.fixed_us < speeds.decode_us


def test_a_model_of_few_positions_is_measured_as_far_as_they_go(checkpoint):
    engine = load_shard(checkpoint("llama", max_position_embeddings=16), None, dtype="float32")

    assert measure(engine).decode_us > 0


def test_what_is_announced_begins_with_what_was_measured_at_the_start(vitals):
    assert vitals.measured().decode_steps_us == SPEEDS.decode_steps_us
    assert (vitals.decode_us, vitals.prefill_us_per_row, vitals.fixed_us) == (1000, 100, 200)


def test_a_node_that_became_slower_says_so_for_sizes_it_did_not_run_too(vitals):
    for _ in range(20):
        vitals.saw(decode(us=3000))

    assert vitals.decode_steps_us == ((1, 3000), (4, 3900), (16, 7500))
    assert vitals.fixed_us == 600


def test_one_slow_step_changes_nothing(vitals):
    for step in range(20):
        vitals.saw(decode(us=50_000 if step == 7 else 1000))

    assert vitals.decode_us == 1000


def test_steps_that_are_slow_now_and_again_are_told_as_clients_feel_them(vitals):
    for step in range(64):
        vitals.saw(decode(us=3000 if step % 4 == 0 else 1000))

    assert vitals.decode_us == 1500  # the median step would promise 1000


def test_steps_through_a_part_of_the_span_are_held_against_that_part(vitals):
    for _ in range(20):
        vitals.saw(decode(us=600, n_blocks=2))  # 200 fixed, and half of the 800 of four blocks

    assert vitals.decode_us == 1000


def test_a_size_between_two_that_were_measured_is_held_against_what_lies_between(vitals):
    for _ in range(20):
        vitals.saw(decode(rows=10, us=1900 * 2))

    assert vitals.decode_steps_us[2] == (16, 5000)


def test_what_was_slow_long_ago_is_forgotten(vitals, clock):
    for _ in range(20):
        vitals.saw(decode(us=3000))
    clock.now += 3600

    assert vitals.decode_us == 1000


def test_prompts_drift_by_themselves(vitals):
    for _ in range(20):
        vitals.saw(Seen("prefill", 4, 64, 64 * 150.0, ()))

    assert (vitals.prefill_us_per_row, vitals.decode_us) == (150, 1000)


def test_the_queue_is_as_long_as_rows_waited_lately(vitals, clock):
    vitals.saw(decode(waits_us=[1000, 3000]))
    assert vitals.measured().queue_us == 2000

    clock.now += WAIT_AGE_S + 1

    assert vitals.measured().queue_us == 0


def test_rows_that_waited_for_nobody_make_the_queue_shorter(vitals):
    vitals.saw(decode(rows=4, waits_us=[2000, 0, 0, 0]))

    assert vitals.measured().queue_us == 500


def visit(came_us: float, left_us: float) -> Seen:
    return Seen("decode", 4, 1, 1000.0, (0.0,), (came_us,), left_us)


def test_a_visit_is_the_way_to_a_step_and_on_from_there(vitals, clock):
    assert vitals.measured().visit_us == 0, "nobody was here yet"

    for step in range(20):
        vitals.saw(visit(50_000.0 if step == 7 else 300.0, 700.0))

    assert vitals.measured().visit_us == 1000, "a hiccup changes nothing"
    assert vitals.measured().queue_us == 0, "who is handed over waits for nobody"

    clock.now += 3600

    assert vitals.measured().visit_us == 0


def test_rows_that_waited_for_others_say_nothing_about_a_visit(vitals):
    for _ in range(20):
        vitals.saw(visit(300.0, 700.0))
        vitals.saw(Seen("decode", 4, 1, 1000.0, (9_000.0,), (), 700.0))

    assert vitals.measured().visit_us == 1000


def test_what_rows_share_is_how_much_longer_their_steps_take_than_alone(vitals, clock):
    assert vitals.measured().shared_us == 1  # nothing, which is not the same as not knowing

    vitals.saw(Seen("decode", 4, 1, 1000.0, ()))
    vitals.saw(Seen("mixed", 4, 3, 3000.0, ()))
    vitals.saw(Seen("prefill", 4, 64, 64 * 150.0, ()))

    assert vitals.measured().shared_us == pytest.approx(3 * 2000 / 4, abs=1)

    clock.now += WAIT_AGE_S + 1

    assert vitals.measured().shared_us == 1


def test_steps_in_which_prompts_are_read_say_nothing_about_others_but_that_these_waited(vitals):
    for _ in range(20):
        vitals.saw(Seen("read", 4, 17, 90_000.0, (2000.0,)))

    assert (vitals.measured().shared_us, vitals.measured().queue_us) == (1, 2000)
    assert (vitals.decode_us, vitals.prefill_us_per_row) == (1000, 100)


def test_steps_that_are_now_slower_and_now_faster_share_nothing(vitals):
    for spent_us in (1200.0, 800.0, 1100.0, 900.0):
        vitals.saw(Seen("decode", 4, 1, spent_us, ()))

    assert vitals.measured().shared_us == 1


def test_a_hiccup_in_a_step_that_a_row_had_to_itself_is_nothing_that_it_shared(vitals):
    for spent_us in (1000.0,) * 9 + (90_000.0,):
        vitals.saw(Seen("decode", 4, 1, spent_us, ()))

    assert vitals.measured().shared_us == 1


def test_prompts_that_wait_are_told(vitals, load):
    load.backlog_s = 1.5

    assert vitals.measured().backlog_us == 1_500_000


def test_a_stuck_node_does_not_look_idle(vitals, load, clock):
    load.busy_since_s = clock.now
    assert vitals.measured().queue_us == 0

    clock.now += STUCK_S + 5

    assert vitals.measured().queue_us == pytest.approx((STUCK_S + 5) * 1e6)
    load.busy_since_s = None
    assert vitals.measured().queue_us == 0


def test_rows_per_second_are_those_of_the_last_half_minute(vitals, load, clock):
    for _ in range(100):
        clock.now += 1
        load.rows += 10
        vitals.saw(decode())
    assert vitals.measured().rows_per_s == pytest.approx(10, rel=0.1)

    clock.now += 300
    vitals.measured()
    clock.now += 30

    assert vitals.measured().rows_per_s == 0


def test_where_nothing_could_be_measured_nothing_is_said(load, clock):
    vitals = Vitals(Speeds(), 4, load, now_s=clock)
    vitals.saw(decode())

    assert vitals.measured().decode_steps_us == ()
    assert (vitals.decode_us, vitals.prefill_us_per_row) == (0, 0)
