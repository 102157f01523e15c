"""The simulator: what it says of small swarms can be worked out by hand."""

import random
from collections.abc import Collection
from dataclasses import replace

import pytest

from protocol.identity import PeerId
from protocol.messages import Span
from scheduler.simulator import (
    Asking,
    EvenSplit,
    Manyhands,
    ModelShape,
    Parallax,
    PeerSpec,
    Petals,
    Policy,
    Presence,
    RandomRule,
    Report,
    Request,
    Settings,
    Trace,
    World,
    clairvoyant_tokens_per_s,
    make_trace,
    simulate,
    volunteers,
)
from scheduler.simulator.policies import Chain, Missing, Seat, Spans, Swarm
from scheduler.simulator.traces import KINDS
from scheduler.simulator.world import peer_id_of

MODEL = ModelShape(n_blocks=8, block_bytes=100_000_000, row_bytes=1000, kv_bytes=100)
EXACT = Settings(rates_s=0.0, precision=1e-9)
HERE = {("eu", "eu"): 40.0}  # 20 ms one way


def peer(n: int, capacity: int = 8, **changes: float) -> PeerSpec:
    """1 ms a block; a prompt row takes a tenth of that."""
    spec = PeerSpec(
        peer_id=peer_id_of(n),
        region="eu",
        block_s=0.001,
        prefill_block_s=0.0001,
        capacity_blocks=capacity,
        kv_bytes=10_000_000,
        last_mile_s=0.0,
        up_bytes_per_s=1e6,
        down_bytes_per_s=1e8,
        load_block_s=0.0,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


class ByHand(RandomRule):
    """Spans as told, in the order of peers; of several hosts for a block the first one."""

    name = "by hand"

    def __init__(self, *spans: tuple[int, int]) -> None:
        self._spans = [Span(*span) for span in spans] or [Span(0, 8)]

    def joined(self, swarm: Swarm, peer_id: PeerId, rng: random.Random) -> Spans:
        i = swarm.world.index[peer_id]
        return {peer_id: self._spans[min(i, len(self._spans) - 1)]}

    def mend(
        self,
        swarm: Swarm,
        request: Request,
        missing: Missing,
        avoid: Collection[PeerId],
        rng: random.Random,
    ) -> Chain | None:
        seats: list[Seat] = []
        at = missing.span.start
        while at < missing.span.stop:
            able = [
                (standing.spec.peer_id, standing.span)
                for standing in swarm.standing.values()
                if standing.is_serving and standing.spec.peer_id not in avoid
                if standing.span is not None and standing.span.start <= at < standing.span.stop
            ]
            if not able:
                return None
            stop = min(able[0][1].stop, missing.span.stop)
            seats.append(Seat(able[0][0], Span(at, stop)))
            at = stop
        return tuple(seats)

    def route(
        self, swarm: Swarm, request: Request, avoid: Collection[PeerId], rng: random.Random
    ) -> Chain | None:
        everything = Missing(Span(0, MODEL.n_blocks), None, None)
        return self.mend(swarm, request, everything, avoid, rng)


def run(
    peers: list[PeerSpec],
    requests: list[Request],
    presences: list[Presence] | None = None,
    *,
    policy: Policy | None = None,
    horizon_s: float = 100.0,
) -> Report:
    world = World(MODEL, peers, region_rtt_ms=HERE)
    always = [Presence(0.0, horizon_s + 1, spec.peer_id) for spec in peers]
    trace = Trace(
        name="by hand",
        presences=tuple(always if presences is None else presences),
        requests=tuple(requests),
        horizon_s=horizon_s,
    )
    return simulate(world, trace, policy or ByHand(), settings=EXACT)


def test_one_answer_on_one_peer_takes_what_its_steps_take():
    report = run([peer(0)], [Request(1.0, "eu", 100, 11)])

    # Two exchanges of 2 x 25 ms (20 ms, and 5 ms of the client's own); 100 rows of 0.8 ms.
    first_s = 2 * 2 * 0.025 + 100 * 8 * 0.0001
    assert report.first_token_s[0] == pytest.approx(first_s)
    assert report.per_token_s[0] == pytest.approx(8 * 0.001 + EXACT.visit_s)
    assert report.goodput_tokens_per_s == pytest.approx(11 / 100)


def test_a_chain_of_two_adds_links_both_ways_and_a_prompt_runs_in_both_at_once():
    report = run([peer(0), peer(1)], [Request(1.0, "eu", 100, 11)], policy=ByHand((0, 4), (4, 8)))

    # A prompt's row takes 0.4 ms in each hop and 1 ms on the link (1,000 bytes at 1 MB/s), which is
    # the slowest. Before that a chunk of 64 rows goes through one hop, and over the link's 20 ms.
    first_s = 4 * 0.025 + 0.020 + 64 * 0.0004 + 100 * 0.001
    assert report.first_token_s[0] == pytest.approx(first_s)
    per_token_s = 8 * 0.001 + 2 * EXACT.visit_s + 2 * 0.020 + 0.001
    assert report.per_token_s[0] == pytest.approx(per_token_s)


def test_two_answers_at_once_share_steps_as_the_cost_curve_says():
    report = run([peer(0)], [Request(1.0, "eu", 1, 1001), Request(1.0, "eu", 1, 1001)])

    alone_s = 8 * 0.001
    # The other one is there for all but the half millisecond between two visits.
    visit_s = alone_s
    for _ in range(100):
        visit_s = alone_s * (1 + 0.12 * visit_s / (visit_s + EXACT.visit_s))
    assert report.per_token_s[0] == pytest.approx(visit_s + EXACT.visit_s, rel=1e-3)


def test_a_lost_hop_is_replaced_and_gets_what_it_lacks_from_the_hop_before_it():
    peers = [peer(0), peer(1), peer(2)]
    presences = [Presence(0.0, 101.0, spec.peer_id) for spec in peers]
    presences[1] = Presence(0.0, 20.0, peers[1].peer_id, False)

    report = run(peers, [Request(1.0, "eu", 100, 501)], presences, policy=ByHand((0, 4), (4, 8)))

    token_s = 8 * 0.001 + 2 * EXACT.visit_s + 2 * 0.020 + 0.001
    n_run = 100 + (19.0 - (0.100 + 0.020 + 64 * 0.0004 + 0.100)) / token_s
    replay_s = n_run * 0.001  # on the link from the hop that stays
    opening_s = 4 * 0.025 + 0.020
    assert report.n_recoveries == report.n_done == 1
    assert report.paused_s[0] == pytest.approx(EXACT.silence_s + opening_s + replay_s)


def test_who_leaves_properly_hands_over_and_nobody_waits_for_a_silence():
    peers = [peer(0), peer(1)]
    presences = [
        Presence(0.0, 20.0, peers[0].peer_id, True),
        Presence(0.0, 101.0, peers[1].peer_id),
    ]

    report = run(peers, [Request(1.0, "eu", 100, 2001)] * 2, presences)

    assert report.n_done == 2
    assert report.n_recoveries == 0
    # All is run again from the ids: about 2,000 positions of 0.8 ms, both at once on one node.
    assert 1.0 < report.paused_s[1] < 4.0


def test_without_a_host_for_every_block_no_token_is_made():
    report = run(
        [peer(0)],
        [Request(1.0, "eu", 10, 10), Request(95.0, "eu", 10, 10)],
        policy=ByHand((0, 4)),
    )

    assert report.delivered_tokens_per_s == 0
    assert (report.n_refused, report.n_open, report.n_done) == (1, 1, 0)


def test_an_answer_without_room_waits_until_there_is_room():
    tight = peer(0, kv_bytes=8 * 100 * 1100)  # 1,100 positions in 8 blocks

    report = run([tight], [Request(1.0, "eu", 100, 1000)] * 2)

    assert report.n_done == 2
    waited = sorted(record.first_token_s or 0.0 for record in report.records)
    assert waited[1] > 8.0 > 1.0 > waited[0]


def test_a_peer_that_comes_later_fetches_its_weights_first():
    late = Presence(10.0, 101.0, peer_id_of(0))

    report = run([peer(0)], [Request(1.0, "eu", 100, 10)], [late])

    # 8 blocks of 100 MB at 100 MB/s.
    assert report.fetched_bytes == 8 * MODEL.block_bytes
    assert 17.0 < report.first_token_s[0] < 17.0 + 8.5
    assert report.n_done == 1


def test_the_bound_is_what_was_asked_and_what_those_who_are_there_can_make():
    world = World(MODEL, [peer(0), peer(1)], region_rtt_ms=HERE)
    # 8 blocks of 1 ms x 0.12 and 0.1 ms for each prompt row, of which there is one per token.
    tokens_per_s = 1 / (8 * (0.00012 + 0.0001))
    presences = (Presence(0.0, 10.0, peer_id_of(0)), Presence(5.0, 10.0, peer_id_of(1)))

    def bound(*requests: Request) -> float:
        trace = Trace(name="", presences=presences, requests=requests, horizon_s=20.0)
        return clairvoyant_tokens_per_s(world, trace) * trace.horizon_s

    assert bound(Request(0.0, "eu", 100, 100)) == pytest.approx(100)
    assert bound(Request(0.0, "eu", 9000, 9000)) == pytest.approx(15 * tokens_per_s)
    assert bound(Request(9.0, "eu", 9000, 9000)) == pytest.approx(2 * tokens_per_s)
    assert bound(Request(11.0, "eu", 100, 100)) == 0


def small(kind: str) -> tuple[World, Trace]:
    """Twelve volunteers, a model of 16 blocks, four minutes."""
    model = ModelShape(n_blocks=16)
    rng = random.Random(7)
    world = World(model, volunteers(12, rng, model))
    asking = Asking(per_s=0.3, n_answer=60, n_prompt=60)
    return world, make_trace(kind, world, rng, asking=asking, horizon_s=240)


@pytest.mark.parametrize(
    "make",
    [Manyhands, Petals, Parallax, lambda: Parallax(dynamic=True), EvenSplit, RandomRule],
    ids=["manyhands", "petals", "parallax", "parallax dynamic", "even split", "random"],
)
def test_nothing_gets_lost_in_the_books_and_a_seed_repeats_itself(make):
    world, trace = small("outage")

    report, again = (simulate(world, trace, make(), seed=3) for _ in range(2))

    assert report == again
    balances(report, world, trace)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "outage"])
def test_every_kind_of_day_can_be_played_and_adds_up(kind):
    world, trace = small(kind)

    balances(simulate(world, trace, Manyhands(), seed=3), world, trace)


def balances(report: Report, world: World, trace: Trace) -> None:
    """Every request has one end, and no more is made than could be."""
    assert report.n_asked == len(trace.requests)
    assert report.n_asked == report.n_done + report.n_lost + report.n_refused + report.n_open
    done = sum(r.request.n_answer for r in report.records if r.outcome == "done")
    assert report.goodput_tokens_per_s == pytest.approx(done / trace.horizon_s)
    assert report.goodput_tokens_per_s <= report.delivered_tokens_per_s
    assert 0 < report.delivered_tokens_per_s <= clairvoyant_tokens_per_s(world, trace)


@pytest.mark.parametrize(("admits", "n_begun"), [(False, 8), (True, 7)])
def test_new_answers_leave_an_eighth_of_the_room_where_the_rule_keeps_it(admits, n_begun):
    policy = ByHand()
    policy.admits = admits
    requests = [Request(1.0, "eu", 100, 1000)] * 9
    room = 8 * requests[0].n_positions * MODEL.n_blocks * MODEL.kv_bytes

    report = run([peer(0, kv_bytes=room)], requests, policy=policy, horizon_s=6.0)

    assert sum(record.first_token_s is not None for record in report.records) == n_begun
