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

from ledger.meter import CONTEXT_UNIT
from protocol.announcements import Announcement
from protocol.identity import PeerId
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
    found = [
        _drawn(group, wanted, slowdown, extra_ms, seed) for group in _read(announcements, wanted)
    ]
    return [group for group in found if group is not None]


class _Group(NamedTuple):
    """Peers that may serve together, as their records tell it."""

    peers: list[Announcement]
    place: dict[PeerId, int]
    table: Column  # [peer, number], see `_row`
    regions: NDArray[np.intp]


def _drawn(
    group: _Group,
    wanted: Wanted,
    slowdown: Mapping[PeerId, float],
    extra_ms: Mapping[PeerId, float],
    seed: int,
) -> Candidates | None:
    """Those of a group that this very session may have, in an order drawn by lot."""
    place, n_positions = group.place, wanted.n_positions
    fits = group.table[:, 1] >= n_positions
    fits[[place[peer] for peer in wanted.avoid if peer in place]] = False
    if not fits.any() or not all(p in place and fits[place[p]] for p in wanted.limits.require):
        return None
    slower, dearer_ms = np.ones(len(fits)), np.zeros(len(fits))
    for believed, column in ((slowdown, slower), (extra_ms, dearer_ms)):
        known = [(place[peer], value) for peer, value in believed.items() if peer in place]
        if known:
            rows, values = zip(*known, strict=True)
            column[[*rows]] = values
    chosen = np.argsort(_lots(group.table[:, 0], seed), kind="stable")
    chosen = chosen[fits[chosen]]
    _, _, starts, stops, position_bytes, free_bytes, kept_bytes, *cost = group.table[chosen].T
    needed_bytes = position_bytes * n_positions
    if wanted.has_begun:
        free_bytes = free_bytes + kept_bytes
    tight_ms = tightness_ms(needed_bytes, free_bytes)
    return Candidates(
        [group.peers[i] for i in chosen.tolist()],
        starts.astype(np.intp),
        stops.astype(np.intp),
        group.regions[chosen],
        Cost(*cost).believed(wanted, slower[chosen], dearer_ms[chosen], tight_ms),
        needed_bytes <= free_bytes,
    )


def _lots(names: Column, seed: int) -> NDArray[np.uint64]:
    """A number per peer that looks drawn, the same on every machine: splitmix64 of its name."""
    mixed = names.astype(np.uint64) ^ np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed


class _Read(NamedTuple):
    """What was read for one kind of request."""

    announcements: tuple[Announcement, ...]
    rows: dict[int, _Row]
    groups: list[_Group]


_lock = threading.Lock()  # routes are looked for on threads too
_read_before: OrderedDict[Wanted, _Read] = OrderedDict()


def _read(announcements: Sequence[Announcement], wanted: Wanted) -> list[_Group]:
    """Everybody that may serve sessions of this kind; only records that are new are read."""
    kind, told = _kind(wanted), tuple(announcements)
    with _lock:
        before = _read_before.get(kind)
    if before is not None and before.announcements == told:  # the same objects: a glance
        return before.groups
    known = before.rows if before else {}
    rows = [
        row if (row := known.get(id(announcement))) else _row(announcement, kind)
        for announcement in told
    ]
    by_profile: dict[str, list[_Row]] = {}
    for row in rows:
        if row.numbers:
            by_profile.setdefault(row.profile, []).append(row)
    groups = [_group(by_profile[profile]) for profile in sorted(by_profile)]
    with _lock:
        _read_before[kind] = _Read(told, {id(row.announcement): row for row in rows}, groups)
        _read_before.move_to_end(kind)
        while len(_read_before) > MAX_KINDS:
            _read_before.popitem(last=False)
    return groups


def _group(rows: Sequence[_Row]) -> _Group:
    peers = [row.announcement for row in rows]
    regions: dict[str, int] = {}
    return _Group(
        peers,
        {peer.peer_id: i for i, peer in enumerate(peers)},
        np.fromiter(chain.from_iterable(row.numbers for row in rows), float).reshape(len(rows), -1),
        np.array([regions.setdefault(peer.region, len(regions)) for peer in peers]),
    )


def _kind(wanted: Wanted) -> Wanted:
    """`wanted` as far as what is remembered depends on it."""
    unit = 2 * CONTEXT_UNIT  # prices know no finer context
    n_positions = wanted.n_positions // unit * unit
    return replace(
        wanted,
        avoid=(),
        n_positions=n_positions,
        n_prompt=0,
        has_begun=False,
        limits=replace(wanted.limits, require=(), max_cost=None),
    )


def _row(peer: Announcement, kind: Wanted) -> _Row:
    if peer.span is None or kind.rules_out(peer) is not None:
        return _Row(peer, "", ())
    name = int.from_bytes(sha256(peer.peer_id.encode()).digest()[:6])  # exact in a float
    span, room = (
        (peer.span.start, peer.span.stop),
        (peer.measured.position_bytes, peer.kv_free_bytes, peer.measured.kept_bytes),
    )
    numbers = (name, peer.max_positions, *span, *room, *announced_cost(peer, kind).parts())
    return _Row(peer, "" if kind.allow_mix else peer.profile, numbers)
