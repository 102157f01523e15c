"""Who may serve a session, what a peer costs in parts, and what a client's limits leave."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.meter import Rates, Usage, price
from ledger.objects import Offer
from protocol.announcements import Announcement, Link
from protocol.constraints import Group
from protocol.errors import UsageError
from protocol.measured import Measured, State
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from scheduler.affording import route_ncr
from scheduler.candidates import candidates
from scheduler.latency import UNKNOWN_MS, Latencies
from scheduler.prices import asked, price_of
from scheduler.route_cost import SHARE_PER_SESSION, VISIT_MS, cost_of
from scheduler.routing import find_routes, missing_blocks
from scheduler.wanted import Constraint, Goal, Limits, Wanted
from tests.announcing import MANIFEST, announce, key_of, peer_of

N = 8
WANTED = Wanted(manifest=MANIFEST, n_blocks=N)


def offer(n: int, **rates: int) -> bytes:
    """Peer `n`'s, in ncr per million."""
    key = key_of(n)
    return (
        Offer(
            provider=key.public_key,
            offer_no=1,
            manifest=MANIFEST,
            layer_lo=0,
            layer_hi=N,
            exec_profile="float32/none/float32",
            rates=Rates(**rates),
            max_ctx=4096,
            not_before_ms=0,
            expires_ms=10**13,
        )
        .seal(OPEN_SWARM_ID, key)
        .encode()
    )


def limited(**limits: object) -> Wanted:
    return replace(WANTED, limits=Limits(**limits))


PRICED = announce(1, offer=offer(1, prefill_tl=500, decode_tl=500))


@pytest.mark.parametrize(
    ("wanted", "peer", "why"),
    [
        (WANTED, announce(1), None),
        (WANTED, announce(1, manifest=bytes(32)), Constraint.MODEL),
        (WANTED, announce(1, None), Constraint.MODEL),
        (WANTED, announce(1, measured=Measured(state=State.DRAINING)), Constraint.STATE),
        (WANTED, announce(1, measured=Measured(state=State.MOVING)), Constraint.STATE),
        (WANTED, announce(1, measured=Measured(group="lab")), Constraint.GROUP),
        (limited(groups=(Group("lab"),)), announce(1, measured=Measured(group="lab")), None),
        (limited(groups=(Group("lab"),)), announce(1), Constraint.GROUP),
        (limited(regions=("eu",)), announce(1, region="eu-west"), None),
        (limited(regions=("eu",)), announce(1, region="europa"), Constraint.REGION),
        (limited(regions=("eu",)), announce(1), Constraint.REGION),
        (limited(avoid=(peer_of(1),)), announce(1), Constraint.AVOID),
        (replace(WANTED, avoid=[peer_of(1)]), announce(1), Constraint.AVOID),
        (limited(max_price=500), PRICED, None),
        (limited(max_price=499), PRICED, Constraint.PRICE),
        (limited(max_price=0), announce(1), None),
        (WANTED, announce(1, offer=b"no offer"), Constraint.PRICE),
    ],
)
def test_each_constraint_rules_out_whom_it_should(wanted, peer, why):
    assert wanted.rules_out(peer) is why
    assert bool(find_routes([peer], wanted)) == (why is None)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_candidates_are_those_that_nothing_rules_out(data):
    swarm = [
        announce(
            n,
            region=data.draw(st.sampled_from(["", "eu", "us"])),
            profile=data.draw(st.sampled_from(["float32/none/float32", "bfloat16/none/bfloat16"])),
            max_positions=data.draw(st.sampled_from([100, 5000])),
            measured=Measured(state=data.draw(st.sampled_from(State))),
        )
        for n in range(5)
    ]
    regions = data.draw(st.sampled_from([(), ("eu",)]))
    wanted = replace(
        WANTED,
        n_positions=data.draw(st.sampled_from([0, 100, 101, 5001])),
        avoid=frozenset({peer_of(data.draw(st.integers(0, 9)))}),
        limits=Limits(regions=regions),
    )

    for _ in range(2):  # the second time from memory
        found = candidates(swarm, wanted, slowdown={}, extra_ms={}, seed=3)

        names = sorted(peer.peer_id for group in found for peer in group.peers)
        assert names == sorted(p.peer_id for p in swarm if wanted.rules_out(p) is None)
        assert all(len({peer.profile for peer in group.peers}) == 1 for group in found)


def test_columns_say_what_is_said_of_each_peer_alone():
    room = Measured(position_bytes=2**19, queue_us=700, decode_steps_us=((1, 8000), (4, 9500)))
    swarm = [announce(1, offer=PRICED.offer), announce(2, (2, 6), measured=room, n_sessions=2)]
    wanted = replace(WANTED, n_positions=1500)
    believed = {peer_of(2): 1.5}, {peer_of(1): 0.25}

    [group] = candidates(swarm, wanted, slowdown=believed[0], extra_ms=believed[1], seed=0)

    for i, peer in enumerate(group.peers):
        alone = cost_of(
            peer,
            wanted,
            slowdown=believed[0].get(peer.peer_id, 1.0),
            extra_ms=believed[1].get(peer.peer_id, 0.0),
        )
        assert [column[i] for column in group.cost.parts()] == pytest.approx(alone.parts())


def test_a_record_that_is_new_is_read_and_the_others_are_remembered():
    swarm = [announce(1), announce(2)]

    def fastest(peers):
        [group] = candidates(peers, WANTED, slowdown={}, extra_ms={}, seed=0)
        return group.peers[int(group.cost.compute_ms.argmin())].peer_id, len(group.peers)

    assert fastest([*swarm, announce(3, decode_us=100)]) == (peer_of(3), 3)
    assert fastest([*swarm, announce(3, decode_us=90_000), announce(4, decode_us=500)]) == (
        peer_of(4),
        4,
    )
    assert fastest([announce(1, decode_us=50), swarm[1]]) == (peer_of(1), 2)


def test_a_step_is_read_off_the_curve_at_the_size_it_would_have():
    curve = Measured(decode_steps_us=((1, 8000), (4, 11_000), (8, 19_000)))

    def step_ms(n_sessions: int) -> float:
        peer = announce(1, measured=curve, n_sessions=n_sessions)
        return cost_of(peer, WANTED).compute_ms * N

    assert step_ms(0) == pytest.approx(8)
    assert step_ms(1) == pytest.approx(9)
    assert step_ms(5) == pytest.approx(15)
    assert step_ms(15) == pytest.approx(35)  # straight on behind the last one
    one = announce(1, measured=Measured(decode_steps_us=((1, 8000),)), n_sessions=2)
    assert cost_of(one, WANTED).compute_ms * N == pytest.approx(8 * (1 + 2 * SHARE_PER_SESSION))


def test_a_queue_adds_to_every_visit_for_us_and_for_others_and_a_slow_peer_is_slow_in_all():
    peer = announce(1, measured=Measured(queue_us=3000))

    assert cost_of(peer, WANTED).visit_ms == pytest.approx(VISIT_MS + 3 + 3)
    slow = cost_of(peer, WANTED, slowdown=2.0, extra_ms=1.0)
    assert (slow.block_ms, slow.visit_ms) == pytest.approx((2, VISIT_MS + 6 + 6 + 1))


def test_who_has_no_room_is_asked_only_when_nobody_else_is_left():
    tight = Measured(position_bytes=2**20)
    full = announce(1, decode_us=100, kv_free_bytes=2**29, measured=tight)
    wide = announce(2, kv_free_bytes=2**34, measured=tight)
    wanted = replace(WANTED, n_positions=1024)

    assert [r.peer_ids for r in find_routes([full, wide], wanted)] == [(peer_of(2),)]
    assert [r.peer_ids for r in find_routes([full], wanted)] == [(peer_of(1),)]


def test_an_answer_that_has_begun_may_have_the_room_that_hosts_keep_for_such():
    kept = Measured(position_bytes=2**20, kept_bytes=2**30)
    near = announce(1, decode_us=100, kv_free_bytes=2**29, measured=kept)
    wide = announce(2, kv_free_bytes=2**34, measured=kept)
    wanted = replace(WANTED, n_positions=1024)

    assert find_routes([near, wide], wanted)[0].peer_ids == (peer_of(2),)
    assert find_routes([near, wide], replace(wanted, has_begun=True))[0].peer_ids == (peer_of(1),)


def test_room_that_is_nearly_taken_costs_more():
    tight = Measured(position_bytes=2**20)
    nearly = announce(1, kv_free_bytes=2**30, measured=tight)
    wide = announce(2, kv_free_bytes=2**34, measured=tight)

    routes = find_routes([nearly, wide], replace(WANTED, n_positions=1000))

    assert [route.peer_ids for route in routes] == [(peer_of(2),), (peer_of(1),)]
    assert routes[1].cost_ms - routes[0].cost_ms > 1


def test_an_offer_is_summed_up_per_block_and_besides():
    asks = offer(1, prefill_tl=10, decode_tl=30, ctx_ktl=5, act_kib=2, head_tok=40, kv_q=256)

    assert asked(asks, Span(0, 4), N, 4096, 60) == (10 + 2 * 5, 30 + 2 * 5, 2 * 8 + 1, 0)
    assert asked(asks, Span(4, 8), N, 0, 60) == (10, 30, 2 * 8 + 1, 40)
    assert asked(asks, Span(4, 8), N, 0, 60).over(4) == 30 + 57 / 4


def test_a_price_is_weighed_against_time():
    dear = announce(1, decode_us=7_000, offer=offer(1, decode_tl=10_000_000))
    wanted = [announce(2), dear]

    assert find_routes(wanted, WANTED)[0].peer_ids == (peer_of(2),)
    assert cost_of(dear, WANTED).price_ms == pytest.approx(1.0)


def test_what_a_client_prefers_says_how_long_it_waits_to_pay_less():
    dear = announce(1, decode_us=8_000, offer=offer(1, prefill_tl=10**6, decode_tl=10**7))
    fair = announce(2, decode_us=12_000, offer=offer(2, prefill_tl=10**6, decode_tl=10**6))
    wanted = replace(WANTED, n_positions=20, n_prompt=10)

    def chosen(goal: Goal) -> str:
        return find_routes([dear, fair], replace(wanted, goal=goal))[0].peer_ids[0]

    assert chosen(Goal.FAST) == peer_of(1)  # 4 ms sooner, for 72 ncr a token
    assert chosen(Goal.BALANCED) == chosen(Goal.CHEAP) == peer_of(2)
    assert Goal("latency") is Goal.BALANCED
    cost = cost_of(dear, replace(wanted, goal=Goal.CHEAP))
    assert (cost.price_ms, cost.prompt_price_ms) == pytest.approx((100.0, 10.0))


def test_a_long_prompt_is_paid_for_by_its_own_rate():
    reads = announce(1, offer=offer(1, prefill_tl=10**5, decode_tl=9 * 10**5))
    writes = announce(2, offer=offer(2, prefill_tl=9 * 10**5, decode_tl=10**5))
    cheap = replace(WANTED, goal=Goal.CHEAP, n_positions=1000)

    for n_prompt, best in ((900, 1), (100, 2)):
        wanted = replace(cheap, n_prompt=n_prompt)
        route = find_routes([reads, writes], wanted)[0]
        assert route.peer_ids == (peer_of(best),)
        assert route_ncr(route, wanted) == (900 * 10**5 + 100 * 9 * 10**5) * N // 10**6


def test_a_batch_minded_client_takes_who_does_most_not_who_is_soonest():
    soon = announce(1, measured=Measured(decode_steps_us=((1, 8000), (16, 64_000))))
    much = announce(2, measured=Measured(decode_steps_us=((1, 16_000), (16, 32_000))))
    busy = announce(3, measured=replace(much.measured, rows_per_s=450))

    assert find_routes([soon, much], WANTED)[0].peer_ids == (peer_of(1),)
    batch = replace(WANTED, goal=Goal.THROUGHPUT)
    assert find_routes([soon, much], batch)[0].peer_ids == (peer_of(2),)
    assert find_routes([soon, busy], batch)[0].peer_ids == (peer_of(1),)
    halves = [announce(4, (0, 4), decode_us=1000), announce(5, (4, 8), decode_us=1000), soon]
    assert len(find_routes(halves, WANTED)[0].hops) == 1  # links are unknown, and so far
    assert len(find_routes(halves, batch)[0].hops) == 2


def test_a_required_peer_runs_all_it_holds_and_nothing_goes_without_it():
    swarm = [announce(1, decode_us=100), announce(2, (2, 5), decode_us=50_000), announce(3)]
    wanted = limited(require=(peer_of(2),))

    best = find_routes(swarm, wanted)[0]

    assert [(hop.peer_id, hop.span) for hop in best.hops if hop.span == Span(2, 5)] == [
        (peer_of(2), Span(2, 5))
    ]
    assert {*best.peer_ids} == {peer_of(1), peer_of(2), peer_of(3)}  # one cannot be left and return
    assert find_routes([swarm[0], swarm[2]], wanted) == ()
    assert missing_blocks([swarm[0], swarm[2]], wanted) == ((0, N),)


def test_what_cannot_be_asked_for_is_refused():
    for limits in (
        {"avoid": (peer_of(1),), "require": (peer_of(1),)},
        {"avoid": ("nobody",)},
        {"max_price": -1},
        {"regions": ("",)},
        {"regions": "eu"},
        {"groups": (Group("a\nb"),)},
        {"regions": ("eu",) * 65},
    ):
        with pytest.raises(UsageError):
            Limits(**limits)


def far(n: int, region: str, *links: tuple[int, int]) -> Announcement:
    return announce(n, region=region, links=tuple(Link(peer_of(m), us) for m, us in links))


def test_a_link_that_nobody_measured_is_like_others_between_the_two_regions():
    swarm = [
        far(1, "eu", (2, 4_000), (3, 6_000)),
        far(2, "eu", (4, 90_000)),
        far(3, "eu"),
        far(4, "us"),
        far(5, "us"),
        far(6, ""),
    ]

    known = Latencies(swarm, {(peer_of(5), peer_of(6)): 8.0})

    assert known.one_way_ms(peer_of(1), peer_of(2)) == 2  # as measured
    assert known.matrix([peer_of(n) for n in (1, 2, 3)])[1, 2] == 3
    assert known.one_way_ms(peer_of(3), peer_of(4)) == UNKNOWN_MS  # neither told of any such link
    assert known.matrix([peer_of(n) for n in (2, 3, 5)])[1, 2] == 45
    assert known.one_way_ms(peer_of(5), peer_of(6)) == 4
    assert known.one_way_ms(peer_of(4), peer_of(5)) == UNKNOWN_MS
    assert known.one_way_ms(peer_of(1), peer_of(6)) == UNKNOWN_MS


def test_room_that_is_leased_for_longer_costs_more_and_is_weighed_and_capped_as_it_is_billed():
    rates, span = Rates(kv_q=1_000_000_000), Span(0, 8)
    for lease_s in (60.0, 600.0, 3600.0):
        usage = Usage.opened(len(span), 2048, lease_s)
        usage = usage.after(0, 8, 8, 256).after(8, 2048, 8, 256)

        told = price_of(rates, span, 8, 2048, lease_s)

        billed = price(rates, usage.meter())
        assert told.of(len(span), 8, 2040) == pytest.approx(billed)
        assert told.over(len(span)) == pytest.approx(billed / 2048 / len(span) * 1e6)
