"""Where a peer can be dialled, and who must answer there.

In and out: multiaddr text, `/ip4/203.0.113.5/tcp/31400/p2p/12D3Koo…`, in the three forms that a
gRPC target can have (ip4, ip6, dns4). A peer that a relay makes reachable is spelled as libp2p
spells circuits, `…/p2p/RELAY/p2p-circuit/p2p/PEER`: whoever dials it connects to the relay's host
and port and asks there for the peer by name (see `protocol.relaying`). With `/tunnel` after it, the
relay is one of libp2p, and the service lies in a tunnel that begins there (see
`protocol.transport.tunnels`). Reaching the address is left to the transports.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, Self

from protocol.errors import UsageError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.path import Path

Family = Literal["ip4", "ip6", "dns4"]

MAX_HOST_CHARS = 253  # RFC 1035 section 2.3.4, in text
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_EXAMPLE = "an address looks like /ip4/203.0.113.5/tcp/31400/p2p/12D3Koo…"
_RELAYED_EXAMPLE = "a relayed one: /ip4/203.0.113.5/tcp/31402/p2p/RELAY/p2p-circuit/p2p/PEER"
_CIRCUIT, _TUNNEL = "/p2p-circuit/p2p/", "/tunnel"
_NOBODY = PeerId("")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host and port, and the peer id that whoever answers there has to prove."""

    host: str
    port: int
    peer_id: PeerId
    relay: PeerId = _NOBODY  # whose host and port these are, where it is not the peer itself
    is_tunnel: bool = False  # they are those of its libp2p

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UsageError(f"a port lies in 1..65535, got {self.port}", hint=_EXAMPLE)
        if _ip(self.host) is None and not _is_name(self.host):
            raise UsageError(f"not a host: {self.host[:80]!r}", hint=_EXAMPLE)
        public_key_from_peer_id(self.peer_id)
        if self.relay:
            public_key_from_peer_id(self.relay)
            if self.relay == self.peer_id:
                raise UsageError("nobody relays to itself", hint=_RELAYED_EXAMPLE)
        elif self.is_tunnel:
            raise UsageError("a tunnel begins at a relay", hint=_RELAYED_EXAMPLE)

    def __str__(self) -> str:
        there = f"/{self.family}/{self.host}/tcp/{self.port}/p2p/"
        relayed = f"{self.relay}{_CIRCUIT}{self.peer_id}" if self.relay else self.peer_id
        return there + relayed + (_TUNNEL if self.is_tunnel else "")

    @property
    def path(self) -> Path:
        """Of a tunnel the worse one; it may turn out to be the other."""
        if self.is_tunnel:
            return Path.CIRCUIT
        return Path.RELAYED if self.relay else Path.DIRECT

    @property
    def is_far(self) -> bool:
        """Whether it lies across the internet, as far as an address can tell."""
        ip = _ip(self.host)
        return ip.is_global if ip is not None else self.host != "localhost"

    @property
    def family(self) -> Family:
        match _ip(self.host):
            case IPv4Address():
                return "ip4"
            case IPv6Address():
                return "ip6"
            case _:
                return "dns4"

    @property
    def target(self) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if self.family == "ip6" else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read multiaddr text.

        Raises:
            UsageError: it is not one that Manyhands can dial.
        """
        there, circuit, relayed = text.strip().partition(_CIRCUIT)
        parts = there.split("/")
        if len(parts) != 7 or parts[0] or parts[3] != "tcp" or parts[5] != "p2p":
            raise UsageError(f"not a peer's address: {text[:120]!r}", hint=_EXAMPLE)
        family, host, port, peer_id = parts[1], parts[2], parts[4], parts[6]
        if not _PORT.fullmatch(port):
            raise UsageError(f"not a port: {port[:20]!r}", hint=_EXAMPLE)
        if circuit:
            relayed, is_tunnel = relayed.removesuffix(_TUNNEL), relayed.endswith(_TUNNEL)
            address = cls(host, int(port), PeerId(relayed), PeerId(peer_id), is_tunnel)
        else:
            address = cls(host, int(port), PeerId(peer_id))
        if address.family != family:
            raise UsageError(f"{host!r} is not of the family {family[:20]!r}", hint=_EXAMPLE)
        return address


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An IP address and a port, of whomever: where a connection comes from, or what answers."""

    host: str  # as the ipaddress module spells it; an IPv4 address in an IPv6 one as IPv4
    port: int

    def __post_init__(self) -> None:
        ip = _ip(self.host)
        if ip is None or not 0 <= self.port <= 65535:
            raise UsageError(f"not an IP address and a port: {self.host[:80]!r} {self.port}")
        plain = ip.ipv4_mapped if isinstance(ip, IPv6Address) and ip.ipv4_mapped else ip
        object.__setattr__(self, "host", str(plain))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(maxsize=4096)  # asked thrice for each address, and records name the same ones again
def _ip(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host) if "%" not in host else None
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """Whether `host` can be a DNS name; all-numeric ones are mistyped IPv4 addresses."""
    labels = host.split(".")
    return (
        0 < len(host) <= MAX_HOST_CHARS
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )
