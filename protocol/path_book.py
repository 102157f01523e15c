"""Which way to a peer to try first, and when to leave the one in use: rules without I/O.

In: the ways there are to each peer (kinds and addresses), how attempts at them went, round trips.
Out: an order, and verdicts. A way of a better kind comes first (`Path.rank`), unless it just
failed, or has decayed: its round trips are by far longer than they were on this very way; or unless
whoever named the ways put it behind a worse kind, since few can go it, and it has not worked here.
Numbers of one way are never held for another's, nor failures at one hole for the next one's. The
time is an argument.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from protocol.address import Address
from protocol.identity import PeerId
from protocol.path import Path

MAX_PEERS, MAX_WAYS = 1_000, 16
RETRY_S, MAX_RETRY_S = 10.0, 600.0  # a way that failed is left for last so long; doubles
FRESH_S = 120.0  # a round trip older than this is no sign of anything
DECAYED, DECAYED_S = 3.0, 0.05  # longer than so many times its best, and this on top
WORTH, WORTH_S = 2.0, 0.02  # a better kind of way is taken if it is not slower than this


@dataclass(frozen=True, slots=True)
class Way:
    """To one peer. Two may have one address: a hole and a circuit begin at the same relay."""

    path: Path
    address: Address | None = None  # None: not dialled here, and unknown
    hole: int = 0  # which one of those there were; 0: one that has yet to be made


@dataclass(slots=True)
class Seen:
    """What is known of one way."""

    best_s: float | None = None  # of its round trips
    rtt_s: float | None = None  # the last one
    measured_at_s: float = 0.0
    failed_at_s: float = 0.0
    n_failed: int = 0  # in a row
    has_worked: bool = False  # the last time

    def is_shunned(self, now_s: float) -> bool:
        retry_s = min(MAX_RETRY_S, RETRY_S * 2 ** min(self.n_failed - 1, 10))
        return self.n_failed > 0 and now_s - self.failed_at_s < retry_s

    def is_decayed(self, now_s: float) -> bool:
        if self.best_s is None or self.rtt_s is None or now_s - self.measured_at_s > FRESH_S:
            return False
        return self.rtt_s > DECAYED * self.best_s + DECAYED_S


class Met(NamedTuple):
    """Whom we dialled ourselves, and how that went the last time."""

    reached: tuple[Address, ...] = ()  # of each who answered one address that works, the last first
    silent: frozenset[PeerId] = frozenset()  # nothing that was tried works any more


class PathBook:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PeerId, dict[Way, Seen]] = OrderedDict()

    def order(self, peer_id: PeerId, ways: Sequence[Way], now_s: float) -> list[Way]:
        """Best first; those that failed lately stand last, the longest ago before the others."""
        ways = tuple(dict.fromkeys(ways))
        ranks = [way.path.rank for way in ways]
        worst = accumulate(ranks, max)  # so far
        doubted = {
            way for way, rank, before in zip(ways, ranks, worst, strict=True) if rank < before
        }

        def key(way: Way) -> tuple[bool, float, bool, bool, int]:
            seen = self.seen(peer_id, way)
            is_shunned = seen.is_shunned(now_s)
            since_s = seen.failed_at_s if is_shunned else 0.0
            is_doubted = way in doubted and not seen.has_worked
            return is_shunned, since_s, seen.is_decayed(now_s), is_doubted, way.path.rank

        return sorted(ways, key=key)  # stable: as named

    def seen(self, peer_id: PeerId, way: Way) -> Seen:
        return self._peers.get(peer_id, {}).get(way) or Seen()

    def is_new(self, peer_id: PeerId, way: Way) -> bool:
        """Whether nobody has tried it."""
        return way not in self._peers.get(peer_id, {})

    def worked(self, peer_id: PeerId, way: Way) -> None:
        seen = self._note(peer_id, way)
        seen.n_failed, seen.has_worked = 0, True

    def failed(self, peer_id: PeerId, way: Way, now_s: float) -> None:
        seen = self._note(peer_id, way)
        seen.n_failed, seen.failed_at_s, seen.has_worked = seen.n_failed + 1, now_s, False

    def measured(self, peer_id: PeerId, way: Way, rtt_s: float, now_s: float) -> None:
        seen = self._note(peer_id, way)
        seen.rtt_s, seen.measured_at_s, seen.n_failed = rtt_s, now_s, 0
        seen.has_worked = True
        seen.best_s = rtt_s if seen.best_s is None else min(seen.best_s, rtt_s)

    def met(self) -> Met:
        """Of those whom we dialled lately; of the ways that work the best kind."""
        reached: list[Address] = []
        for ways in reversed(self._peers.values()):
            working = [way for way, seen in ways.items() if seen.has_worked and way.address]
            if working:
                best = min(working, key=lambda way: way.path.rank)
                reached += [best.address] if best.address else []
        answered = {address.peer_id for address in reached}
        return Met(tuple(reached), frozenset(self._peers.keys() - answered))

    def worth_trying(
        self, peer_id: PeerId, current: Way, ways: Sequence[Way], now_s: float
    ) -> list[Way]:
        """Those to look at while `current` is in use: better kinds, and any once it has decayed or
        does not answer any more."""
        seen = self.seen(peer_id, current)
        is_poor = seen.is_decayed(now_s) or seen.n_failed > 0
        return [
            way
            for way in self.order(peer_id, ways, now_s)
            if way != current
            and not self.seen(peer_id, way).is_shunned(now_s)
            and (is_poor or way.path.rank < current.path.rank)
        ]

    def is_better(self, peer_id: PeerId, way: Way, current: Way, now_s: float) -> bool:
        """Whether to leave `current` for `way`, both measured just now."""
        new_s, old_s = self.seen(peer_id, way).rtt_s, self.seen(peer_id, current).rtt_s
        if new_s is None:
            return False
        if old_s is None:  # it did not answer
            return True
        if self.seen(peer_id, current).is_decayed(now_s):
            return new_s < old_s / WORTH
        return way.path.rank < current.path.rank and new_s <= WORTH * old_s + WORTH_S

    def lost(self, peer_id: PeerId, way: Way, now_s: float) -> None:
        """What is in use did not answer: it counts as failed, and its round trip is unknown."""
        self.failed(peer_id, way, now_s)
        self._note(peer_id, way).rtt_s = None

    def _note(self, peer_id: PeerId, way: Way) -> Seen:
        ways = self._peers.pop(peer_id, {})
        self._peers[peer_id] = ways
        if len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        if way not in ways and len(ways) >= MAX_WAYS:
            del ways[next(iter(ways))]
        return ways.setdefault(way, Seen())
