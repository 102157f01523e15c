"""A route is explained by the parts of its cost, and whoever is in none by what keeps it out."""

from dataclasses import replace

import pytest

from manyhands.route import view_of
from manyhands.route_table import show_explanation
from protocol.announcements import Link
from protocol.measured import Measured, State
from scheduler.explain import explain
from scheduler.routing import find_routes
from tests.announcing import announce, peer_of
from tests.scheduler.test_wanted import PRICED, WANTED, limited

SWARM = [
    announce(1, (0, 4), n_sessions=2, links=(Link(peer_of(2), 4_000),)),
    announce(2, (4, 8), measured=Measured(queue_us=1_500)),
    announce(3, (0, 8), decode_us=90_000),
    announce(4, (2, 8), measured=Measured(state=State.DRAINING)),
    announce(5, (0, 8), region="us", decode_us=9_000_000),
]


def test_the_parts_of_a_route_add_up_to_what_the_search_says():
    risk = {peer_of(2): 0.75}
    explained = explain(SWARM, WANTED, slowdown={peer_of(1): 1.5}, extra_ms=risk)

    found = find_routes(SWARM, WANTED, slowdown={peer_of(1): 1.5}, extra_ms=risk)
    assert [route.cost_ms for route in explained.routes] == [route.cost_ms for route in found]
    for route in explained.routes:
        assert sum(hop.ms for hop in route.hops) == pytest.approx(route.cost_ms, abs=1e-3)
    first, second = explained.routes[0].hops
    assert (first.link_ms, second.cost.queue_ms, second.cost.extra_ms) == (2, 1.5, 0.75)
    assert first.spares == (peer_of(3), peer_of(5))


def test_rows_avoid_narrow_links_and_the_explanation_says_what_they_would_take():
    wide = Measured(up_bytes_per_s=10**7, down_bytes_per_s=10**7)
    narrow = Measured(up_bytes_per_s=10**5, down_bytes_per_s=10**5)
    first, near = announce(1, (0, 4), measured=wide), announce(2, (4, 8), measured=narrow)
    far = announce(3, (4, 8), measured=wide, decode_us=6_000)
    asked = replace(WANTED, n_positions=1_100, n_prompt=1_000, hidden_size=256)
    unmeasured = [replace(peer, measured=Measured()) for peer in (first, near, far)]

    explained = explain([first, near, far], asked)

    assert explained.routes[0].hops[1].announcement == far
    carried = [hop.carriage_ms for route in explained.routes for hop in route.hops]
    row_ms = (1_000 + 100) / 100 * 256 * 4 / 10**7 * 1000  # per token: the prompt's, and its own
    assert carried == pytest.approx([row_ms, 0, 100 * row_ms, 0]), "tokens alone go back"
    for route in explained.routes:
        assert sum(hop.ms for hop in route.hops) == pytest.approx(route.cost_ms, abs=1e-3)
    assert find_routes(unmeasured, asked)[0].hops[1].announcement == unmeasured[1]


def test_others_are_ruled_out_by_a_constraint_or_dearer():
    wanted = replace(limited(avoid=(peer_of(3),)), n_positions=64)
    far = [announce(n, decode_us=10**6 * n) for n in (11, 12, 13)]
    full = announce(14, measured=Measured(position_bytes=2**30))

    explained = explain([*SWARM, *far, full], wanted)

    why = {other.announcement.peer_id: other.why for other in explained.others}
    assert why[peer_of(3)] == "it is to be avoided"
    assert why[peer_of(4)] == "it is draining and takes no new sessions"
    assert why[peer_of(14)] == "its free KV room does not hold the session"
    assert "ms more" in why[peer_of(13)]


def test_without_a_route_everybody_is_told_and_the_refusal_names_the_constraint(capsys):
    explained = explain([*SWARM[:1], PRICED], limited(max_price=9), model="tiny")

    assert explained.routes == ()
    assert explained.refusal is not None
    assert explained.refusal.constraint == "max-price"
    show_explanation(view_of(explained, limited(max_price=9), "tiny"))
    told = capsys.readouterr().out
    assert "no route" in told
    assert "it asks 500 ncr per million" in told


def test_what_people_see_names_every_part_that_costs_something(capsys):
    view = view_of(explain(SWARM, WANTED), WANTED, "tiny")

    show_explanation(view)

    told = capsys.readouterr().out
    for word in ("route 1", "COMPUTE", "LINK", "QUEUE", "SPARES", peer_of(1)[-6:], "tokens/s"):
        assert word in told
    assert "PRICE" not in told
    assert sum(view["routes"][0]["hops"][0]["parts_ms"].values()) == pytest.approx(
        view["routes"][0]["hops"][0]["ms"], abs=0.01
    )
