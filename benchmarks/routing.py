"""How long one route takes in swarms of 100 to 10,000 peers, and what the short list costs.

Peers of random speed, span and place serve 126 blocks; each publishes the 16 nearest of 64 peers
that it met, half of them ask a price. A route is timed as processor time of one thread, from
announcements to the k best, seats not counted; medians. Beside it the bound: the cheapest way with
every peer a candidate for every block it holds, that may visit a peer twice; no route is cheaper.
Goals: <= 10 ms at 1,000 peers, <= 10 times that at 10,000. Run: python benchmarks/routing.py
"""

import math
import random
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import common

from ledger.meter import Rates
from ledger.objects import Offer
from protocol.address import Address
from protocol.announcements import Announcement, Link
from protocol.clock import wall_ms
from protocol.identity import peer_id_from_public_key
from protocol.measured import Measured
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID, SigningKey
from scheduler.candidates import candidates
from scheduler.latency import Latencies
from scheduler.route_cost import cost_of
from scheduler.route_search import Links, lower_bound_ms
from scheduler.routing import Route, Wanted, find_routes

N_BLOCKS = 126
MANIFEST = bytes(32)
PEERS = (100, 300, 1000, 3000, 10_000)
REPEATS = 15
MET = 64
REGIONS = {"eu": (0, 0), "us": (45, 10), "asia": (80, -40)}  # milliseconds one way, on a map


def swarm(n_peers: int, *, seed: int = 1) -> list[Announcement]:
    """Peers around three places, some 3 ms apart inside one; spans lie anywhere."""
    rng = random.Random(seed)
    keys = [SigningKey.from_seed(n.to_bytes(32, "big")) for n in range(n_peers)]
    ids = [peer_id_from_public_key(key.public_key) for key in keys]
    regions = [rng.choice([*REGIONS]) for _ in ids]
    places = [tuple(rng.gauss(x, 3) for x in REGIONS[region]) for region in regions]
    offers = [_offer(key, price) for key, price in zip(keys, _prices(rng, n_peers), strict=True)]
    peers = []
    for n, peer_id in enumerate(ids):
        length = rng.randint(4, 24)
        start = rng.randint(0, N_BLOCKS - length)
        if n < N_BLOCKS // 9:  # nobody can miss a block
            start, length = 9 * n, 9
        met = rng.sample(range(n_peers), min(MET, n_peers))
        links = sorted(
            (round(2000 * (0.3 + math.dist(places[n], places[other]))), other)
            for other in met
            if other != n
        )
        alone_us = round(length * 1000 * rng.lognormvariate(0.7, 0.6))
        steps = tuple((size, round(alone_us * (1 + 0.15 * (size - 1)))) for size in (1, 4, 16))
        peers.append(
            Announcement(
                peer_id=peer_id,
                addresses=(Address(f"10.0.{n // 250}.{n % 250 + 1}", 31400, peer_id),),
                model="random",
                manifest=MANIFEST,
                n_blocks=N_BLOCKS,
                span=Span(start, start + length),
                profile="bfloat16/none/bfloat16",
                decode_us=alone_us,
                prefill_us_per_row=500,
                kv_free_bytes=4 << 30,
                max_positions=8192,
                n_sessions=min(12, int(rng.expovariate(0.4))),
                region=regions[n],
                offer=offers[n],
                links=tuple(Link(ids[other], rtt_us) for rtt_us, other in links[:16]),
                measured=Measured(
                    decode_steps_us=steps,
                    queue_us=int(rng.expovariate(1 / 400)),
                    position_bytes=length * 4096,
                ),
            )
        )
    return peers


def _prices(rng: random.Random, n: int) -> list[int]:
    return [rng.choice([0, 0, 0, 10_000, 50_000, 200_000]) for _ in range(n)]


def _offer(key: SigningKey, price: int) -> bytes:
    if not price:
        return b""
    return (
        Offer(
            provider=key.public_key,
            offer_no=1,
            manifest=MANIFEST,
            layer_lo=0,
            layer_hi=N_BLOCKS,
            exec_profile="bfloat16/none/bfloat16",
            rates=Rates(prefill_tl=price, decode_tl=price),
            max_ctx=8192,
            not_before_ms=wall_ms(),
            expires_ms=wall_ms() + 10**7,
        )
        .seal(OPEN_SWARM_ID, key)
        .encode()
    )


def timed_ms(peers: Sequence[Announcement], wanted: Wanted) -> list[float]:
    """Of one route each; the first, which reads every offer, comes first."""
    took_ms = []
    for seed in range(REPEATS + 1):
        began_s = time.thread_time()
        find_routes(peers, wanted, seed=seed)
        took_ms.append((time.thread_time() - began_s) * 1000)
    return took_ms


def cost_ms(route: Route, peers: Sequence[Announcement], wanted: Wanted) -> float:
    """With the latencies of all peers in mind, as the bound is."""
    latencies = Latencies(peers, None).matrix([peer.peer_id for peer in peers])
    place = {peer.peer_id: i for i, peer in enumerate(peers)}
    ring = [*route.peer_ids, route.peer_ids[0]]
    links_ms = sum(latencies[place[one], place[other]] for one, other in pairwise(ring))
    costs = [(cost_of(hop.announcement, wanted), len(hop.span)) for hop in route.hops]
    return links_ms + sum(cost.visit_ms + cost.block_ms * n for cost, n in costs)


def bound_ms(peers: Sequence[Announcement], wanted: Wanted) -> float:
    """What no route is cheaper than."""
    latencies = Latencies(peers, None)
    [group] = candidates(peers, wanted, slowdown={}, extra_ms={}, seed=0)

    def links(kept: Sequence[int]) -> Links:
        return Links(latencies.matrix([group.peers[i].peer_id for i in kept]))

    return lower_bound_ms(group.hosts, Span(0, N_BLOCKS), links)


def main() -> None:
    wanted = Wanted(manifest=MANIFEST, n_blocks=N_BLOCKS, n_positions=2048)
    rows, warm_ms = [], {}
    for n_peers in PEERS:
        peers = swarm(n_peers)
        first_ms, *later_ms = timed_ms(peers, wanted)
        warm_ms[n_peers] = statistics.median(later_ms)
        best = find_routes(peers, wanted)[0]
        least_ms = bound_ms(peers, wanted) if n_peers <= 3000 else None
        rows.append(
            (
                f"{n_peers:,}",
                f"{warm_ms[n_peers]:.1f} ms",
                f"{first_ms:.0f} ms",
                f"{len(best.hops)}",
                f"{best.cost_ms:.1f} ms",
                "-" if least_ms is None else f"{cost_ms(best, peers, wanted) / least_ms:.3f}",
            )
        )
    print(f"\n{common.machine()}; {N_BLOCKS} blocks\n")
    heading = ("peers", "one route", "the first, offers unread", "hops", "a token", "/ the bound")
    common.table(heading, rows)
    at_1000, at_10000 = warm_ms[1000], warm_ms[10_000]
    print(f"\nAt 1,000 peers {at_1000:.1f} ms (goal <= 10).", end=" ")
    print(f"At 10,000 {at_10000 / at_1000:.1f} times that (goal <= 10).")


if __name__ == "__main__":
    main()
