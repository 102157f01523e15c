"""The peers that may serve a session, as columns of numbers: what a search over thousands needs.

In: announcements. Out: `Candidates`, one per group that may serve together. A record is read once
for each kind of request and remembered for as long as it is among those given: tables change by a
few records between two requests. What the numbers mean is said in `route_cost.py` and `wanted.py`.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.announcements import Announcement
from protocol.identity import PeerId
from scheduler.prices import CONTEXT_UNIT
from scheduler.route_cost import Cost, announced_cost, tightness_ms
from scheduler.shortlist import Hosts
from scheduler.wanted import Wanted

MAX_KINDS = 8  # of requests remembered

Column = NDArray[np.float64]


class _Row(NamedTuple):
    """What one record says to one kind of request."""

    announcement: Announcement  # kept, so that its id stays its own
    profile: str
    numbers: tuple[float, ...]  # empty: ruled out


@dataclass(frozen=True, slots=True)
class Candidates:
    """Peers of one group, in an order drawn by lot."""

    peers: Sequence[Announcement]
    starts: NDArray[np.intp]
    stops: NDArray[np.intp]
    regions: NDArray[np.intp]
    cost: Cost[Column]
    has_room: NDArray[np.bool_]  # for the session in all their blocks

    @property
    def hosts(self) -> Hosts:
        """As the search takes them."""
        cost = self.cost
        return Hosts(self.starts, self.stops, self.regions, cost.block_ms, cost.visit_ms)

    def roomy(self) -> "Candidates":
        """Those with room."""
        if self.has_room.all():
            return self
        chosen = np.flatnonzero(self.has_room)
        return Candidates(
            [self.peers[i] for i in chosen.tolist()],
            self.starts[chosen],
            self.stops[chosen],
            self.regions[chosen],
            Cost(*(column[chosen] for column in self.cost.parts())),
            self.has_room[chosen],
        )


def candidates(
    announcements: Sequence[Announcement],
    wanted: Wanted,
    *,
    slowdown: Mapping[PeerId, float],
    extra_ms: Mapping[PeerId, float],
    seed: int,
) -> list[Candidates]:
    """Groups of peers that may serve `wanted` together, those of the first profile first."""
    groups: dict[str, tuple[list[Announcement], list[tuple[float, ...]]]] = {}
    avoid, n_positions = wanted.avoid, wanted.n_positions
    for announcement, profile, numbers in _read(announcements, wanted):
        if not numbers or announcement.peer_id in avoid or announcement.max_positions < n_positions:
            continue
        peers, rows = groups.setdefault(profile, ([], []))
        peers.append(announcement)
        rows.append(numbers)
    return [
        _drawn(*groups[profile], n_positions, slowdown, extra_ms, seed)
        for profile in sorted(groups)
        if {peer.peer_id for peer in groups[profile][0]}.issuperset(wanted.limits.require)
    ]


def _drawn(
    peers: list[Announcement],
    rows: list[tuple[float, ...]],
    n_positions: int,
    slowdown: Mapping[PeerId, float],
    extra_ms: Mapping[PeerId, float],
    seed: int,
) -> Candidates:
    table = np.fromiter(chain.from_iterable(rows), float).reshape(len(rows), -1)
    order = np.argsort(_lots(table[:, 0], seed), kind="stable")
    table, peers = table[order], [peers[i] for i in order.tolist()]
    _, starts, stops, position_bytes, free_bytes, *cost = table.T
    needed_bytes = position_bytes * n_positions
    regions: dict[str, int] = {}
    ones, zeros = np.ones(len(peers)), np.zeros(len(peers))
    return Candidates(
        peers,
        starts.astype(np.intp),
        stops.astype(np.intp),
        np.array([regions.setdefault(peer.region, len(regions)) for peer in peers]),
        Cost(*cost).believed(
            np.array([slowdown.get(p.peer_id, 1.0) for p in peers]) if slowdown else ones,
            np.array([extra_ms.get(p.peer_id, 0.0) for p in peers]) if extra_ms else zeros,
            tightness_ms(needed_bytes, free_bytes),
        ),
        needed_bytes <= free_bytes,
    )


def _lots(names: Column, seed: int) -> NDArray[np.uint64]:
    """A number per peer that looks drawn, the same on every machine: splitmix64 of its name."""
    mixed = names.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed


_lock = threading.Lock()  # routes are looked for on threads too
_read_before: OrderedDict[Wanted, dict[int, _Row]] = OrderedDict()


def _read(announcements: Sequence[Announcement], wanted: Wanted) -> list[_Row]:
    kind = _kind(wanted)
    with _lock:
        known = _read_before.get(kind, {})
    rows = [
        row if (row := known.get(id(announcement))) else _row(announcement, kind)
        for announcement in announcements
    ]
    with _lock:
        _read_before[kind] = {id(row.announcement): row for row in rows}
        _read_before.move_to_end(kind)
        while len(_read_before) > MAX_KINDS:
            _read_before.popitem(last=False)
    return rows


def _kind(wanted: Wanted) -> Wanted:
    """`wanted` as far as what is remembered depends on it."""
    unit = 2 * CONTEXT_UNIT  # prices know no finer context
    return replace(wanted, avoid=(), n_positions=wanted.n_positions // unit * unit)


def _row(peer: Announcement, kind: Wanted) -> _Row:
    if peer.span is None or kind.rules_out(peer) is not None:
        return _Row(peer, "", ())
    name = int.from_bytes(sha256(peer.peer_id.encode()).digest()[:6])  # exact in a float
    room = peer.measured.position_bytes, peer.kv_free_bytes
    numbers = (name, peer.span.start, peer.span.stop, *room, *announced_cost(peer, kind).parts())
    return _Row(peer, "" if kind.allow_mix else peer.profile, numbers)
