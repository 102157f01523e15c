"""Routes: every block once, the cheapest ring, replacements between neighbours that stay."""

import random
import time
from collections.abc import Sequence
from itertools import groupby, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.address import Address
from protocol.announcements import Announcement, Link
from protocol.messages import Span
from scheduler.latency import SAME_HOST_MS, UNKNOWN_MS, Latencies
from scheduler.route_cost import SHARE_PER_SESSION, VISIT_MS
from scheduler.routing import (
    Route,
    Wanted,
    draw_route,
    find_replacement,
    find_routes,
    missing_blocks,
    spares,
)
from tests.announcing import MANIFEST, announce, peer_of

N = 8
WANTED = Wanted(manifest=MANIFEST, n_blocks=N)


@st.composite
def swarms(draw: st.DrawFn, max_size: int = 5) -> list[Announcement]:
    """Peers on a line, so that latencies obey the triangle inequality, all links measured."""
    n = draw(st.integers(1, max_size))
    places_ms = [draw(st.integers(0, 30)) for _ in range(n)]
    swarm = []
    for i in range(n):
        start = draw(st.integers(0, N - 1))
        stop = draw(st.integers(start + 1, N))
        links = tuple(
            Link(peer_of(j), 2000 * abs(places_ms[i] - places_ms[j])) for j in range(n) if j != i
        )
        speed_us, n_sessions = draw(st.integers(1, 20_000)), draw(st.integers(0, 4))
        swarm.append(
            announce(i, (start, stop), links=links, decode_us=speed_us, n_sessions=n_sessions)
        )
    return swarm


def cost_ms(hops: Sequence[tuple[Announcement, int]], latencies: Latencies) -> float:
    """The cost of a ring, written down a second time: (peer, blocks) of each hop."""
    peers = [peer for peer, _ in hops]
    links_ms = sum(
        latencies.one_way_ms(one.peer_id, other.peer_id)
        for one, other in zip(peers, [*peers[1:], peers[0]], strict=True)
    )
    compute_ms = sum(
        peer.decode_us / 1000 * n / len(peer.span) * (1 + SHARE_PER_SESSION * peer.n_sessions)
        for peer, n in hops
    )
    others_ms = sum(peer.decode_us / 1000 * SHARE_PER_SESSION * peer.n_sessions for peer, _ in hops)
    return links_ms + compute_ms + others_ms + VISIT_MS * len(hops)


def brute_force_ms(swarm: list[Announcement], latencies: Latencies) -> float | None:
    holders = [[peer for peer in swarm if peer.span.holds(Span(b, b + 1))] for b in range(N)]
    best_ms = None
    for choice in product(*holders):
        hops = [(peer, len(list(run))) for peer, run in groupby(choice, key=lambda peer: peer)]
        if len({peer.peer_id for peer, _ in hops}) == len(hops):
            this_ms = cost_ms(hops, latencies)
            best_ms = this_ms if best_ms is None else min(best_ms, this_ms)
    return best_ms


def check(route: Route, swarm: list[Announcement], blocks: Span) -> None:
    """Every block once, in order, by somebody who announced it; nobody twice."""
    ran = [block for hop in route.hops for block in range(hop.span.start, hop.span.stop)]
    assert ran == list(range(blocks.start, blocks.stop))
    assert all(hop.announcement in swarm for hop in route.hops)
    assert all(hop.announcement.span.holds(hop.span) for hop in route.hops)
    assert len(set(route.peer_ids)) == len(route.hops)


@settings(max_examples=200, deadline=None)
@given(swarms())
def test_the_best_route_equals_brute_force(swarm):
    latencies = Latencies(swarm, None)

    routes = find_routes(swarm, WANTED)

    best_ms = brute_force_ms(swarm, latencies)
    assert bool(routes) == (best_ms is not None)
    if best_ms is not None:
        assert routes[0].cost_ms == pytest.approx(best_ms, abs=1e-3)


@settings(max_examples=200, deadline=None)
@given(swarms(max_size=9), st.integers(1, 6), st.integers(0, 3))
def test_any_route_covers_every_block_once_with_announced_spans(swarm, k, seed):
    routes = find_routes(swarm, WANTED, k=k, seed=seed)
    latencies = Latencies(swarm, None)

    assert bool(routes) == (not missing_blocks(swarm, WANTED))
    assert len(routes) <= k
    assert [route.cost_ms for route in routes] == sorted(route.cost_ms for route in routes)
    for route in routes:
        check(route, swarm, Span(0, N))
        hops = [(hop.announcement, len(hop.span)) for hop in route.hops]
        assert route.cost_ms == pytest.approx(cost_ms(hops, latencies), abs=1e-3)
    assert len({route.hops for route in routes}) == len(routes)


@settings(max_examples=100, deadline=None)
@given(swarms(max_size=8), st.data())
def test_a_replacement_covers_the_lost_blocks_without_survivors_or_dead(swarm, data):
    routes = find_routes(swarm, WANTED)
    if not routes:
        return
    hops = routes[0].hops
    first = data.draw(st.integers(0, len(hops) - 1))
    last = data.draw(st.integers(first, len(hops) - 1))
    lost = Span(hops[first].span.start, hops[last].span.stop)
    survivors = [*hops[:first], *hops[last + 1 :]]
    wanted = Wanted(manifest=MANIFEST, n_blocks=N, avoid=routes[0].peer_ids)

    found = find_replacement(
        swarm,
        lost,
        wanted,
        before=survivors[first - 1].peer_id if survivors else None,
        after=survivors[first % len(survivors)].peer_id if survivors else None,
    )

    others = [peer for peer in swarm if peer.peer_id not in routes[0].peer_ids]
    held = {b for peer in others for b in range(peer.span.start, peer.span.stop)}
    assert bool(found) == (set(range(lost.start, lost.stop)) <= held)
    for replacement in found:
        check(replacement, others, lost)


def test_a_chain_enters_and_leaves_a_span_in_its_middle():
    swarm = [announce(1, (0, 5)), announce(2, (3, 8), decode_us=50_000)]

    [best, *_] = find_routes(swarm, WANTED)

    assert [hop.span for hop in best.hops] == [Span(0, 5), Span(5, 8)]  # the slow one does least
    assert best.hops[1].addresses == swarm[1].addresses


def test_fewer_hops_win_when_nothing_else_differs():
    here = {"addresses": None}
    swarm = []
    for n, span in ((1, (0, 8)), (2, (0, 4)), (3, (4, 8))):
        here["addresses"] = (Address("127.0.0.1", 5000 + n, peer_of(n)),)
        swarm.append(announce(n, span, **here))

    [best, *_] = find_routes(swarm, WANTED)

    assert best.peer_ids == (peer_of(1),)


def test_the_link_from_the_last_hop_back_to_the_first_counts():
    far = tuple(Link(peer_of(n), 400_000) for n in (1,))
    near = tuple(Link(peer_of(n), 2_000) for n in (1, 2, 3))
    swarm = [
        announce(1, (0, 3), links=near[1:]),
        announce(2, (3, 8), links=far),
        announce(3, (3, 8), links=near[:1], decode_us=9000),
    ]
    ring = [swarm[0], announce(2, (3, 6), links=near[:1]), announce(4, (6, 8), links=far)]
    ring.append(announce(3, (6, 8), links=near[:2], decode_us=9000))

    assert find_routes(swarm, WANTED)[0].peer_ids == (peer_of(1), peer_of(2))  # 1 ms, as 1 says
    assert find_routes(ring, WANTED)[0].peer_ids == (peer_of(1), peer_of(2), peer_of(3))


def test_our_own_measurement_replaces_what_peers_claim():
    boast = (Link(peer_of(1), 1),)
    swarm = [
        announce(1, (0, 4)),
        announce(2, (4, 8), links=boast),
        announce(3, (4, 8), links=(Link(peer_of(1), 10_000),)),
    ]
    measured = {(peer_of(2), peer_of(1)): 300.0}

    assert find_routes(swarm, WANTED)[0].peer_ids[1] == peer_of(2)
    assert find_routes(swarm, WANTED, rtt_ms=measured)[0].peer_ids[1] == peer_of(3)


def test_unknown_links_are_far_unless_both_ends_are_on_this_machine():
    def local(n: int) -> Announcement:
        return announce(n, addresses=(Address("127.0.0.1", 5000 + n, peer_of(n)),))

    latencies = Latencies([local(1), local(2), announce(3)], None)

    assert latencies.one_way_ms(peer_of(1), peer_of(2)) == SAME_HOST_MS
    assert latencies.one_way_ms(peer_of(1), peer_of(3)) == UNKNOWN_MS
    assert latencies.one_way_ms(peer_of(3), peer_of(3)) == 0


def test_a_measured_link_is_as_long_as_measured_on_this_machine_too():
    def local(n: int, *links: Link) -> Announcement:
        addresses = (Address("127.0.0.1", 5000 + n, peer_of(n)),)
        return announce(n, addresses=addresses, links=links)

    published = Latencies([local(1, Link(peer_of(2), 30_000)), local(2)], None)
    ours = Latencies([local(1), local(2)], {(peer_of(1), peer_of(2)): 30.0})

    assert published.one_way_ms(peer_of(1), peer_of(2)) == 15.0
    assert ours.one_way_ms(peer_of(2), peer_of(1)) == 15.0


def test_busy_peers_are_left_for_idle_ones():
    swarm = [announce(1, n_sessions=6), announce(2, n_sessions=0)]

    assert find_routes(swarm, WANTED)[0].peer_ids == (peer_of(2),)


def test_a_price_or_a_risk_moves_the_choice():
    swarm = [announce(1, decode_us=100), announce(2)]

    assert find_routes(swarm, WANTED)[0].peer_ids == (peer_of(1),)
    dear = {peer_of(1): 100.0}
    assert find_routes(swarm, WANTED, extra_ms=dear)[0].peer_ids == (peer_of(2),)


def test_a_chain_has_one_profile_unless_the_client_allows_a_mix():
    swarm = [announce(1, (0, 4)), announce(2, (4, 8), profile="bfloat16/none/bfloat16")]
    mixed = Wanted(manifest=MANIFEST, n_blocks=N, allow_mix=True)

    assert find_routes(swarm, WANTED) == ()
    assert missing_blocks(swarm, WANTED) in (((4, 8),), ((0, 4),))
    assert find_routes(swarm, mixed)[0].peer_ids == (peer_of(1), peer_of(2))
    assert missing_blocks(swarm, mixed) == ()


@pytest.mark.parametrize(
    "unfit",
    [
        announce(1, manifest=bytes(32)),
        announce(1, n_blocks=9),
        announce(1, max_positions=10),
        announce(1, profile="float32/int8/float32"),
        announce(1, None),
        announce(7),
    ],
)
def test_a_peer_that_does_not_fit_is_no_host(unfit):
    wanted = Wanted(
        manifest=MANIFEST,
        n_blocks=N,
        n_positions=11,
        profile="float32/none/float32",
        avoid=[peer_of(7)],
    )

    assert find_routes([unfit], wanted) == ()
    assert missing_blocks([unfit], wanted) == ((0, 8),)


def test_missing_blocks_are_named_as_runs():
    swarm = [announce(1, (1, 3)), announce(2, (2, 4)), announce(3, (6, 7))]

    assert missing_blocks(swarm, WANTED) == ((0, 1), (4, 6), (7, 8))
    assert missing_blocks([], WANTED) == ((0, 8),)
    assert find_routes(swarm, WANTED) == ()


def test_spares_are_those_who_could_take_a_hop_over():
    swarm = [announce(1, (0, 4)), announce(2, (4, 8)), announce(3, decode_us=900_000)]
    route = find_routes(swarm, WANTED)[0]

    assert route.peer_ids == (peer_of(1), peer_of(2))
    assert spares(route, swarm, WANTED) == ((swarm[2],), (swarm[2],))


def test_a_lost_run_may_be_refilled_by_several_peers():
    swarm = [announce(1, (0, 2)), announce(2, (2, 6)), announce(3, (6, 8))]
    fill = [announce(4, (1, 4)), announce(5, (3, 7))]
    wanted = Wanted(manifest=MANIFEST, n_blocks=N, avoid=[peer_of(n) for n in (1, 2, 3)])

    found = find_replacement(
        [*swarm, *fill], Span(2, 6), wanted, before=peer_of(1), after=peer_of(3)
    )

    assert found[0].peer_ids == (peer_of(4), peer_of(5))
    assert found[0].span == Span(2, 6)


def test_a_replacement_is_near_the_neighbours_that_stay():
    stay = announce(1, (0, 4), links=(Link(peer_of(2), 2_000), Link(peer_of(3), 100_000)))
    swarm = [stay, announce(2, (4, 8), decode_us=20_000), announce(3, (4, 8))]
    wanted = Wanted(manifest=MANIFEST, n_blocks=N, avoid=[peer_of(1)])

    found = find_replacement(swarm, Span(4, 8), wanted, before=peer_of(1), after=peer_of(1))

    assert [route.peer_ids for route in found] == [(peer_of(2),), (peer_of(3),)]
    assert found[0].cost_ms == pytest.approx(1 + VISIT_MS + 20 + 1)


def test_ties_are_decided_by_the_seed_and_nothing_else():
    swarm = [announce(n) for n in range(6)]
    answers = [find_routes(swarm, WANTED, seed=seed)[0].peer_ids for seed in range(20)]
    again = [find_routes(swarm[::-1], WANTED, seed=seed)[0].peer_ids for seed in range(20)]

    assert answers == again
    assert len(set(answers)) > 2


def test_clients_spread_over_the_near_best_only():
    swarm = [announce(1), announce(2, decode_us=8_400), announce(3, decode_us=20_000)]
    routes = find_routes(swarm, WANTED)
    rng = random.Random(1)

    drawn = {draw_route(routes, rng).peer_ids for _ in range(100)}

    assert drawn == {(peer_of(1),), (peer_of(2),)}


def test_who_lost_the_same_hop_spread_over_all_that_is_alike_for_a_whole_token():
    swarm = [
        announce(1, (0, 2), decode_us=8_000),
        announce(2, (0, 2), decode_us=10_000),
        announce(3, (0, 2), decode_us=20_000),
    ]
    routes = find_replacement(swarm, Span(0, 2), WANTED)
    rng = random.Random(1)

    def drawn(**of: int) -> set[tuple[str, ...]]:
        return {draw_route(routes, rng, **of).peer_ids for _ in range(100)}

    assert drawn() == {(peer_of(1),)}
    assert drawn(n_blocks=N) == {(peer_of(1),), (peer_of(2),)}


def test_only_peers_with_the_adapter_are_chosen():
    adapter = "pirate@0123456789ab"
    swarm = [
        announce(1, (0, 4), adapters=(adapter,)),
        announce(2, (0, 8)),
        announce(3, (4, 8), adapters=("pirate@ffffffffffff", adapter)),
        announce(4, (4, 8), adapters=("pirate@ffffffffffff",)),
    ]
    wanted = Wanted(manifest=MANIFEST, n_blocks=N, adapter=adapter)

    found = find_routes(swarm, wanted)

    assert [route.peer_ids for route in found] == [(peer_of(1), peer_of(3))]
    assert missing_blocks(swarm[1:], wanted) == ((0, 4),)


def test_a_large_swarm_is_routed_in_a_moment():
    rng = random.Random(3)
    swarm = []
    for n in range(300):
        start = rng.randrange(0, 76)
        span = (start, min(80, start + rng.randrange(4, 20)))
        links = tuple(
            Link(peer_of(i), rng.randrange(500, 80_000)) for i in rng.sample(range(300), 16)
        )
        swarm.append(announce(n, span, n_blocks=80, links=links))
    wanted = Wanted(manifest=MANIFEST, n_blocks=80)

    began_s = time.perf_counter()
    routes = find_routes(swarm, wanted)
    took_s = time.perf_counter() - began_s

    check(routes[0], swarm, Span(0, 80))
    assert took_s < 3  # some 0.5 s on an idle core
