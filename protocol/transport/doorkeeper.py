"""Who may connect to this peer's libp2p host, and how much of it one peer may hold at once.

In: connections and streams as they come, before and after it is known who they are of. Out: yes, or
no and a count of the reason. It takes the place of py-libp2p's resource manager, which knows no
limits per peer, and is asked before the handshake, where a no costs least. Pure, but for the names
that the library calls it by; on trio's thread only.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.transport.control_plane import PlaneLimits

HANDSHAKES = Limit(per_s=5, burst=50)  # of one IP address; each costs some milliseconds


class Doorkeeper:
    """See the module. `now_s` is of one monotonic clock."""

    connection_lifecycle = None  # parts of the library's manager that it would look for
    graceful_degradation = None

    def __init__(
        self, limits: PlaneLimits, admits: Callable[[PeerId], bool], now_s: Callable[[], float]
    ) -> None:
        """`admits`: whether a peer may be connected to at all, either way. From trio's thread."""
        self.refused: Counter[str] = Counter()
        self.limits = self
        self.max_streams, self.max_connections = limits.streams, limits.connections
        self._allowed, self._admits, self._now_s = limits, admits, now_s
        self._handshakes = RateLimit(HANDSHAKES)
        self._by_peer: Counter[str] = Counter()
        self._by_host: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()

    def open_connection(
        self, peer_id: Any = None, endpoint_ip: str | None = None, direction: str = "inbound"
    ) -> "Hold | None":
        """Asked twice: before the handshake without, and after it with a peer id."""
        is_inbound = direction == "inbound"
        host = (endpoint_ip or "") if is_inbound else ""
        if peer_id is None:
            why = self._why_no_handshake(host) if is_inbound else ""
            self.refused.update([why] if why else [])
            return None if why else Hold(_nothing)
        peer = str(peer_id)
        if why := self._why_not_this_peer(peer):
            self.refused[why] += 1
            return None
        self._by_peer[peer] += 1
        self._by_host[host] += 1
        return Hold(lambda: self._let_go(peer, host))

    def acquire_stream(self, peer_id: str, direction: Any) -> bool:
        if _is_inbound(direction):
            if self._streams[peer_id] >= self._allowed.streams_per_peer:
                self.refused["streams of one peer"] += 1
                return False
            self._streams[peer_id] += 1
        return True

    def release_stream(self, peer_id: str, direction: Any) -> None:
        if _is_inbound(direction):
            _less(self._streams, peer_id)

    def close(self) -> None:
        """The host is closed; nothing is held."""

    def _why_no_handshake(self, host: str) -> str:
        if self._by_peer.total() >= self._allowed.connections:
            return "connections"
        if host and self._by_host[host] >= self._allowed.connections_per_host:
            return "connections of one address"
        if host and not self._handshakes.take(host, 1.0, self._now_s()):
            return "handshakes of one address"
        return ""

    def _why_not_this_peer(self, peer: str) -> str:
        if not self._admits(PeerId(peer)):
            return "peer not admitted"
        if self._by_peer[peer] >= self._allowed.connections_per_peer:
            return "connections of one peer"
        if self._by_peer.total() >= self._allowed.connections:
            return "connections"
        return ""

    def _let_go(self, peer: str, host: str) -> None:
        _less(self._by_peer, peer)
        _less(self._by_host, host)


class Hold:
    """A connection's place; given back once."""

    def __init__(self, let_go: Callable[[], None]) -> None:
        self._let_go: Callable[[], None] | None = let_go

    def close(self) -> None:
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()


def _nothing() -> None:
    """A handshake holds no place."""


def _is_inbound(direction: Any) -> bool:
    return str(getattr(direction, "name", direction)).lower().endswith("inbound")


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
