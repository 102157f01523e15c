"""How long a row takes from one peer to another, as well as we can know.

In: what peers publish about their links, and what we measured ourselves. Out: one-way milliseconds
for any pair. Measuring is left to whoever dials.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from protocol.announcements import Announcement
from protocol.identity import PeerId

UNKNOWN_MS = 20.0  # one way, on a network we know nothing about: a continent's width
SAME_HOST_MS = 0.2

Pair = tuple[PeerId, PeerId]


class Latencies:
    """One-way latencies between peers. A link is as fast as its fastest credible measurement:
    queues and sleeping radios only ever add to one.
    """

    def __init__(
        self, announcements: Iterable[Announcement], measured_rtt_ms: Mapping[Pair, float] | None
    ) -> None:
        self._one_way_ms: dict[Pair, float] = {}
        self._on_loopback: set[PeerId] = set()
        for announcement in announcements:
            if any(_is_loopback(address.host) for address in announcement.addresses):
                self._on_loopback.add(announcement.peer_id)
            for link in announcement.links:
                self._learn((announcement.peer_id, link.peer_id), link.rtt_us / 2000)
        # Our own measurements are not one more opinion: they replace what the two peers claim.
        own: dict[Pair, float] = {}
        for (one, other), rtt_ms in (measured_rtt_ms or {}).items():
            pair = _pair(one, other)
            own[pair] = min(rtt_ms / 2, own.get(pair, rtt_ms / 2))
        self._one_way_ms |= own

    def one_way_ms(self, one: PeerId | None, other: PeerId | None) -> float:
        """Between two peers; nothing from a peer to itself, or where a chain has no neighbour."""
        if one is None or other is None or one == other:
            return 0.0
        known_ms = self._one_way_ms.get(_pair(one, other), UNKNOWN_MS)
        if one in self._on_loopback and other in self._on_loopback:
            return min(known_ms, SAME_HOST_MS)
        return known_ms

    def _learn(self, link: Pair, ms: float) -> None:
        pair = _pair(*link)
        self._one_way_ms[pair] = min(ms, self._one_way_ms.get(pair, ms))


def _pair(one: PeerId, other: PeerId) -> Pair:
    return (one, other) if one < other else (other, one)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
