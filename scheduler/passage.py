"""How long a token takes through a swarm that is in use, with one host more here or there.

In: hosts (span, speed, region), and places that a newcomer could take. Out: for each place, the
milliseconds of the soonest way through the model that uses it. Placement asks where flow leaves it
a choice: of places that add as much flow, the one that saves the most time is where fast hosts are
missed, and begins or ends where theirs do, so that routes change hosts seldom.

The swarm is thought to carry `DEMAND` of its flow, in `ROUNDS` portions, each on the soonest way
that the ones before leave: what a block costs grows with its host's load as a queue does, and
traffic spreads as that of selfish drivers (Wardrop 1952; all-or-nothing assignment in increments).
Hosts of one region are near each other; of others, far. A way is found block by block (Viterbi
1967), hosts side by side.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from protocol.messages import Span
from scheduler.board import Member
from scheduler.flow import Floats, Ints

DEMAND = 0.4  # of the flow
ROUNDS = 8
MOST_LOAD = 0.9
NEAR_MS, FAR_MS = 20.0, 110.0  # from one host to the next
ALONE = 5.0  # a row alone in its step takes as long as so many of a full batch
NOBODY = 20.0  # times as long as at a typical host, a block takes that nobody serves yet


class Hosts(NamedTuple):
    """Sorted by region; the last one stands for whoever will serve what nobody does."""

    starts: Ints
    stops: Ints
    block_ms: Floats
    blocks_per_s: Floats
    region: Ints
    firsts: Ints  # of each region

    def mirrored(self, n_blocks: int) -> "Hosts":
        return self._replace(starts=n_blocks - self.stops, stops=n_blocks - self.starts)


def through_ms(
    members: Sequence[Member],
    regions: Sequence[str],
    n_blocks: int,
    flow: float,
    places: Sequence[Span],
    *,
    region: str,
    blocks_per_s: float,
) -> Floats:
    """[place]: the soonest way that uses it, for one who runs so many blocks a second."""
    names = sorted({*regions, region})
    hop_ms = _hop_ms(len(names) + 1)
    hosts = _hosts(members, [names.index(name) for name in regions], n_blocks)
    hosts = _loaded(hosts, n_blocks, flow, hop_ms)
    own, own_ms = names.index(region), ALONE * 1000 / blocks_per_s
    until, _ = _soonest(hosts, n_blocks, hop_ms)
    after, _ = _soonest(hosts.mirrored(n_blocks), n_blocks, hop_ms)
    enter_ms = np.min(until + hop_ms[own], axis=1)
    leave_ms = np.min(after[::-1] + hop_ms[own], axis=1)
    enter_ms[0] = leave_ms[-1] = 0.0
    at = np.arange(n_blocks + 1) * own_ms
    entered, left = enter_ms - at, leave_ms + at
    return np.array(
        [
            np.min(
                np.minimum.accumulate(entered[span.start : span.stop])
                + left[span.start + 1 : span.stop + 1]
            )
            for span in places
        ]
    )


def _hosts(members: Sequence[Member], regions: Sequence[int], n_blocks: int) -> Hosts:
    order = np.argsort(regions, kind="stable").tolist()
    ordered = [members[i] for i in order]
    region = np.array([*(regions[i] for i in order), max(regions, default=0) + 1])
    speeds = np.array([member.blocks_per_s for member in ordered])
    typical = float(np.median(speeds)) if len(speeds) else 1.0
    speeds = np.append(speeds, typical / NOBODY)
    firsts = np.flatnonzero(np.diff(region, prepend=-1))
    return Hosts(
        np.array([*(member.span.start for member in ordered), 0]),
        np.array([*(member.span.stop for member in ordered), n_blocks]),
        ALONE * 1000 / speeds,
        speeds,
        region,
        firsts,
    )


def _hop_ms(n_regions: int) -> Floats:
    hop_ms = np.full((n_regions, n_regions), FAR_MS)
    np.fill_diagonal(hop_ms, NEAR_MS)
    return hop_ms


def _loaded(hosts: Hosts, n_blocks: int, flow: float, hop_ms: Floats) -> Hosts:
    """The same hosts, whose blocks take as long as they do in a swarm that is in use."""
    used = np.zeros(len(hosts.starts))
    loaded = hosts
    for _ in range(ROUNDS):
        _, arrived = _soonest(loaded, n_blocks, hop_ms)
        for host, n_run in _way(loaded, arrived, hop_ms):
            used[host] += n_run * flow * DEMAND / ROUNDS
        load = np.minimum(used / hosts.blocks_per_s, MOST_LOAD)
        loaded = hosts._replace(block_ms=hosts.block_ms / (1 - load))
    return loaded


def _soonest(hosts: Hosts, n_blocks: int, hop_ms: Floats) -> tuple[Floats, Floats]:
    """[border, region]: when a token can have run all blocks before it, the last one in a region;
    and [border, host]: the same by host.
    """
    until = np.zeros((n_blocks + 1, len(hop_ms)))
    arrived = np.full((n_blocks + 1, len(hosts.starts)), np.inf)
    for block in range(n_blocks):
        enter_ms = np.min(until[block] + hop_ms, axis=1) if block else until[0]
        begun = np.minimum(arrived[block], enter_ms[hosts.region]) + hosts.block_ms
        runs = (hosts.starts <= block) & (block < hosts.stops)
        arrived[block + 1] = np.where(runs, begun, np.inf)
        until[block + 1] = np.inf
        regions = hosts.region[hosts.firsts]
        until[block + 1][regions] = np.minimum.reduceat(arrived[block + 1], hosts.firsts)
    return until, arrived


def _way(hosts: Hosts, arrived: Floats, hop_ms: Floats) -> Iterator[tuple[int, int]]:
    """(host, blocks) of the soonest way, from its end."""
    block, host, n_run = len(arrived) - 1, int(np.argmin(arrived[-1])), 0
    while block:
        block, n_run = block - 1, n_run + 1
        came_ms = arrived[block] + hop_ms[hosts.region[host]][hosts.region]
        before = int(np.argmin(came_ms)) if block else host
        if not block or came_ms[before] < arrived[block][host]:
            yield host, n_run
            host, n_run = before, 0
