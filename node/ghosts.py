"""Ghosts: peers that began again under another key, and whose old entries nobody will renew.

In: who is announced at which address. Out: the old entry is out of the table at once, not at its
expiry. An address is only a claim, so a stranger could announce an honest peer's and have it
evicted. Therefore nothing counts but what this node saw itself: the newcomer proved its key at that
address (the handshake of a dial that expects it), and the old peer did not answer at any of its
own. Otherwise both stay.
"""

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError
from protocol.rate_limits import Limit, RateLimit
from protocol.transport import Transport

log = logging.getLogger(__name__)

CHECKS = Limit(per_s=0.5, burst=8.0)  # a stranger's claims must not make us dial without end
RECHECK_S = 60.0
MAX_REMEMBERED = 1_000
SPREAD_S = 0.01  # for each peer that may check the same newcomer


Place = tuple[str, int, str]


class Suspicion(NamedTuple):
    """Both announce the same place: `gone` may be the former self of whoever is `there`."""

    gone: Announcement
    there: Announcement


class Ghosts:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(
        self,
        table: AnnouncementTable,
        transport: Transport,
        rng: random.Random,
        *,
        now_ms: Callable[[], int],
        timeout_s: float,
    ) -> None:
        self._table, self._transport, self._rng = table, transport, rng
        self._now_ms, self._timeout_s = now_ms, timeout_s
        self._checked_at_s: dict[tuple[str, str], float] = {}
        self._checks = RateLimit(CHECKS)

    def look(self, now_s: float) -> list[Suspicion]:
        """Those to check now; each again after a minute, should both still be announced."""
        recent = {pair: s for pair, s in self._checked_at_s.items() if now_s - s < RECHECK_S}
        self._checked_at_s, chosen = recent, []
        for suspicion in suspicions(self._table.live(self._now_ms())):
            pair = (suspicion.gone.peer_id, suspicion.there.peer_id)
            if pair in recent or suspicion.gone.peer_id == self._transport.peer_id:
                continue
            if len(recent) >= MAX_REMEMBERED or not self._checks.take("", 1, now_s):
                break
            recent[pair] = now_s
            chosen.append(suspicion)
        return chosen

    async def check(self, suspicion: Suspicion) -> None:
        """Dial both, and evict the one that is gone if the other is proven."""
        gone, there = suspicion
        # Every node of the swarm may be about to do the same.
        await asyncio.sleep(self._rng.uniform(0, SPREAD_S * len(self._table)))
        shared = [address for address in there.addresses if _place(address) in _places(gone)]
        if await self._answers(shared) and not await self._answers(gone.addresses):
            self._table.evict(gone, self._now_ms())
            log.info("evicted a ghost", extra={"peer": gone.peer_id, "now": there.peer_id})

    async def _answers(self, addresses: Sequence[Address]) -> bool:
        """Whether the peer that these addresses name proves itself at one of them."""
        for address in addresses:
            try:
                connection = await self._transport.dial(address, timeout_s=self._timeout_s)
            except ManyhandsError:
                continue
            await connection.aclose()
            return True
        return False


def suspicions(live: Iterable[Announcement]) -> Iterator[Suspicion]:
    """Pairs of which one announces no place that the other does not announce, too."""
    by_place: dict[Place, list[Announcement]] = defaultdict(list)
    for peer in live:
        for place in _places(peer):
            by_place[place].append(peer)
    for crowd in by_place.values():
        for gone, there in permutations(crowd, 2):
            if _places(gone) <= _places(there):
                yield Suspicion(gone, there)


def _places(peer: Announcement) -> set[Place]:
    return set(map(_place, peer.addresses))


def _place(address: Address) -> Place:
    """Where it is dialled; at a relay's port everybody it carries has a place of its own."""
    return address.host, address.port, address.peer_id if address.relay else ""
