"""What a token costs at one peer: decodes that share steps, prompts, and what others lose."""

from dataclasses import replace

import pytest

from protocol.announcements import Announcement
from protocol.measured import Measured
from protocol.messages import Span
from scheduler.route_cost import (
    LOST_BY_OTHERS,
    UNMEASURED_PREFILL_US,
    VISIT_MS,
    cost_of,
    prefill_us,
)
from scheduler.routing import Wanted, find_routes
from scheduler.wanted import Goal
from tests.announcing import MANIFEST, announce, peer_of

CURVE = ((1, 8_000), (9, 16_000))
WANTED = Wanted(manifest=MANIFEST, n_blocks=8, n_positions=300, n_prompt=200)


def host(n: int = 1, n_sessions: int = 0, **measured: int) -> Announcement:
    told = Measured(decode_steps_us=CURVE, **measured)
    return replace(announce(n, (0, 8), measured=told), n_sessions=n_sessions, prefill_us_per_row=0)


def test_who_says_nothing_of_shared_steps_is_thought_to_have_all_its_sessions_in_each():
    cost = cost_of(host(n_sessions=8, queue_us=800), WANTED)

    assert cost.compute_ms * 8 == pytest.approx(16.0)
    assert cost.queue_ms == pytest.approx(0.8 * 9 / 8)
    assert cost.others_ms == pytest.approx(0.8 * 9 / 8 + 8.0), "they share the step, and wait"


def whole_ms(peer: Announcement, wanted: Wanted = WANTED) -> float:
    return cost_of(peer, wanted).block_ms * 8 + cost_of(peer, wanted).visit_ms


@pytest.mark.parametrize("n_sessions", [1, 4, 8])
@pytest.mark.parametrize("queue_us", [0, 20_000])
def test_silence_about_what_steps_share_makes_nobody_much_cheaper_than_who_tells(
    n_sessions, queue_us
):
    shared_us = n_sessions * 1000  # by the curve
    told = host(1, n_sessions=n_sessions, queue_us=queue_us, shared_us=shared_us)
    silent = host(2, n_sessions=n_sessions, queue_us=queue_us)

    assert whole_ms(silent) == pytest.approx(whole_ms(told), abs=2.1)


def test_a_visit_costs_what_the_host_measured_and_what_is_usual_where_it_did_not():
    silent, told = cost_of(host(1), WANTED), cost_of(host(2, visit_us=2_000), WANTED)

    assert (silent.hop_ms, told.hop_ms) == pytest.approx((VISIT_MS, 2.0))


def test_a_route_costs_a_visit_to_each_of_its_hosts():
    def cost_ms(visit_us: int) -> float:
        told = Measured(visit_us=visit_us)
        halves = [announce(n, ((n - 1) * 4, n * 4), measured=told) for n in (1, 2)]
        return find_routes(halves, WANTED)[0].cost_ms

    assert cost_ms(2_000) - cost_ms(600) == pytest.approx(2 * 1.4)


def test_a_prompt_that_nobody_measured_is_not_free():
    long = replace(WANTED, n_positions=4000, n_prompt=3900)
    honest = replace(announce(1, (0, 8), decode_us=8_000), prefill_us_per_row=400)
    silent = replace(announce(2, (0, 8), decode_us=24_000), prefill_us_per_row=0)

    assert whole_ms(silent, long) > 3 * whole_ms(honest, long)
    assert find_routes([honest, silent], long)[0].peer_ids == (peer_of(1),)


@pytest.mark.parametrize(
    ("peer", "us"),
    [
        (replace(announce(1, (0, 8), decode_us=8_000), prefill_us_per_row=400), 50.0),
        (replace(host(), prefill_us_per_row=0), 16_000 / 9 / 8),
        (host(rows_per_s=1000), 1000 / 8),
        (replace(announce(1, (0, 8), decode_us=8_000), prefill_us_per_row=0), 1000.0),
        (replace(announce(1, (0, 8), decode_us=0), prefill_us_per_row=0), UNMEASURED_PREFILL_US),
    ],
)
def test_what_a_row_of_a_prompt_takes_is_read_off_decodes_where_nobody_says(peer, us):
    assert prefill_us(peer) == pytest.approx(us)


def test_what_rows_wait_and_share_is_taken_from_the_host_and_grows_by_one_session():
    cost = cost_of(host(n_sessions=4, queue_us=3_000, shared_us=1_000), WANTED)

    assert cost.compute_ms * 8 == pytest.approx(8.0)
    assert cost.queue_ms == pytest.approx(4.0 * 5 / 4)


def test_what_a_row_waits_for_others_they_wait_for_it_too():
    cost = cost_of(host(n_sessions=4, queue_us=3_000, shared_us=1_000), WANTED)

    assert cost.others_ms == cost.queue_ms
    assert cost_of(host(shared_us=1), WANTED).others_ms == pytest.approx(0.0, abs=0.01)


def test_a_prompt_costs_its_rows_over_the_tokens_of_the_answer_and_what_others_lose_by_it():
    alone = replace(host(), prefill_us_per_row=400)
    busy = replace(alone, n_sessions=10)

    assert cost_of(alone, WANTED).prompt_ms * 8 == pytest.approx(0.4 * 200 / 100)
    ratio = cost_of(busy, WANTED).prompt_ms / cost_of(alone, WANTED).prompt_ms
    assert ratio == pytest.approx(1 + 10 * LOST_BY_OTHERS)


def test_a_long_prompt_avoids_who_is_slow_at_prompts_and_a_short_one_does_not():
    quick = replace(announce(1, (0, 8), decode_us=9_000), prefill_us_per_row=200)
    slow = replace(announce(2, (0, 8), decode_us=8_000), prefill_us_per_row=4_000)
    short = replace(WANTED, n_prompt=1)

    assert find_routes([quick, slow], WANTED)[0].peer_ids == (peer_of(1),)
    assert find_routes([quick, slow], short)[0].peer_ids == (peer_of(2),)


def test_nobody_queues_behind_many_prompts_for_a_little_speed():
    idle, behind = host(1), host(2, backlog_us=5_000_000)
    fast = replace(behind, measured=replace(behind.measured, decode_steps_us=((1, 6_000),)))

    assert cost_of(fast, WANTED).backlog_ms == pytest.approx(5_000 / 100)
    assert find_routes([idle, fast], WANTED)[0].peer_ids == (peer_of(1),)
    assert find_routes([idle, fast], replace(WANTED, goal=Goal.THROUGHPUT)) != ()


def test_rows_that_have_to_be_run_again_count_for_who_takes_a_lost_hops_place():
    quick = replace(announce(1, (0, 8), decode_us=9_000), prefill_us_per_row=200)
    slow = replace(announce(2, (0, 8), decode_us=8_000), prefill_us_per_row=2_000)
    nearly_done = replace(WANTED, n_prompt=295)

    assert cost_of(quick, nearly_done).prompt_ms > cost_of(quick, WANTED).prompt_ms
    assert find_routes([quick, slow], nearly_done)[0].peer_ids == (peer_of(1),)
    assert Span(0, 8) == find_routes([quick, slow], nearly_done)[0].span
