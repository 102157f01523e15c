"""Where declared regions lie on the earth, and which of them measurements contradict.

In: announcements, with the regions that peers say they are in and the round trips they measured to
each other. Out: who cannot be where it says, and why: light would not have got there and back. A
round trip is never shorter than light takes between the nearest points of two regions, whatever a
network does; longer it may be for any reason, so nothing here ever proves that a region is true
(constraint-based geolocation bounds hosts like this: Gueye et al., IEEE/ACM ToN 14(6), 2006). What
a relay carried is not counted. A region that is not among `PLACES` is contradicted by nothing.

Of two peers that contradict each other either may lie. So the fewest peers are doubted that leave
no contradiction, most contradicted first, and nobody on the word of one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import acos, cos, radians, sin
from typing import NamedTuple

from protocol.announcements import Announcement
from protocol.identity import PeerId, public_key_from_peer_id

LEAST_OBSERVERS = 2
LIGHT_KM_PER_MS = 299.792458
EARTH_KM = 6371.0


class Circle(NamedTuple):
    """All that is within so far of a point: rather too much land than too little."""

    latitude: float
    longitude: float
    radius_km: float


Place = tuple[Circle, ...]

_EU: Place = (Circle(50, 15, 2800),)
_US: Place = (Circle(39, -98, 2700), Circle(64, -150, 1400), Circle(20.5, -157, 600))
_CA: Place = (Circle(56, -96, 3200),)
_MX: Place = (Circle(20, -98, 2300),)
_SA: Place = (Circle(-15, -60, 4600),)
_AF: Place = (Circle(2, 18, 5200),)
_ME: Place = (Circle(27, 45, 2300),)
_EAST_ASIA: Place = (Circle(35, 120, 2500),)
_SOUTH_ASIA: Place = (Circle(22, 78, 2000),)
_SOUTHEAST_ASIA: Place = (Circle(6, 110, 2800),)
_NORTH_ASIA: Place = (Circle(55, 100, 3800),)
_AU: Place = (Circle(-26, 134, 2500),)
_NZ: Place = (Circle(-41, 174, 1000),)
_OC: Place = (*_AU, *_NZ, Circle(-10, 170, 3500))
_AS: Place = (*_EAST_ASIA, *_SOUTH_ASIA, *_SOUTHEAST_ASIA, *_NORTH_ASIA, *_ME)

PLACES: dict[str, Place] = {
    "eu": _EU,
    "europe": _EU,
    "eu-west": (Circle(49, 0, 1600),),
    "eu-central": (Circle(50, 12, 1100),),
    "eu-north": (Circle(61, 10, 2000),),
    "eu-south": (Circle(41, 10, 2000),),
    "eu-east": (Circle(52, 28, 1600),),
    "us": _US,
    "us-east": (Circle(37, -79, 1500),),
    "us-central": (Circle(39, -95, 1500),),
    "us-west": (Circle(40, -117, 1500),),
    "ca": _CA,
    "mx": _MX,
    "na": (*_US, *_CA, *_MX),
    "northamerica": (*_US, *_CA, *_MX),
    "sa": _SA,
    "southamerica": _SA,
    "af": _AF,
    "africa": _AF,
    "me": _ME,
    "as": _AS,
    "asia": _AS,
    "as-east": _EAST_ASIA,
    "as-south": _SOUTH_ASIA,
    "as-southeast": _SOUTHEAST_ASIA,
    "as-north": _NORTH_ASIA,
    "ap": (*_EAST_ASIA, *_SOUTH_ASIA, *_SOUTHEAST_ASIA, *_OC),
    "ap-east": _EAST_ASIA,
    "ap-northeast": _EAST_ASIA,
    "ap-south": _SOUTH_ASIA,
    "ap-southeast": (*_SOUTHEAST_ASIA, *_AU),
    "oc": _OC,
    "oceania": _OC,
    "au": _AU,
    "australia": _AU,
    "nz": _NZ,
}


def is_within(region: str, wider: str) -> bool:
    """`eu-west` is within `eu`, and `EU` is the same as `eu`."""
    region, wider = region.casefold(), wider.casefold()
    return region == wider or region.startswith(f"{wider}-")


@lru_cache(maxsize=1024)
def place_of(region: str) -> str:
    """The longest beginning of a name that is a known place: `eu-west` of `EU-west-3`; or nothing.

    Numbers at the end of a word tell sites of one place apart, as clouds name theirs.
    """
    words = [word.rstrip("0123456789") for word in region.casefold().split("-")]
    found = ("-".join(words[:n]) for n in range(len(words), 0, -1))
    return next((name for name in found if name in PLACES), "")


@lru_cache(maxsize=4096)
def least_rtt_ms(region: str, other: str) -> float:
    """What light takes there and back, at least; 0 where nothing is known or they touch."""
    places = place_of(region), place_of(other)
    if not all(places):
        return 0.0
    apart_km = min(_apart_km(*pair) for pair in product(*(PLACES[name] for name in places)))
    return 2 * max(0.0, apart_km) / LIGHT_KM_PER_MS


def _apart_km(one: Circle, other: Circle) -> float:
    """Between the nearest points of two circles, on a sphere."""
    a, b = radians(one.latitude), radians(other.latitude)
    between = radians(one.longitude - other.longitude)
    cosine = sin(a) * sin(b) + cos(a) * cos(b) * cos(between)
    return EARTH_KM * acos(max(-1.0, min(1.0, cosine))) - one.radius_km - other.radius_km


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why a peer cannot be where it says. region, rtt_ms: of the sharpest contradiction."""

    claimed: str
    n_observers: int
    region: str
    rtt_ms: float
    least_ms: float

    def __str__(self) -> str:
        return (
            f"it says region {self.claimed}, but {self.n_observers} peers elsewhere are too near: "
            f"{self.rtt_ms:.1f} ms there and back from {self.region}, light takes "
            f"{self.least_ms:.1f} ms"
        )


def doubts(announcements: Iterable[Announcement]) -> dict[PeerId, Doubt]:
    """Whose region is contradicted by others, and how."""
    peers = {peer.peer_id: peer for peer in announcements}
    against = _contradictions(peers)
    found: dict[PeerId, Doubt] = {}
    while against:
        worst = max(against, key=lambda peer: (len(against[peer]), peer))
        observers = against.pop(worst)
        if len(observers) < LEAST_OBSERVERS:
            break
        for observer in observers:
            against[observer].pop(worst, None)
        found[worst] = _doubt(peers[worst].region, observers, peers)
    return found


def _contradictions(peers: dict[PeerId, Announcement]) -> dict[PeerId, dict[PeerId, float]]:
    """For each peer, who is too near to it, and how near in milliseconds."""
    against: dict[PeerId, dict[PeerId, float]] = {}
    for peer in peers.values():
        if not place_of(peer.region):
            continue
        relayed = frozenset(peer.measured.relayed)
        for link in peer.links:
            other, rtt_ms = peers.get(link.peer_id), link.rtt_us / 1000
            if other is None or other is peer:
                continue
            if rtt_ms >= least_rtt_ms(peer.region, other.region):
                continue
            if relayed and public_key_from_peer_id(link.peer_id) in relayed:
                continue
            for one, two in ((peer, other), (other, peer)):
                seen = against.setdefault(one.peer_id, {})
                seen[two.peer_id] = min(rtt_ms, seen.get(two.peer_id, rtt_ms))
    return against


def _doubt(claimed: str, near: dict[PeerId, float], peers: dict[PeerId, Announcement]) -> Doubt:
    def excess_ms(peer: PeerId) -> float:
        return least_rtt_ms(claimed, peers[peer].region) - near[peer]

    sharpest = max(sorted(near), key=excess_ms)
    region = peers[sharpest].region
    return Doubt(claimed, len(near), region, near[sharpest], least_rtt_ms(claimed, region))
