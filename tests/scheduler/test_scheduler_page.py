"""docs/scheduler.md works one small swarm out; the real code agrees with every number there."""

from pathlib import Path

from protocol.announcements import Link
from protocol.messages import Span
from scheduler.flow import Host, bottleneck, max_flow
from scheduler.placement import choose_span
from scheduler.routing import Wanted, find_replacement, find_routes
from tests.announcing import MANIFEST, announce, peer_of

PAGE = (Path(__file__).parents[2] / "docs" / "scheduler.md").read_text()
ANNA, BEN, CARA, DAN = 1, 2, 3, 4
NAMES = {peer_of(n): name for n, name in ((1, "Anna"), (2, "Ben"), (3, "Cara"), (4, "Dan"))}
# Who serves what, and microseconds of a step through one block: 100, 50 and 100 blocks a second.
SWARM = {ANNA: ((0, 3), 3_333), BEN: ((3, 6), 6_667), CARA: ((6, 8), 5_000)}


def swarm():
    return [
        announce(n, span, decode_us=block_us * (span[1] - span[0]))
        for n, (span, block_us) in SWARM.items()
    ]


def hosts(*more: Host) -> list[Host]:
    speeds = {ANNA: 300.0, BEN: 150.0, CARA: 200.0}
    return [Host(Span(*SWARM[n][0]), speed) for n, speed in speeds.items()] + list(more)


def test_the_swarm_of_the_page_makes_50_tokens_because_of_ben():
    limit = bottleneck(hosts(), 8)

    assert limit.tokens_per_s == 50
    assert limit.spans == (Span(3, 6),)
    assert "makes 50 tokens per second, and blocks 3:6 keep it there" in PAGE


def test_dan_takes_the_place_that_the_page_says():
    flows = {start: max_flow(hosts(Host(Span(start, start + 4), 200.0)), 8) for start in range(5)}
    for start, flow in flows.items():
        assert f"| {start}:{start + 4} | {flow:.0f} | " in PAGE

    chosen = choose_span(
        swarm(),
        manifest=MANIFEST,
        n_blocks=8,
        capacity_blocks=4,
        peer_id=peer_of(DAN),
        speed_blocks_per_s=200.0,
    )

    assert flows[chosen.start] == max(flows.values())
    assert f"Dan takes {chosen.start}:{chosen.stop}" in PAGE


def routed():
    """Anna, Ben and Cara with Dan among them, and the links of the page."""
    links = {
        ANNA: (Link(peer_of(BEN), 10_000), Link(peer_of(DAN), 20_000), Link(peer_of(CARA), 40_000)),
        CARA: (Link(peer_of(BEN), 10_000), Link(peer_of(DAN), 20_000)),
    }
    spans = SWARM | {DAN: ((3, 7), 5_000)}
    return [
        announce(n, span, decode_us=block_us * (span[1] - span[0]), links=links.get(n, ()))
        for n, (span, block_us) in spans.items()
    ]


def told(route) -> str:
    hops = ", ".join(f"{NAMES[hop.peer_id]} {hop.span.start}:{hop.span.stop}" for hop in route.hops)
    return f"| {hops} | {route.cost_ms:.1f} |"


def test_the_routes_and_their_costs_are_those_of_the_page():
    routes = find_routes(routed(), Wanted(manifest=MANIFEST, n_blocks=8), k=3)

    assert len(routes) == 2
    for route in routes:
        assert told(route) in PAGE


def test_when_ben_is_gone_dan_takes_over_in_the_middle_of_his_span():
    left = Wanted(manifest=MANIFEST, n_blocks=8, avoid=(peer_of(ANNA), peer_of(BEN), peer_of(CARA)))

    found = find_replacement(routed(), Span(3, 6), left, before=peer_of(ANNA), after=peer_of(CARA))

    assert told(found[0]) in PAGE
