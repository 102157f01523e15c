"""How long a row takes from one peer to another, as well as we can know.

In: what peers publish about their links, and what we measured ourselves. Out: one-way milliseconds
for any pair. Measuring is left to whoever dials. What records say of links is read once for as long
as the same ones are asked about: many routes are looked for between two changes of a table.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocol.announcements import Announcement
from protocol.identity import PeerId

UNKNOWN_MS = 20.0  # one way, on a network we know nothing about: a continent's width
SAME_HOST_MS = 0.2
MAX_TABLES = 4  # remembered

Pair = tuple[PeerId, PeerId]


class Latencies:
    """One-way latencies between peers. A link is as fast as its fastest credible measurement:
    queues and sleeping radios only ever add to one. Records are read as pairs are asked for: a
    route is about few of a swarm's peers.
    """

    def __init__(
        self, announcements: Iterable[Announcement], measured_rtt_ms: Mapping[Pair, float] | None
    ) -> None:
        self._told = _told(tuple(announcements))
        self._own_ms: dict[Pair, float] = {}
        for (one, other), rtt_ms in (measured_rtt_ms or {}).items():
            pair = _pair(one, other)
            self._own_ms[pair] = min(rtt_ms / 2, self._own_ms.get(pair, rtt_ms / 2))

    def one_way_ms(self, one: PeerId | None, other: PeerId | None) -> float:
        """Between two peers; nothing from a peer to itself, or where a chain has no neighbour."""
        if one is None or other is None or one == other:
            return 0.0
        return float(self.matrix([one, other])[0, 1])

    def matrix(self, peers: Sequence[PeerId]) -> NDArray[np.float64]:
        """Between all of some peers, each once: [from, to].

        A link that nobody measured is taken for a usual one between those two regions.
        """
        told, place = self._told, {peer: i for i, peer in enumerate(peers)}
        among = np.full(len(told.regions), -1)  # by their place among all
        rows = np.array([told.place.get(peer, -1) for peer in peers])
        among[rows] = np.arange(len(peers))
        among[-1] = -1
        links = [told.links(row) for row in rows.tolist()]
        sources = np.repeat(np.arange(len(peers)), [len(of_peer.targets) for of_peer in links])
        targets = np.concatenate([_NOBODY.targets, *(of_peer.targets for of_peer in links)])
        links_ms = np.concatenate([_NOBODY.ms, *(of_peer.ms for of_peer in links)])
        regions = told.regions[rows]
        latencies = _usual(regions[sources], told.regions[targets], links_ms, regions)
        local = np.array([of_peer.is_on_loopback for of_peer in links], bool)
        is_here = local[:, None] & local[None, :]
        latencies[is_here] = np.minimum(latencies[is_here], SAME_HOST_MS)
        inside = among[targets] >= 0
        known = np.full(latencies.shape, np.inf)
        np.minimum.at(known, (sources[inside], among[targets][inside]), links_ms[inside])
        known = np.minimum(known, known.T)
        latencies = np.where(np.isfinite(known), known, latencies)
        # Our own measurements are not one more opinion: they replace what the two peers claim.
        for (one_peer, other_peer), ms in self._own_ms.items():
            if one_peer in place and other_peer in place:
                i, j = place[one_peer], place[other_peer]
                latencies[i, j] = latencies[j, i] = ms
        np.fill_diagonal(latencies, 0.0)
        return latencies

    def to_many(self, one: PeerId | None, peers: Sequence[PeerId]) -> NDArray[np.float64]:
        """Between one peer, or nobody, and each of some others."""
        if one is None:
            return np.zeros(len(peers))
        return self.matrix([one, *peers])[0, 1:]


class _Links(NamedTuple):
    """What one record says of its peer's way to others."""

    targets: NDArray[np.intp]  # places; -1 is whoever is not known here
    ms: NDArray[np.float64]
    is_on_loopback: bool


_NOBODY = _Links(np.empty(0, np.intp), np.empty(0), False)


class _Told:
    """What some announcements say of links. A peer's are read when they are first asked for."""

    def __init__(self, announcements: tuple[Announcement, ...]) -> None:
        self.announcements = announcements
        self._peers = tuple({peer.peer_id: peer for peer in announcements}.values())
        self.place = {peer.peer_id: i for i, peer in enumerate(self._peers)}
        names: dict[str, int] = {"": -1}
        regions = [names.setdefault(peer.region, len(names) - 1) for peer in self._peers]
        self.regions = np.array([*regions, -1])  # the last: of whoever is not known here
        self._links: dict[int, _Links] = {-1: _NOBODY}

    def links(self, place: int) -> _Links:
        found = self._links.get(place)
        if found is None:
            peer = self._peers[place]
            targets = [self.place.get(link.peer_id, -1) for link in peer.links]
            self._links[place] = found = _Links(
                np.array(targets, np.intp),
                np.array([link.rtt_us for link in peer.links], np.float64) / 2000,
                any(_is_loopback(address.host) for address in peer.addresses),
            )
        return found


_lock = threading.Lock()  # routes are looked for on threads too
_told_before: list[_Told] = []  # the last first


def _told(announcements: tuple[Announcement, ...]) -> _Told:
    with _lock:
        before = tuple(_told_before)
    for told in before:
        if told.announcements == announcements:  # the same objects: a glance
            return told
    told = _Told(announcements)
    with _lock:
        _told_before[:] = [told, *_told_before[: MAX_TABLES - 1]]
    return told


def _usual(
    one: NDArray[np.intp], other: NDArray[np.intp], ms: NDArray[np.float64], of: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Between peers in the regions `of`: the median of what was measured between two such regions.
    Region -1 is none.
    """
    n = int(max(of.max(initial=-1), one.max(initial=-1), other.max(initial=-1))) + 1
    usual = np.full((n + 1, n + 1), UNKNOWN_MS)  # region -1 is the last
    is_told = (one >= 0) & (other >= 0)
    low, high = np.minimum(one, other)[is_told], np.maximum(one, other)[is_told]
    order = np.lexsort((ms[is_told], high, low))
    pairs, first, count = np.unique((low * n + high)[order], return_index=True, return_counts=True)
    medians = ms[is_told][order][first + count // 2]
    usual[pairs // max(n, 1), pairs % max(n, 1)] = medians
    usual[pairs % max(n, 1), pairs // max(n, 1)] = medians
    return usual[np.ix_(of, of)]


def _pair(one: PeerId, other: PeerId) -> Pair:
    return (one, other) if one < other else (other, one)


@lru_cache(maxsize=4096)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
