"""Small internets drawn from a seed: who stands behind which routers. Pure.

In: a number and a seed. Out: a topology: one or two public nodes that relay, one to three homes and
a client, each behind a router of some kind, two, or none, some of which let out the web alone or no
UDP. The odds are guesses at homes (mostly port-restricted), with every kind often enough to count.
"""

import random
from dataclasses import dataclass, replace
from enum import Enum

from tests.namespaces.lab import Nat

N_BLOCKS = 8
WEB_PORTS = (443, 80)  # that nodes and relays listen on for whom nothing else is let out to
USUAL_PORTS = (31400, 31402)


class Filter(Enum):
    """What a router lets out."""

    ALL = "all"
    NO_UDP = "no UDP"
    WEB = "TCP to 80 and 443 alone"


@dataclass(frozen=True, slots=True)
class Kind:
    """What stands before a home."""

    nat: Nat
    provider: Nat | None = None  # another router before that one
    filter: Filter = Filter.ALL
    forwards: bool = False  # when it is asked to, and it is

    def __str__(self) -> str:
        words = [self.nat.value]
        words += ["forwards when asked"] if self.forwards else []
        words += [f"lets out {self.filter.value}"] if self.filter is Filter.WEB else []
        words += [self.filter.value] if self.filter is Filter.NO_UDP else []
        words += [f"behind a provider's {self.provider.value}"] if self.provider else []
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Home:
    kind: Kind
    span: tuple[int, int]  # blocks that nobody else serves
    is_neighbour: bool = False  # in the same home as the one before


@dataclass(frozen=True, slots=True)
class Topology:
    number: int
    n_public: int
    ports: tuple[int, int]  # of the public nodes: of the node, of the relay
    homes: tuple[Home, ...]
    client: Kind
    is_on_libp2p: bool = False  # too

    @property
    def is_hopeless(self) -> bool:
        """Whether some home is let out to no port that anybody listens on."""
        webs = [home.kind.filter is Filter.WEB for home in self.homes]
        return any(webs) and self.ports != WEB_PORTS

    def __str__(self) -> str:
        homes = "; ".join(f"{'& ' if home.is_neighbour else ''}{home.kind}" for home in self.homes)
        ports = ", on the web's ports" if self.ports == WEB_PORTS else ""
        libp2p = ", libp2p too" if self.is_on_libp2p else ""
        return f"{self.n_public} public{ports}{libp2p}; homes: {homes}; client: {self.client}"


KINDS = (  # (how often, what)
    (3, Kind(Nat.FULL_CONE)),
    (3, Kind(Nat.RESTRICTED)),
    (7, Kind(Nat.PORT_RESTRICTED)),
    (5, Kind(Nat.SYMMETRIC)),
    (3, Kind(Nat.FIREWALL)),
    (1, Kind(Nat.FULL_CONE, provider=Nat.FULL_CONE)),
    (1, Kind(Nat.FULL_CONE, provider=Nat.SYMMETRIC)),
    (2, Kind(Nat.PORT_RESTRICTED, provider=Nat.PORT_RESTRICTED)),
    (1, Kind(Nat.SYMMETRIC, provider=Nat.SYMMETRIC)),
)
FORWARDS = (3, Kind(Nat.PORT_RESTRICTED, forwards=True))
FILTERS = ((16, Filter.ALL), (2, Filter.NO_UDP), (2, Filter.WEB))
SPANS = {1: ((4, 8),), 2: ((2, 5), (5, 8)), 3: ((2, 4), (4, 6), (6, 8))}
NEIGHBOUR, ON_LIBP2P, HOPELESS = 0.15, 0.2, 0.25  # the last: of those with a filter for the web


def draw(number: int, seed: int, *, may_forward: bool, may_libp2p: bool) -> Topology:
    """may_forward: there is a miniupnpd here; may_libp2p: libp2p is installed. Else both are drawn
    all the same, and left out."""
    rng = random.Random(f"{seed}/{number}")
    n_homes = rng.randint(1, 3)
    homes = []
    for span in SPANS[n_homes]:
        kind, is_neighbour = _draw_kind(rng), rng.random() < NEIGHBOUR
        if is_neighbour and homes and homes[-1].kind.nat.translates:
            homes.append(Home(homes[-1].kind, span, is_neighbour=True))
        else:
            homes.append(Home(kind if may_forward else replace(kind, forwards=False), span))
    client = replace(rng.choice([Kind(Nat.NONE), _draw_kind(rng)]), forwards=False)
    has_web = any(home.kind.filter is Filter.WEB for home in homes)
    is_hopeless, is_on_libp2p = rng.random() < HOPELESS, rng.random() < ON_LIBP2P
    ports = WEB_PORTS if has_web and not is_hopeless else USUAL_PORTS
    if ports != WEB_PORTS and client.filter is Filter.WEB:  # who asks is not what is looked at
        client = replace(client, filter=Filter.ALL)
    return Topology(
        number=number,
        n_public=rng.choice((1, 1, 2, 2, 2)),
        ports=ports,
        homes=tuple(homes),
        client=client,
        is_on_libp2p=is_on_libp2p and may_libp2p and not has_web,
    )


def _draw_kind(rng: random.Random) -> Kind:
    weighed = (*KINDS, FORWARDS)
    (_, kind) = rng.choices(weighed, [weight for weight, _ in weighed])[0]
    (_, filter) = rng.choices(FILTERS, [weight for weight, _ in FILTERS])[0]
    return replace(kind, filter=filter)
