"""When a hole in two routers is tried with whom, and when again: rules without I/O.

In: who has called us over a circuit that stands still, and to whom there is a hole. Out: with whom
a round of attempts begins now. The first one begins at once, the next ones while that circuit
lasts, each after a longer silence. Who hangs up and calls again begins nothing anew: what came to
nothing is remembered for a while, and a round under way counts until it ends. No silence is
shorter than what routers remember: those that run Linux keep a connection that nobody answered for
120 s (nf_conntrack_tcp_timeout_syn_sent), and renew that when the other side's SYN arrives before
ours has left again. It is then held for part of the old connection, our answer to it for part of
none, and what is held for part of none is lost.
"""

import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Peer = TypeVar("Peer", bound=Hashable)

AGAIN_S, MAX_AGAIN_S = 150.0, 600.0  # from the end of a round to the next one; doubles
MAX_AT_ONCE = 8  # with different peers
KEPT_S, MAX_KEPT = 600.0, 256  # of those who hung up: from when the next round would be due


@dataclass(slots=True)
class _Rounds:
    """With one peer."""

    next_s: float  # when the next one begins; infinite while one is under way
    wait_s: float = AGAIN_S
    is_open: bool = False  # the last one made a hole

    @property
    def is_under_way(self) -> bool:
        return math.isinf(self.next_s)


class HoleRounds(Generic[Peer]):
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(self) -> None:
        self._peers: dict[Peer, _Rounds] = {}

    def begin(self, callers: Collection[Peer], holes: Collection[Peer], now_s: float) -> list[Peer]:
        """With whom a round begins; each ends with `ended`.

        Args:
            callers: who has called us over a circuit that stands.
            holes: to whom there is one, and none has to be tried.
        """
        rounds = {peer: self._peers.get(peer) or _Rounds(now_s) for peer in callers}
        self._peers = self._remembered(rounds, now_s) | rounds
        due = [peer for peer in rounds if rounds[peer].next_s <= now_s and peer not in holes]
        n_under_way = sum(each.is_under_way for each in self._peers.values())
        begun = due[: max(0, MAX_AT_ONCE - n_under_way)]
        for peer in begun:
            rounds[peer].next_s = math.inf
        return begun

    def ended(self, peer: Peer, now_s: float, *, is_open: bool = False) -> None:
        """A round with it is over. is_open: there is a hole."""
        if (rounds := self._peers.get(peer)) is not None:
            rounds.is_open = is_open
            rounds.next_s = now_s + rounds.wait_s
            rounds.wait_s = min(2 * rounds.wait_s, MAX_AGAIN_S)

    def _remembered(self, callers: Collection[Peer], now_s: float) -> dict[Peer, _Rounds]:
        """Of those who hung up: rounds under way, and what came to nothing lately."""
        gone = {peer: each for peer, each in self._peers.items() if peer not in callers}
        under_way = {peer: each for peer, each in gone.items() if each.is_under_way}
        vain = [
            (peer, each)
            for peer, each in gone.items()
            if not each.is_under_way and not each.is_open and now_s < each.next_s + KEPT_S
        ]
        vain.sort(key=lambda known: known[1].next_s)
        return dict(vain[-MAX_KEPT:]) | under_way
