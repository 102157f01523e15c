"""What a libp2p host carries besides discovery: the service through tunnels, circuits of others.

In: limits, where somebody wants either; the host, once it runs. Out: ways to peers that no TCP
connection of ours leads to, relays at which others reach us, and what all of it comes to. Asked on
asyncio; the work is `tunnels`' and `circuit_relay`'s, on trio. Nothing of libp2p is imported before
a host runs.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport.control_plane import CircuitLimits, Tunnel, TunnelLimits, Tunnelling
from protocol.transport.trio_thread import TrioThread

if TYPE_CHECKING:
    from protocol.transport.circuit_relay import CircuitRelay
    from protocol.transport.tunnels import LocalEnd, Tunnels

OPEN_S = 30.0  # a circuit and a hole, with everything that may have to be tried twice


class Libp2pTunnelling(Tunnelling):
    """Of one host. Without limits for it, a trade is not taken up."""

    def __init__(
        self,
        tunnels: TunnelLimits | None,
        circuits: CircuitLimits | None,
        admits: Callable[[PeerId], bool],
        timeout_s: float,
    ) -> None:
        self.thread: TrioThread | None = None  # while the host runs
        self._tunnel_limits, self._circuit_limits = tunnels, circuits
        self._admits, self._timeout_s = admits, timeout_s
        self._tunnels: Tunnels | None = None
        self._relay: CircuitRelay | None = None

    @property
    def relays(self) -> tuple[Address, ...]:
        return tuple(Address(*each) for each in self._tunnels.relays) if self._tunnels else ()

    @property
    def holes(self) -> Mapping[PeerId, int]:
        return self._tunnels.holes if self._tunnels and self.thread else {}

    @property
    def refused(self) -> Counter[str]:
        parts = (self._tunnels, self._relay)
        return sum((part.refused for part in parts if part), Counter[str]())

    def serve(self, port: int, *, wants_places: Callable[[], bool]) -> None:
        if self._tunnels is not None:
            self._tunnels.wants_places = wants_places
            self._tunnels.service_port = port

    async def open(
        self, address: Address, path: Path | None = None, *, timeout_s: float = OPEN_S
    ) -> Tunnel:
        relay = Address(address.host, address.port, address.relay)
        return await self.open_by(address.peer_id, [relay], path, timeout_s=timeout_s)

    async def open_by(
        self,
        peer_id: PeerId,
        relays: Sequence[Address],
        path: Path | None,
        *,
        timeout_s: float = OPEN_S,
    ) -> Tunnel:
        """A tunnel through any of some relays, by that path or by the best that there is now.

        Raises:
            PeerUnreachable: there is no such way.
        """
        thread, tunnels = self.thread, self._tunnels
        if thread is None or tunnels is None:
            raise PeerUnreachable(peer_id, "no tunnel: libp2p carries nothing here")
        try:
            async with asyncio.timeout(timeout_s):
                end = await thread.call(lambda: _open(tunnels, peer_id, relays, path))
        except TimeoutError as error:
            raise PeerUnreachable(peer_id, f"no tunnel within {timeout_s:g} s") from error
        except Exception as error:  # of a library with many kinds
            raise PeerUnreachable(peer_id, f"no tunnel: {error}") from error
        return _LocalTunnel(Address("127.0.0.1", end.port, peer_id), end, thread)

    def status(self) -> dict[str, object]:
        """For people."""
        told: dict[str, object] = self._tunnels.status() if self._tunnels else {}
        return told | ({"relaying": self._relay.status()} if self._relay else {})

    # --- on trio ----------------------------------------------------------------------------------

    def begin(self, host: Any, source: tuple[str, int]) -> None:
        """`source`: where the host listens."""
        if self._circuit_limits is not None:
            from protocol.transport.circuit_relay import CircuitRelay

            limits, timeout_s = self._circuit_limits, self._timeout_s
            self._relay = CircuitRelay(host, self._admits, limits, timeout_s=timeout_s)
        if self._tunnel_limits is not None and source[1]:
            from protocol.transport.circuits import Circuits
            from protocol.transport.punching import Punching
            from protocol.transport.tunnels import Tunnels

            timeout_s = self._timeout_s
            circuits = Circuits(host, self._admits, timeout_s=timeout_s)
            punching = Punching(host, source, timeout_s=timeout_s)
            parts = (circuits, punching, self._admits, self._tunnel_limits)
            self._tunnels = Tunnels(host, *parts, timeout_s=timeout_s)

    async def run(self) -> None:
        """Until cancelled."""
        if self._tunnels is not None:
            await self._tunnels.run()

    async def meet(self, host: Any, peer: Any) -> None:
        """Connect to a peer at an address of its own, so that it may relay for us."""
        if self._tunnels is not None:
            await self._tunnels.meet(peer)
        else:
            await host.connect(peer)


class _LocalTunnel(Tunnel):
    def __init__(self, address: Address, end: "LocalEnd", thread: TrioThread) -> None:
        self._address, self._end, self._thread = address, end, thread

    @property
    def address(self) -> Address:
        return self._address

    @property
    def path(self) -> Path:
        return Path.PUNCHED if self._end.is_punched else Path.CIRCUIT

    async def aclose(self) -> None:
        async def close() -> None:
            self._end.scope.cancel()

        with contextlib.suppress(Exception):  # trio has ended, and the tunnel with it
            await self._thread.call(close)


async def _open(
    tunnels: "Tunnels", peer_id: PeerId, relays: Sequence[Address], path: Path | None
) -> "LocalEnd":
    from libp2p.peer.id import ID

    punched = None if path is None else path is Path.PUNCHED
    return await tunnels.open(ID.from_string(peer_id), [*map(info_of, relays)], punched=punched)


def info_of(address: Address) -> Any:
    """An address as the library has it."""
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    return info_from_p2p_addr(Multiaddr(str(address)))
