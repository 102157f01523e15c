"""Whom a node exchanges with, and the connections that it keeps for that.

In: who serves, and how exchanges went. Out: partners drawn at random, mostly among those that are
connected already: a handshake costs as many bytes as a dozen exchanges at rest. Connections become
more, and change, one by one, so that over time everybody meets everybody, and who is linked to whom
stays random enough for news to reach all in O(log n) rounds; two of each node's own are enough for
all to hang together (Fenner and Frieze, 1982).
"""

import random
from collections import OrderedDict
from collections.abc import Sequence, Set

from protocol.address import Address
from protocol.announcements import Announcement
from protocol.identity import PeerId
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of

KEPT = 6  # connections that it opened; about as many are opened to it
LEAST = 2  # so many are opened at once; a newcomer's others follow one by one
GROWTH_CHANCE = 1 / 8  # of drawing a new partner while fewer than `KEPT` are connected
CHANGE_CHANCE = 1 / 32  # of drawing a partner among all, though enough are connected


class Partners:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(self, transport: Transport, rng: random.Random, *, shun_s: float) -> None:
        self._transport, self._rng, self._shun_s = transport, rng, shun_s
        self._connections: OrderedDict[PeerId, Connection] = OrderedDict()
        self._busy: set[PeerId] = set()
        self._shunned_until_s: dict[PeerId, float] = {}

    def draw(
        self,
        others: Sequence[Announcement],
        n_partners: int,
        now_s: float,
        *,
        n_at_once: int = KEPT,
    ) -> list[Announcement]:
        """Up to `n_partners` of `others` that are free; those that just failed us come last.

        None at all while `n_at_once` are busy: then we, or they, have too much to do. Whoever is
        slow to answer is no reason to shake hands with others, who have as much to do.
        """
        n_partners = min(n_partners, n_at_once - len(self._busy))
        if n_partners <= 0:
            return []
        free = [peer for peer in others if peer.peer_id not in self._busy]
        well = [peer for peer in free if not self.is_shunned(peer.peer_id, now_s)] or free
        near = [peer for peer in well if peer.peer_id in self._connections]
        held = {peer.peer_id for peer in near if not self.is_shunned(peer.peer_id, now_s)}
        n_held, enough = len(held | self._busy), min(KEPT, len(others))
        chance = CHANGE_CHANCE if n_held >= enough else GROWTH_CHANCE
        if n_held >= min(LEAST, enough) and self._rng.random() >= chance:
            return self._rng.sample(near, min(n_partners, len(near)))
        # Few new ones at a time: when everybody has news, nobody should shake hands with all.
        far = [peer for peer in well if peer.peer_id not in self._connections] or near
        n_far = max(1, LEAST - n_held)
        drawn = self._rng.sample(far, min(n_far, n_partners, len(far)))
        rest = [peer for peer in near if peer not in drawn]
        return [*drawn, *self._rng.sample(rest, min(n_partners - len(drawn), len(rest)))]

    def is_busy(self, peer_id: PeerId) -> bool:
        return peer_id in self._busy

    def begin(self, peer_id: PeerId) -> None:
        """An exchange with it is under way: no second one until `end`."""
        self._busy.add(peer_id)

    def end(self, peer_id: PeerId) -> None:
        self._busy.discard(peer_id)

    def is_shunned(self, peer_id: PeerId, now_s: float) -> bool:
        return self._shunned_until_s.get(peer_id, 0.0) > now_s

    def trust(self, peer_id: PeerId) -> None:
        self._shunned_until_s.pop(peer_id, None)

    async def shun(self, peer_id: PeerId, now_s: float, *, keeps: bool = False) -> None:
        """It failed us: others come first for a while.

        keeps: its connection, if it was only silent. One that is dead is found out below us.
        """
        current = {peer: s for peer, s in self._shunned_until_s.items() if s > now_s}
        self._shunned_until_s = {**current, peer_id: now_s + self._shun_s}
        if not keeps:
            await self.let_go(peer_id)

    def part_from(self, known: Set[PeerId]) -> list[Connection]:
        """The connections, to be closed, to whom nobody knows any more: they are drawn no more."""
        gone = [peer for peer in self._connections if peer not in known and peer not in self._busy]
        return [self._connections.pop(peer) for peer in gone]

    async def let_go(self, peer_id: PeerId) -> None:
        """Close the connection to it, if there is one: it will be drawn as rarely as any other."""
        connection = self._connections.pop(peer_id, None)
        if connection is not None:
            await connection.aclose()

    async def connect(
        self, peer_id: PeerId, addresses: Sequence[Address], *, timeout_s: float
    ) -> Connection:
        """The connection kept for `peer_id`, or a new one by the best way that works."""
        if peer_id in self._connections:
            self._connections.move_to_end(peer_id)
            return self._connections[peer_id]
        connection = await paths_of(self._transport).dial(peer_id, addresses, timeout_s=timeout_s)
        self._connections[peer_id] = connection
        if len(self._connections) > KEPT:
            idle = (peer for peer in self._connections if peer not in self._busy)
            oldest = next(idle, None)
            if oldest is not None:
                await self._connections.pop(oldest).aclose()
        return connection

    async def aclose(self) -> None:
        while self._connections:
            _, connection = self._connections.popitem()
            await connection.aclose()
