"""What a relay carries for whom, and how much of it anybody may have.

In: reservations, calls, bytes, the time. Out: yes, or which alert a caller gets; how long a
connection has to pause; sums by peer. Budgets of bytes are buckets that fill at a rate (RFC 2697):
while one is empty nothing new is let in, and what runs goes on at the rate. No sockets and no clock
here.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from protocol.checks import require
from protocol.errors import PeerBusy, UsageError
from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit
from protocol.relaying import Alert, Share

MAX_REMEMBERED = 1_000  # peers whose sums are kept
LONGEST_PAUSE_S = 5.0
LEAST_BYTES_PER_S = 64 << 10
UNUSED_S = 1200  # what was not used in this time may be used at once
_ALL = "all"
K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Of one relay."""

    share: Share = field(default_factory=Share)  # of each peer
    reservations: int = 64
    reservations_per_place: int = 16  # of one address (of IPv6, one /64)
    connections: int = 512  # at a time, of all peers together
    calls_per_peer: int = 24  # that wait for one peer to connect back
    per_place: int = 128  # connections at a time from one address, to whatever peers
    per_place_and_peer: int = 16  # and to one of them: fewer than calls may wait for it
    bytes_per_s: int = 12 << 20  # in the long run, of all peers together
    burst_bytes: int = 16 << 30
    lifetime_ms: int = 3_600_000  # of a reservation, which is then renewed or over

    def __post_init__(self) -> None:
        numbers = (getattr(self, each.name) for each in fields(self) if each.name != "share")
        require(all(number > 0 for number in numbers), "a quota is above zero")
        require(self.burst_bytes >= self.bytes_per_s, "a burst is a second's bytes at least")


def quotas_of(bytes_per_s: int) -> Quotas:
    """Of a relay that gives so much in the long run, a third of it to a single peer.

    Raises:
        UsageError: that carries nobody.
    """
    if bytes_per_s < LEAST_BYTES_PER_S:
        raise UsageError(
            f"a relay that passes {bytes_per_s} bytes a second carries nobody",
            hint="--relay-limit 1MiB or more",
        )
    share = Share(bytes_per_s=bytes_per_s // 3, burst_bytes=bytes_per_s // 3 * UNUSED_S)
    return Quotas(share=share, bytes_per_s=bytes_per_s, burst_bytes=bytes_per_s * UNUSED_S)


@dataclass(slots=True)
class Carried:
    """Of one peer, ever since it was first met."""

    to_peer_bytes: int = 0
    from_peer_bytes: int = 0
    connections: int = 0
    seconds: float = 0.0
    refused: int = 0

    @property
    def n_bytes(self) -> int:
        return self.to_peer_bytes + self.from_peer_bytes


class RelayBook:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        share = quotas.share
        self.refused: Counter[str] = Counter()  # by reason
        self._carried: OrderedDict[PeerId, Carried] = OrderedDict()  # least lately used first
        self._reserved: dict[PeerId, str] = {}  # from which place
        self._open: Counter[PeerId] = Counter()
        self._calls: Counter[PeerId] = Counter()
        self._from: Counter[str] = Counter()  # calls and open connections
        self._from_to: Counter[tuple[str, PeerId]] = Counter()
        self._peer_bytes = RateLimit(Limit(share.bytes_per_s, share.burst_bytes))
        self._all_bytes = RateLimit(Limit(quotas.bytes_per_s, quotas.burst_bytes))

    # --- reservations -----------------------------------------------------------------------------

    @property
    def n_free(self) -> int:
        """Reservations that would be taken now."""
        return max(0, self.quotas.reservations - len(self._reserved))

    def reserve(self, peer_id: PeerId, place: str = "") -> None:
        """`place`: whence it asks; empty: from nowhere that could be counted.

        Raises:
            PeerBusy: there is no room.
        """
        others = [at for peer, at in self._reserved.items() if peer != peer_id]
        why = ""
        if len(others) >= self.quotas.reservations:
            why, what = "reservations", "it carries as many peers as it will"
        elif place and others.count(place) >= self.quotas.reservations_per_place:
            why, what = "reservations of one address", "it carries as many peers there as it will"
        if why:
            self.refused[why] += 1
            raise PeerBusy("", what, hint="reserve at another relay: --via auto finds them")
        self._reserved[peer_id] = place
        self._of(peer_id)

    def release(self, peer_id: PeerId) -> None:
        self._reserved.pop(peer_id, None)

    # --- connections ------------------------------------------------------------------------------

    def call(self, peer_id: PeerId, place: str, now_s: float) -> Alert | None:
        """A caller at `place` asks for `peer_id`, which has a reservation; None: it is to connect
        back, and the caller counts until it has `left`."""
        share = self.quotas.share
        why = ""
        if self._open[peer_id] + self._calls[peer_id] >= share.connections:
            why = "connections of one peer"
        elif self._calls[peer_id] >= self.quotas.calls_per_peer:
            why = "calls of one peer"
        elif self._from_to[place, peer_id] >= self.quotas.per_place_and_peer:
            why = "connections of one address to one peer"
        elif self._from[place] >= self.quotas.per_place:
            why = "connections of one address at a time"
        elif self._open.total() + self._calls.total() >= self.quotas.connections:
            why = "connections"
        elif self._peer_bytes.debt_s(peer_id, now_s) > 0:
            why = "bytes of one peer"
        elif self._all_bytes.debt_s(_ALL, now_s) > 0:
            why = "bytes"
        if why:
            self.refused[why] += 1
            self._of(peer_id).refused += 1
            return Alert.ACCESS_DENIED
        self._calls[peer_id] += 1
        self._from[place] += 1
        self._from_to[place, peer_id] += 1
        return None

    def left(self, peer_id: PeerId, place: str) -> None:
        """A caller that was let in is gone, whatever came of its call."""
        _less(self._from, place)
        _less(self._from_to, (place, peer_id))

    def called(self, peer_id: PeerId) -> None:
        """A call has ended, however it did."""
        _less(self._calls, peer_id)

    def opened(self, peer_id: PeerId) -> None:
        self._open[peer_id] += 1
        self._of(peer_id).connections += 1

    def closed(self, peer_id: PeerId, seconds: float) -> None:
        _less(self._open, peer_id)
        self._of(peer_id).seconds += seconds

    def carried(self, peer_id: PeerId, n_bytes: int, now_s: float, *, to_peer: bool) -> float:
        """These were read and will be passed on. How long not to read more there, in seconds."""
        sums = self._of(peer_id)
        if to_peer:
            sums.to_peer_bytes += n_bytes
        else:
            sums.from_peer_bytes += n_bytes
        self._peer_bytes.owe(peer_id, n_bytes, now_s)
        self._all_bytes.owe(_ALL, n_bytes, now_s)
        owed_s = max(self._peer_bytes.debt_s(peer_id, now_s), self._all_bytes.debt_s(_ALL, now_s))
        return min(owed_s, LONGEST_PAUSE_S)

    # --- what is told and kept --------------------------------------------------------------------

    def sums(self) -> dict[PeerId, Carried]:
        return dict(self._carried)

    def status(self) -> dict[str, object]:
        return {
            "reservations": len(self._reserved),
            "connections": self._open.total(),
            "bytes": sum(sums.n_bytes for sums in self._carried.values()),
            "refused": dict(self.refused),
            "peers": {
                peer: _fields(sums) | {"open": self._open[peer], "reserved": peer in self._reserved}
                for peer, sums in self._carried.items()
            },
        }

    def kept(self) -> dict[str, Any]:
        """For the next start: `restore` reads it."""
        return {peer: _fields(sums) for peer, sums in self._carried.items()}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError, TypeError: this was never kept.
        """
        self._carried.update({PeerId(str(peer)): Carried(**sums) for peer, sums in kept.items()})

    def _of(self, peer_id: PeerId) -> Carried:
        sums = self._carried.pop(peer_id, None) or Carried()
        self._carried[peer_id] = sums
        if len(self._carried) > MAX_REMEMBERED:
            idle = (peer for peer in self._carried if peer not in self._reserved)
            if (oldest := next(idle, None)) is not None and oldest != peer_id:
                del self._carried[oldest]
        return sums


def _fields(sums: Carried) -> dict[str, Any]:
    return {each.name: getattr(sums, each.name) for each in fields(sums)}


def _less(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
