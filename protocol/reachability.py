"""Whether strangers can dial a node: what dial-backs say of it, as it tells the swarm.

Part of an announcement: the node's own word, which two peers have shown it. The words for how a
router maps connections are RFC 5780's (section 4.1): with endpoint-independent mapping two peers
see the same port of a connection's source, and holes can be punched; else each destination gets
another one, which RFC 3489 called symmetric. How a node comes to its verdict is
`node.reachability`'s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Self

from protocol.canonical import NotCanonical
from protocol.messages import require

EXTRA = "reach"
MAX_CONFIRMED = 8

_LOCAL: tuple[IPv4Network | IPv6Network, ...] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")),  # RFC 1918
    IPv4Network("100.64.0.0/10"),  # RFC 6598: of a provider's own NAT
    IPv4Network("169.254.0.0/16"),
    *map(IPv6Network, ("fc00::/7", "fe80::/10")),
)


class Verdict(StrEnum):
    """Whether, and how, strangers can dial a node."""

    UNKNOWN = "unknown"  # nobody has tried, or too few: dial it as ever
    DIRECT = "direct"  # at an address of its own machine
    MAPPED = "mapped"  # at its router's, which forwards a port
    NAT = "nat"  # behind a router that forwards nothing to it
    FIREWALLED = "firewalled"  # its machine's own address, and nothing gets through


class Nat(StrEnum):
    """How the router before a node maps its outgoing connections."""

    UNKNOWN = "unknown"
    NONE = "none"  # peers see the machine's own address
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    SYMMETRIC = "symmetric"


class Scope(StrEnum):
    """From how far an address can be dialled at best, as far as it tells."""

    MACHINE = "machine"
    NETWORK = "network"
    WORLD = "world"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a node announces of it."""

    verdict: Verdict = Verdict.UNKNOWN
    nat: Nat = Nat.UNKNOWN
    n_confirmed: int = 0  # of its addresses the first so many, which peers have dialled back

    def __post_init__(self) -> None:
        require(0 <= self.n_confirmed <= MAX_CONFIRMED, "so many addresses are not announced")

    @property
    def is_dialable(self) -> bool:
        """Whether strangers should dial its addresses at all; until somebody tried, they should."""
        return self.verdict not in (Verdict.NAT, Verdict.FIREWALLED)

    @property
    def is_public(self) -> bool:
        """Whether peers have shown that it can be dialled."""
        return self.verdict in (Verdict.DIRECT, Verdict.MAPPED)

    def extras(self) -> Iterator[tuple[str, Any]]:
        """(name, value) for an announcement; nothing while nothing is known."""
        if self != NOTHING_KNOWN:
            yield EXTRA, (self.verdict.value, self.nat.value, self.n_confirmed)

    @classmethod
    def read(cls, extras: Mapping[str, Any]) -> Self:
        """From a stranger's extras; words and fields that a later version added are passed over.

        Raises:
            NotCanonical, PeerMisbehaved: it is none.
        """
        match extras.get(EXTRA):
            case None:
                return cls()
            case [str() as verdict, str() as nat, int() as n_confirmed, *_] if (
                type(n_confirmed) is int
            ):
                return cls(
                    verdict=Verdict(verdict) if verdict in [*Verdict] else Verdict.UNKNOWN,
                    nat=Nat(nat) if nat in [*Nat] else Nat.UNKNOWN,
                    n_confirmed=n_confirmed,
                )
            case _:
                raise NotCanonical("reach is a verdict, a kind of NAT, and a count")


NOTHING_KNOWN = Reach()


def scope_of(host: str) -> Scope:
    """Of an IP address, or a name, which is the world's unless it is `localhost`.

    Documentation ranges count as the world's: nobody has them, except to play the internet.
    """
    try:
        ip = ip_address(host)
    except ValueError:
        return Scope.MACHINE if host == "localhost" else Scope.WORLD
    if ip.is_loopback or ip.is_unspecified:
        return Scope.MACHINE
    is_local = any(ip in network for network in _LOCAL if network.version == ip.version)
    return Scope.NETWORK if is_local else Scope.WORLD


def network_of(host: str) -> str:
    """What one operator tends to hold of addresses: a /24, or a /64; a name is its own."""
    try:
        ip = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((ip, 24 if ip.version == 4 else 64), strict=False))
