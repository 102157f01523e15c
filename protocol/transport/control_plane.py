"""The network of discovery, as the rest of Manyhands sees it: keys, values, and who keeps them.

In: a `Keeper` that answers for this peer. Out: values published to the peers whose ids lie closest
to a key, and values found there. What keys and values mean is left to `protocol.record_pages` and
to whoever keeps them; `libp2p.py` is the one for real networks, `memory_plane.py` its twin inside
one process. All of it is awaited on one asyncio loop.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from protocol.address import Address
from protocol.identity import PeerId
from protocol.messages import require
from protocol.path import Path

CLOSEST = 8  # peers that keep a key, and that are asked for it


class Told(NamedTuple):
    """A value, and who gave it."""

    sender: PeerId
    value: bytes


class Keeper(Protocol):
    """What a peer answers when others ask it."""

    def admits(self, peer_id: PeerId) -> bool:
        """Whether that peer may connect, be connected to, or ask. From any thread, and quick."""

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        """Take a value in; False if it is not worth keeping: the sender is told."""

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        """The value of a key, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneLimits:
    """What strangers may have of us. Whatever is above is refused and counted."""

    connections: int = 100
    connections_per_peer: int = 4  # one each way, and a circuit each way
    connections_per_host: int = 16  # of one IP address
    streams: int = 256
    streams_per_peer: int = 16
    requests_per_s: float = 20.0  # of one peer
    requests_burst: float = 200.0
    timeout_s: float = 5.0  # for one request, ours or another's

    def __post_init__(self) -> None:
        counts = (self.connections, self.connections_per_peer, self.connections_per_host)
        require(min(counts) > 0 and self.streams >= self.streams_per_peer > 0, "limits are counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelLimits:
    """What peers may have of us through tunnels, and we of relays."""

    streams: int = 64
    streams_per_peer: int = 4  # each is a connection of gRPC: one is enough
    idle_s: float = 180.0  # gRPC says something every twenty
    places: int = 2  # we keep at relays, while strangers cannot dial us

    def __post_init__(self) -> None:
        require(self.streams >= self.streams_per_peer > 0 <= self.places, "limits are counts")


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitLimits:
    """What others may have of this machine as a relay."""

    places: int = 64
    place_s: int = 3600
    circuits: int = 32
    circuits_per_peer: int = 4  # it calls, or that call it
    circuit_s: int = 120
    circuit_bytes: int = 128 * 2**10  # as go-libp2p: enough to arrange a hole
    idle_s: float = 180.0
    bytes_per_day: int = 50 * 10**9  # all circuits together

    def __post_init__(self) -> None:
        counts = (self.places, self.place_s, self.circuits, self.circuits_per_peer)
        most = (self.circuit_s, self.circuit_bytes, self.bytes_per_day)
        require(min(*counts, *most) > 0 and self.idle_s > 0, "quotas are positive")


CARRYING = CircuitLimits(circuit_s=4 * 3600, circuit_bytes=8 * 2**30)  # of a relay that wants to


class Tunnel(Protocol):
    """A way to a peer's service that no TCP connection of ours takes."""

    @property
    def address(self) -> Address:
        """Where to dial it: on this machine, and whoever answers proves to be that peer."""

    @property
    def path(self) -> Path:
        """PUNCHED or CIRCUIT; the same for all that goes through it."""

    async def aclose(self) -> None: ...


class Tunnelling(Protocol):
    """The tunnels of one plane."""

    @property
    def relays(self) -> tuple[Address, ...]:
        """Relays that keep a place for us, in which the tunnels of others to us begin."""

    @property
    def holes(self) -> Mapping[PeerId, int]:
        """To whom there is a hole now, whoever made it; each has a number of its own."""

    def serve(self, port: int, *, wants_places: Callable[[], bool]) -> None:
        """From now on the tunnels of others come out at a service on this machine.

        Args:
            wants_places: whether relays should keep a place for us, since strangers cannot dial us.
                From any thread, and quick.
        """

    async def open(self, address: Address, path: Path | None = None, *, timeout_s: float) -> Tunnel:
        """The best that there is to a peer now: through a hole in both routers, else a circuit.

        path: PUNCHED or CIRCUIT: that and no other.

        Raises:
            PeerUnreachable: there is none.
        """

    def status(self) -> dict[str, object]:
        """For people."""


class ControlPlane(Protocol):
    """One peer's end. `start` it, then `stop` it."""

    peer_id: PeerId
    addresses: tuple[Address, ...]
    refused: Counter[str]  # what strangers asked for and did not get, by reason
    problem: str  # why it does not run although it should; empty while it does
    tunnelling: Tunnelling | None

    async def start(self, keeper: Keeper) -> None:
        """Listen, and greet the bootstrap peers when they answer.

        Raises:
            ConfigError: it cannot run here.
        """

    async def stop(self) -> None: ...

    def peers(self) -> Collection[PeerId]:
        """Who is connected now."""

    async def publish(self, key: bytes, value: bytes) -> int:
        """Have the peers closest to `key` keep `value`; how many took it."""

    async def find(self, key: bytes, *, n_peers: int = CLOSEST) -> Collection[Told]:
        """What up to `n_peers` of the peers closest to `key` keep there."""
