"""The addresses that a node was told to join by: which of them to ask now.

In: who is known, who is being asked, how asking went. Out: addresses, and now and then a warning to
the operator. Each is asked until its peer is known, for ever: two halves of a swarm that was cut in
two find each other by nothing else. But where peers come and go, most of those that a node was told
of are gone for good sooner or later, and to try one costs as much as a dozen exchanges. So while
others are known, each that was asked in vain rests for twice as long, up to half a lifetime.
"""

import logging
import random
from collections.abc import Callable, Sequence

from node.pace import GossipTiming
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import PeerId

log = logging.getLogger(__name__)


class Introductions:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(
        self, addresses: Sequence[Address], timing: GossipTiming, rng: random.Random
    ) -> None:
        self._addresses, self._timing, self._rng = tuple(addresses), timing, rng
        self._named = frozenset(addresses)  # by the operator, who hears how it goes
        self._rests: dict[PeerId, tuple[float, float]] = {}  # until when, and for how long
        self._warned_at_s: dict[Address, float] = {}

    def add(self, address: Address) -> None:
        """One more, that was heard of since. Whoever adds them sees that they are not too many."""
        if address not in self._addresses:
            self._addresses = (*self._addresses, address)

    @property
    def peers(self) -> frozenset[PeerId]:
        return frozenset(address.peer_id for address in self._addresses)

    def due(
        self, is_wanted: Callable[[PeerId], bool], now_s: float, *, is_alone: bool
    ) -> list[Address]:
        """Whom to ask, of those that are wanted.

        Whoever knows nobody is told the whole table by each that it asks: one address after the
        other then, in any order, and all that rest at once.
        """
        free = [address for address in self._addresses if is_wanted(address.peer_id)]
        ready = [address for address in free if not self._rests_now(address.peer_id, now_s)]
        if not is_alone:
            return ready
        return [self._rng.choice(ready)] if ready else free

    def all_rest(self, is_wanted: Callable[[PeerId], bool], now_s: float) -> bool:
        """Whether there is nobody that was not asked in vain just now."""
        return all(
            self._rests_now(address.peer_id, now_s)
            for address in self._addresses
            if is_wanted(address.peer_id)
        )

    def has_failed(self, peer_id: PeerId) -> bool:
        """When it was asked last: it may be long gone."""
        return peer_id in self._rests

    def answered(self, peer_id: PeerId) -> None:
        self._rests.pop(peer_id, None)

    def failed(self, peer_id: PeerId, now_s: float, *, is_alone: bool) -> None:
        """It was asked in vain."""
        _, before_s = self._rests.get(peer_id, (0.0, 0.0))
        first_s, longest_s = self._timing.shun_s, self._timing.lifetime_s / 2
        rest_s = first_s if is_alone else min(max(first_s, 2 * before_s), longest_s)
        self._rests[peer_id] = now_s + rest_s * self._rng.uniform(0.8, 1.2), rest_s

    def warn(self, addresses: Sequence[Address], error: ManyhandsError, now_s: float) -> None:
        """Tell the operator why there is no joining by those of these that it named."""
        for address in addresses:
            warned_at_s = self._warned_at_s.get(address)
            is_due = warned_at_s is None or now_s - warned_at_s >= self._timing.warn_every_s
            if address in self._named and is_due:
                self._warned_at_s[address] = now_s
                log.warning(
                    "cannot join yet, trying again",
                    extra={"address": str(address), "reason": str(error)},
                )

    def _rests_now(self, peer_id: PeerId, now_s: float) -> bool:
        return self._rests.get(peer_id, (0.0, 0.0))[0] > now_s
