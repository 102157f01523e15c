"""Placement against the exact optimum on small swarms, and what one decision takes on large ones.

Small: random capacities and speeds, at most 10 nodes; the optimum is HiGHS's, or its upper bound
where its time runs out. Once all nodes are planned together; then they join one by one in random
order, as `serve` does it (nobody knows its own speed before it has loaded), and move until nobody
wants to: hosts of all ages, all an hour old, and all just come, when each may leave soon. Where
that makes less than four fifths of the optimum, every order of moves is tried that leaves no block
without a host. Large: CPU time, 126 blocks.
"""

import argparse
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import common
import numpy as np

from protocol.address import Address
from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.measured import Measured
from protocol.messages import Span
from scheduler.flow import Host, max_flow
from scheduler.joint import Capacity, plan_swarm
from scheduler.moves import next_move
from scheduler.placement import choose_move, choose_span
from scheduler.placement_table import Table
from tests.announcing import MANIFEST, NOW_MS, peer_of
from tests.exact import best_by_moves, exact_placement, random_capacities

N_BLOCKS = 126
STEP_SESSIONS = 1000  # in a step: makes microseconds precise enough
QUIET_TURNS = 4
HOUR_MS = 3_600_000
WORST = 0.8  # of the optimum: the goal


def announce(
    n: int, n_blocks: int, span: Span, capacity: Capacity, *, age_ms: int = 0, region: str = ""
) -> Announcement:
    peer_id = PEERS[n]
    step_us = max(1, round(STEP_SESSIONS * len(span) / capacity.blocks_per_s * 1e6))
    return Announcement(
        peer_id=peer_id,
        addresses=(Address("10.0.0.1", 31400, peer_id),),
        model="paper",
        manifest=MANIFEST,
        n_blocks=n_blocks,
        span=span,
        profile="float32/none/float32",
        decode_us=step_us,
        prefill_us_per_row=1,
        kv_free_bytes=1,
        max_positions=4096,
        region=region,
        measured=Measured(
            decode_steps_us=((STEP_SESSIONS, step_us),),
            capacity_blocks=capacity.blocks,
            since_ms=NOW_MS - age_ms if age_ms else 0,
        ),
    )


def joined(
    capacities: Sequence[Capacity], n_blocks: int, rng: random.Random, ages_ms: Sequence[int]
) -> tuple[float, list[Host], int]:
    """(flow when all have joined, hosts when nobody moves any more, moves)."""
    swarm: dict[PeerId, Announcement] = {}

    def place(n: int, span: Span) -> None:
        one = announce(n, n_blocks, span, capacities[n], age_ms=ages_ms[n])
        swarm[one.peer_id] = one

    def hosts() -> list[Host]:
        spans = [(swarm[PEERS[n]].span, one) for n, one in enumerate(capacities)]
        return [Host(span, one.blocks_per_s) for span, one in spans if span]

    for n in rng.sample(range(len(capacities)), len(capacities)):
        span = choose_span(
            swarm.values(),
            manifest=MANIFEST,
            n_blocks=n_blocks,
            capacity_blocks=capacities[n].blocks,
            peer_id=PEERS[n],
            now_ms=NOW_MS,
        )
        place(n, span)
    at_first, n_moves, quiet = max_flow(hosts(), n_blocks), 0, 0
    for turn in count():
        table = Table.of(swarm.values(), MANIFEST, n_blocks, now_ms=NOW_MS)
        move = next_move(table, turn, 60.0)
        quiet = quiet + 1 if move is None else 0
        if quiet == QUIET_TURNS or turn == 200:
            return at_first, hosts(), n_moves
        if move is not None:
            n_moves += 1
            place(PEERS.index(move[0]), move[1])
    raise AssertionError("unreachable")


def against_the_optimum(n_cases: int, time_limit_s: float, seed: int) -> None:
    rng, ratios, n_moves = random.Random(seed), {name: [] for name in ROWS}, 0
    stuck = []
    for case in range(n_cases):
        n_blocks, drawn = random_capacities(rng)
        capacities = [Capacity(*one) for one in drawn]
        best, _ = exact_placement(drawn, n_blocks, time_limit_s=time_limit_s)
        spans = plan_swarm(capacities, n_blocks)
        planned = [Host(s, one.blocks_per_s) for s, one in zip(spans, capacities, strict=True)]
        ages_ms = [round(rng.expovariate(1 / HOUR_MS)) + 1 for _ in capacities]
        at_first, after, moved = joined(capacities, n_blocks, rng, ages_ms)
        old, fresh = (
            joined(capacities, n_blocks, rng, [age_ms] * len(capacities))[1]
            for age_ms in (HOUR_MS, 1)
        )
        n_moves += moved
        ended = dict(zip(ROWS[2:], (after, old, fresh), strict=True))
        flows = {name: max_flow(hosts, n_blocks) for name, hosts in ended.items()}
        flows |= {ROWS[0]: max_flow(planned, n_blocks), ROWS[1]: at_first}
        for name, flow in flows.items():
            ratios[name].append(flow / best)
            if name in ended and flow < WORST * best:
                stuck.append((case, name, ended[name], n_blocks, best))
    print(f"\n{n_cases} swarms of 2 to 10 nodes, seed {seed}; {n_moves / n_cases:.2f} moves each\n")
    common.table(
        ["flow / exact optimum", "mean", "worst", "below 0.80", "goal"],
        [
            [
                name,
                f"{sum(values) / len(values):.3f}",
                f"{min(values):.3f}",
                str(sum(value < WORST for value in values)),
                "" if name == ROWS[1] else GOAL,
            ]
            for name, values in ratios.items()
        ],
    )
    what_moves_could_do(stuck)


def what_moves_could_do(stuck: Sequence[tuple[int, str, Sequence[Host], int, float]]) -> None:
    """Of swarms that ended below the goal: what any order of moves makes of them."""
    rows = []
    for case, name, hosts, n_blocks, best in stuck:
        reached = [best_by_moves(hosts, n_blocks, in_place=in_place) for in_place in (False, True)]
        rows.append(
            [
                f"{case}, {name}",
                ", ".join(f"{host.span} ({host.blocks_per_s:.0f}/s)" for host in hosts),
                f"{max_flow(hosts, n_blocks) / best:.3f}",
                *(
                    f"{one.tokens_per_s / best:.3f}, {one.n_moves} moves"
                    + ("" if one.is_all else f" (of {one.n_placements} placements)")
                    for one in reached
                ),
            ]
        )
    if rows:
        print(f"\nBelow {WORST:g}, and the best that moves lead to which leave no block alone\n")
        titles = [
            "case",
            "hosts",
            "is",
            "who moves serves nothing",
            "who moves serves what it keeps",
        ]
        common.table(titles, rows)


GOAL = "mean >= 0.95, worst >= 0.80"
ROWS = (
    "planned together",
    "joined one by one",
    "joined one by one, then moves",
    "the same, all an hour old",
    "the same, all just come",
)


def decision_times(sizes: Sequence[int], rounds: int) -> None:
    rows = []
    for size in sizes:
        rng = random.Random(2)
        swarm = []
        for n in range(size):
            capacity = Capacity(rng.randint(2, 40), 500 * rng.lognormvariate(0, 1))
            # Front-heavy, so that there is something to mend.
            start = int(rng.betavariate(1, 1.5) * (N_BLOCKS - capacity.blocks + 1))
            span = Span(start, start + capacity.blocks)
            age_ms, region = round(rng.expovariate(1 / HOUR_MS)) + 1, rng.choice("abc")
            swarm.append(announce(n, N_BLOCKS, span, capacity, age_ms=age_ms, region=region))

        def join(turn: int, swarm: list[Announcement] = swarm) -> None:
            choose_span(
                swarm,
                manifest=MANIFEST,
                n_blocks=N_BLOCKS,
                capacity_blocks=20,
                peer_id=PEERS[-1],
                region="a",
                now_ms=NOW_MS + turn * 30_000,
            )

        def move(turn: int, reload_s: float = 60.0, swarm: list[Announcement] = swarm) -> None:
            with np.errstate(invalid="ignore"):
                choose_move(
                    swarm,
                    manifest=MANIFEST,
                    n_blocks=N_BLOCKS,
                    capacity_blocks=20,
                    peer_id=PEERS[0],
                    now_ms=NOW_MS + turn * 30_000,
                    reload_s=reload_s,
                )

        in_vain = partial(move, reload_s=float("inf"))
        rows.append((size, *(seconds(call, rounds) for call in (join, move, in_vain))))
    print(f"\nCPU seconds of one decision, {N_BLOCKS} blocks, worst of {rounds}\n")
    common.table(
        ["peers", "choose_span", "choose_move", "choose_move, nothing pays", "goal"],
        [
            [str(size), *(f"{value:.3f}" for value in values), goal]
            for (size, *values), goal in zip(rows, ("<= 0.5", "<= 10 x"), strict=False)
        ],
    )


def seconds(call: Callable[[int], None], rounds: int) -> float:
    """Of this process, the worst of several turns."""
    worst = 0.0
    for turn in range(rounds):
        began = time.process_time()
        call(turn)
        worst = max(worst, time.process_time() - began)
    return worst


PEERS: list[PeerId] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200, help="0: decision times alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--time-limit", type=float, default=20.0, help="of the solver, per case")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    PEERS.extend(peer_of(n) for n in range(10_001))
    print(common.machine())
    decision_times((1_000, 10_000), options.rounds)
    if options.cases:
        against_the_optimum(options.cases, options.time_limit, options.seed)


if __name__ == "__main__":
    main()
