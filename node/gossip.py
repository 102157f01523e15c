"""How a node stays known to its swarm: announce, exchange with others, measure links, leave.

In: a draft of what to announce, and the addresses to join by. Out: a table of who serves, kept
alike on all nodes, and this node's record in everybody's. All nodes are equal; a join address is
only the first one to be asked. The rules of merging are `protocol.announcement_table`'s, the
messages `protocol.gossip_rules`'; this file is the loop around them.

Every second or so a node exchanges with one peer drawn at random, and with each join address
that it does not know yet, for ever. News (a peer that came, left or moved) is passed on at once.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from node.links import LinkTimes
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement, AnnouncementSource, seal_announcement
from protocol.anti_entropy import Record
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.gossip_rules import METHOD, Taken, answer, question, take_answer, tell
from protocol.identity import PeerId
from protocol.signing import SigningKey
from protocol.transport import Connection, Transport

log = logging.getLogger(__name__)

NEWS_PARTNERS = 3  # each tells so many: 94 of 100 hear it at once, the rest a second later
MAX_CONNECTIONS = 32
LEAVE_PARTNERS = 3
LEAVE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipTiming:
    """How often, and for how long."""

    interval_s: float = 1.0  # between exchanges; news does not wait for it
    news_gap_s: float = 0.1  # but waits this long for other news
    refresh_s: float = 10.0
    lifetime_s: float = 30.0
    timeout_s: float = 3.0
    shun_s: float = 5.0  # a peer that just failed us is asked last
    warn_every_s: float = 10.0


class Gossip(AnnouncementSource):
    """Records come and go over a transport's calls. One `run` at a time."""

    def __init__(
        self,
        table: AnnouncementTable,
        transport: Transport,
        key: SigningKey,
        draft: Callable[[], Announcement],
        *,
        join: Sequence[Address] = (),
        timing: GossipTiming | None = None,
        now_ms: Callable[[], int] = wall_ms,
        rng: random.Random | None = None,
    ) -> None:
        """
        Args:
            draft: what to announce now, unstamped; asked at every refresh.
            join: where to begin, in any state: asked until its peer is known.
        """
        self.table = table
        self.links = LinkTimes()
        self._transport, self._key, self._draft = transport, key, draft
        self._join = [address for address in join if address.peer_id != transport.peer_id]
        self._timing = timing or GossipTiming()
        self._now_ms, self._rng = now_ms, rng or random.Random()
        self._connections: OrderedDict[PeerId, Connection] = OrderedDict()
        self._busy: set[PeerId] = set()
        self._shunned_until_s: dict[PeerId, float] = {}
        self._warned_at_s: dict[Address, float] = {}
        self._published_at_s: float | None = None
        self._wake = asyncio.Event()
        self._has_news = False

    async def run(self) -> None:
        """Announce and exchange until cancelled; no peer's failure ends it."""
        try:
            async with asyncio.TaskGroup() as exchanges:
                while True:
                    self._publish_when_due()
                    for peer_id, addresses in self._partners():
                        exchanges.create_task(self._exchange(peer_id, addresses))
                    await self._pause()
        finally:
            self._published_at_s = None

    async def handle(self, peer_id: PeerId, message: bytes) -> bytes:
        """Answer another peer's call of the method "gossip"."""
        taken = answer(self.table, message, sender=peer_id, now_ms=self._now_ms())
        self._note(taken)
        return taken.reply

    def announce(self) -> None:
        """Publish a fresh draft now, for something in it changed that others should know."""
        self._published_at_s = None
        self._wake.set()

    async def leave(self) -> None:
        """Tell a few peers that this one goes; they tell the others. Call it after `run` ended."""
        record = self._publish(self._draft().tombstone())
        live = [peer for peer in self._others() if not self._is_shunned(peer.peer_id)]
        chosen = self._rng.sample(live, min(LEAVE_PARTNERS, len(live)))

        async def tell_one(peer: Announcement) -> None:
            try:
                connection = await self._connect(peer.peer_id, peer.addresses)
                await connection.call(METHOD, tell(record), timeout_s=LEAVE_TIMEOUT_S)
            except ManyhandsError as error:
                log.debug("a peer did not hear our leave", extra={"reason": str(error)})

        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S), asyncio.TaskGroup() as telling:
                for peer in chosen:
                    telling.create_task(tell_one(peer))
        except TimeoutError:
            log.debug("not every peer heard our leave in time")
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that were kept."""
        while self._connections:
            _, connection = self._connections.popitem()
            await connection.aclose()

    def _publish_when_due(self) -> None:
        published_at_s = self._published_at_s
        if published_at_s is None or _now_s() - published_at_s >= self._timing.refresh_s:
            self._publish(self._draft())
            self._published_at_s = _now_s()

    def _publish(self, draft: Announcement) -> Record:
        now_ms, own = self._now_ms(), self._transport.peer_id
        # From the clock, so that a restart goes on; above what others remember, if the clock fell.
        sequence = max(now_ms, self.table.last_sequence(own) + 1)
        lifetime_ms = round(self._timing.lifetime_s * 1000)
        links = () if draft.is_leaving else self.links.best(_now_s())
        stamped = draft.stamped(sequence, now_ms, lifetime_ms, links)
        record = Record(lifetime_ms, seal_announcement(stamped, self.table.swarm_id, self._key))
        merged = self.table.merge(record, sender=own, now_ms=now_ms)
        log.debug("announced", extra={"span": draft.span, "merged": merged.value})
        return record

    def _partners(self) -> list[tuple[PeerId, tuple[Address, ...]]]:
        """Whom to exchange with now: at random, more when there is news, and join addresses."""
        n_partners = NEWS_PARTNERS if self._has_news else 1
        self._has_news = False
        others = [peer for peer in self._others() if peer.peer_id not in self._busy]
        well = [peer for peer in others if not self._is_shunned(peer.peer_id)] or others
        chosen = self._rng.sample(well, min(n_partners, len(well)))
        partners = [(peer.peer_id, peer.addresses) for peer in chosen]
        known = {peer_id for peer_id, _ in partners} | self._busy
        for address in self._join:
            if address.peer_id not in known and self._is_unknown(address.peer_id):
                partners.append((address.peer_id, (address,)))
        return partners

    def _others(self) -> list[Announcement]:
        own = self._transport.peer_id
        return [peer for peer in self.table.live(self._now_ms()) if peer.peer_id != own]

    def _is_unknown(self, peer_id: PeerId) -> bool:
        return self.table.get(peer_id, self._now_ms()) is None

    def _is_shunned(self, peer_id: PeerId) -> bool:
        return self._shunned_until_s.get(peer_id, 0.0) > _now_s()

    async def _pause(self) -> None:
        """Until the next exchange is due, or news came in."""
        interval_s = self._timing.interval_s * self._rng.uniform(0.8, 1.2)
        try:
            async with asyncio.timeout(interval_s):
                await self._wake.wait()
                await asyncio.sleep(self._timing.news_gap_s)
        except TimeoutError:
            pass
        self._wake.clear()

    async def _exchange(self, peer_id: PeerId, addresses: tuple[Address, ...]) -> None:
        self._busy.add(peer_id)
        try:
            connection = await self._connect(peer_id, addresses)
            began_s = _now_s()
            message = question(self.table, self._now_ms())
            told = await connection.call(METHOD, message, timeout_s=self._timing.timeout_s)
            self.links.learn(peer_id, _now_s() - began_s, at_s=_now_s())
            taken = take_answer(self.table, told, sender=peer_id, now_ms=self._now_ms())
            self._note(taken)
            if taken.reply:
                await connection.call(METHOD, taken.reply, timeout_s=self._timing.timeout_s)
            self._shunned_until_s.pop(peer_id, None)
        except ManyhandsError as error:
            await self._failed(peer_id, addresses, error)
        finally:
            self._busy.discard(peer_id)

    def _note(self, taken: Taken) -> None:
        if taken.has_news:
            self._has_news = True
            self._wake.set()

    async def _connect(self, peer_id: PeerId, addresses: Sequence[Address]) -> Connection:
        """The connection kept for `peer_id`, or a new one to the first address that answers."""
        if peer_id in self._connections:
            self._connections.move_to_end(peer_id)
            return self._connections[peer_id]
        for i, address in enumerate(addresses):
            try:
                connection = await self._transport.dial(address, timeout_s=self._timing.timeout_s)
                break
            except ManyhandsError:
                if i == len(addresses) - 1:
                    raise
        self._connections[peer_id] = connection
        if len(self._connections) > MAX_CONNECTIONS:
            _, oldest = self._connections.popitem(last=False)
            await oldest.aclose()
        return connection

    async def _failed(
        self, peer_id: PeerId, addresses: Sequence[Address], error: ManyhandsError
    ) -> None:
        now_s = _now_s()
        self._shunned_until_s = {p: s for p, s in self._shunned_until_s.items() if s > now_s}
        self._shunned_until_s[peer_id] = now_s + self._timing.shun_s
        for address in addresses:
            if address in self._join and self._is_unknown(peer_id):
                self._warn_of(address, error)
        log.debug("an exchange failed", extra={"peer": peer_id, "reason": str(error)})
        connection = self._connections.pop(peer_id, None)
        if connection is not None:
            await connection.aclose()

    def _warn_of(self, address: Address, error: ManyhandsError) -> None:
        warned_at_s = self._warned_at_s.get(address)
        if warned_at_s is None or _now_s() - warned_at_s >= self._timing.warn_every_s:
            self._warned_at_s[address] = _now_s()
            log.warning(
                "cannot join yet, trying again",
                extra={"address": str(address), "reason": str(error)},
            )


def _now_s() -> float:
    return time.monotonic()
