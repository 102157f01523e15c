"""How a node stays known to its swarm: announce, exchange with others, measure links, leave.

In: a draft of what to announce, and the addresses to join by. Out: a table of who serves, kept
alike on all nodes, and this node's record in everybody's. All nodes are equal; a join address is
only the first one to be asked. The rules of merging are `protocol.announcement_table`'s, the
messages `protocol.gossip_rules`', what to announce when `announcer.py`'s, whom to ask
`partners.py`'s, by whom to join `introductions.py`'s; this file is the loop around them.

Every second or so a node exchanges with one peer drawn at random, and now and then with each join
address that it does not know yet. News (a peer that came, left or moved) is passed on at once.

A join address is an introduction and nothing more: its connection is not kept once others are
known. Everybody has it, so whoever is named there would be asked by all the swarm, for ever.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from node.announcer import Announcer
from node.ghosts import Ghosts
from node.introductions import Introductions
from node.links import LinkTimes
from node.pace import GossipTiming
from node.partners import KEPT, Partners
from node.pressure import Pressure
from protocol.address import Address
from protocol.announcement_table import MAX_REPLY_BYTES, AnnouncementTable, Merged
from protocol.announcements import Announcement, AnnouncementSource
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerBusy
from protocol.gossip_rules import MAX_STEPS, METHOD, Exchange, Taken, answer, tell
from protocol.guard import FLOOD_WEIGHT, Allowance, Budget, Guard
from protocol.identity import PeerId
from protocol.rate_limits import Limit
from protocol.signing import SigningKey
from protocol.transport import Transport

__all__ = ["Gossip", "GossipTiming"]

log = logging.getLogger(__name__)

NEWS_PARTNERS = 3  # each tells so many: 94 of 100 hear it at once, the rest a second later
STORM_PARTNERS = 1  # when news follows on news: it is gathered, and told once; see `_pause`
COMPARE_EVERY = 10  # exchanges; whole tables, when what is new was exchanged
LEAVE_PARTNERS = 3
LEAVE_TIMEOUT_S = 1.0
NEXT_JOIN_S = 0.25  # before another address to join by is asked, too (RFC 8305, section 5)
# Of one sender. At rest it calls twice a second; a client takes 10 MB for a table of 10,000.
CALLS = Limit(per_s=20, burst=200)
BYTES = Limit(per_s=MAX_REPLY_BYTES, burst=64 * MAX_REPLY_BYTES)
CHECKS = Limit(per_s=100, burst=1_000)  # signatures, 0.1 ms each
BUDGET = Budget(calls=CALLS, bytes=BYTES, checks=CHECKS)


class Partner(NamedTuple):
    """Whom to exchange with, and why."""

    peer_id: PeerId
    addresses: tuple[Address, ...]
    is_introduction: bool = False  # an address to join by, and not drawn


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
        now_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        guard: Guard | None = None,
    ) -> None:
        """
        Args:
            draft: what to announce now, unstamped; asked when a record may be due.
            join: where to begin, in any state: asked until its peer is known.
            guard: the node's, which hears of those that send what was forged.
        """
        self.table = table
        self.links = LinkTimes()
        self._transport, self._draft = transport, draft
        self._timing = timing or GossipTiming()
        self._now_ms, self._now_s, self._rng = now_ms, now_s, rng or random.Random()
        others = [address for address in join if address.peer_id != transport.peer_id]
        self._introductions = Introductions(others, self._timing, self._rng)
        self._announcer = Announcer(
            table, key, draft, lambda: self.links.best(self._now_s()), self._timing
        )
        self._partners = Partners(transport, self._rng, shun_s=self._timing.shun_s)
        self._ghosts = Ghosts(
            table, transport, self._rng, now_ms=now_ms, timeout_s=self._timing.timeout_s
        )
        self._allowance = Allowance(BUDGET, self._now_s)
        self._guard = guard or Guard(now_s=self._now_s)
        self._wake = asyncio.Event()
        self._has_news = False
        self._gap_s = self._timing.news_gap_s
        self._pressure = Pressure()
        self._n_uncompared = COMPARE_EVERY  # exchanges since the last comparison that found nothing
        self._told_ms = 0  # what was learned before that has been told to somebody

    async def run(self) -> None:
        """Announce and exchange until cancelled; no peer's failure ends it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._announcer.speak_when_due(now_s=self._now_s(), now_ms=self._now_ms())
                    if self._has_news:
                        for suspicion in self._ghosts.look(self._now_s()):
                            tasks.create_task(self._ghosts.check(suspicion))
                    for partner in self._choose_partners():
                        tasks.create_task(self._exchange(partner))
                    self._part(tasks)
                    await self._pause()
        finally:
            self._announcer.hurry()

    async def handle(self, peer_id: PeerId, message: bytes) -> bytes:
        """Answer another peer's call of the method "gossip".

        Raises:
            PeerBusy: that peer calls too often, or makes us work too much.
        """
        if not self._allowance.admit(peer_id, len(message)):
            self._guard.offended(peer_id, "it gossips far more than it may", FLOOD_WEIGHT)
            self.table.count(Merged.LIMITED, peer_id)
            raise PeerBusy(self._transport.peer_id, "too much gossip from you for now")
        taken = answer(
            self.table,
            message,
            sender=peer_id,
            now_ms=self._now_ms(),
            window_ms=self._window_ms,
        )
        self._allowance.owe(peer_id, n_bytes=len(taken.reply), n_checks=taken.n_checked)
        for _ in range(taken.n_forged):
            self._guard.offended(peer_id, "it passes on records that nobody made")
        self._note(taken)
        return taken.reply

    def introduce(self, address: Address) -> None:
        """Begin there, too, as by an address to join by."""
        if address.peer_id != self._transport.peer_id:
            self._introductions.add(address)
            self._wake.set()

    def announce(self) -> None:
        """Publish a fresh draft now, for something in it changed that others should know."""
        self._announcer.hurry()
        self._wake.set()

    async def leave(self) -> None:
        """Tell a few peers that this one goes; they tell the others. Call it after `run` ended.

        Who does not hear it has another in its place: some may be gone, and not expired yet.
        """
        tombstone = self._draft().tombstone()
        record = self._announcer.publish(tombstone, now_s=self._now_s(), now_ms=self._now_ms())
        others = self._others()
        drawn = self._partners.draw(others, LEAVE_PARTNERS, self._now_s())
        self._rng.shuffle(others)
        chosen = iter([*drawn, *(peer for peer in others if peer not in drawn)])
        timeout_s = LEAVE_TIMEOUT_S * self._pressure.patience

        async def tell_one() -> None:
            for peer in chosen:
                try:
                    connection = await self._partners.connect(
                        peer.peer_id, peer.to_dial, timeout_s=timeout_s
                    )
                    await connection.call(METHOD, tell(record), timeout_s=timeout_s)
                except ManyhandsError as error:
                    log.debug("a peer did not hear our leave", extra={"reason": str(error)})
                else:
                    return

        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as telling:
                for _ in range(LEAVE_PARTNERS):
                    telling.create_task(tell_one())
        except TimeoutError:
            log.debug("not every peer heard our leave in time")
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that were kept."""
        await self._partners.aclose()

    @property
    def _window_ms(self) -> int:
        return round(self._announcer.pace.window_s * 1000)

    @property
    def _is_storm(self) -> bool:
        """Whether news follows on news."""
        return self._gap_s > 2 * self._timing.news_gap_s

    def _choose_partners(self) -> list[Partner]:
        """Whom to exchange with now: at random, more when there is news, and join addresses."""
        n_news = STORM_PARTNERS if self._is_storm else NEWS_PARTNERS
        n_partners = n_news if self._has_news else 1
        self._has_news = False
        others = self._others()
        drawn = self._partners.draw(
            others, n_partners, self._now_s(), n_at_once=self._pressure.n_at_once
        )
        partners = [Partner(peer.peer_id, peer.to_dial) for peer in drawn]
        due = self._introductions.due(self._is_to_be_met, self._now_s(), is_alone=self._is_alone)
        return [*partners, *(Partner(each.peer_id, (each,), is_introduction=True) for each in due)]

    def _is_to_be_met(self, peer_id: PeerId) -> bool:
        """Whether it is not known, and not being asked already."""
        return self._is_unknown(peer_id) and not self._partners.is_busy(peer_id)

    def _others(self) -> list[Announcement]:
        own = self._transport.peer_id
        return [peer for peer in self.table.live(self._now_ms()) if peer.peer_id != own]

    def _part(self, tasks: asyncio.TaskGroup) -> None:
        """From whom nobody knows any more."""
        for connection in self._partners.part_from(self._met()):
            tasks.create_task(connection.aclose())

    def _met(self) -> frozenset[PeerId]:
        """Who is known, or was to be joined by: somebody there may announce nothing."""
        return self._introductions.peers.union(peer.peer_id for peer in self._others())

    @property
    def _is_alone(self) -> bool:
        return not self._others()

    def _is_unknown(self, peer_id: PeerId) -> bool:
        return self.table.get(peer_id, self._now_ms()) is None

    async def _pause(self) -> None:
        """Until the next exchange is due, or news came in.

        News that follows on news is gathered for twice as long each time: when many join at once,
        telling of each of them at once would keep everybody busy with calls.
        """
        interval_s = self._announcer.pace.interval_s * self._pressure.patience
        interval_s *= self._rng.uniform(0.8, 1.2)
        is_first = not self._introductions.all_rest(self._is_to_be_met, self._now_s())
        if self._is_alone and is_first:
            interval_s = min(interval_s, NEXT_JOIN_S)
        try:
            async with asyncio.timeout(interval_s):
                await self._wake.wait()
        except TimeoutError:
            self._gap_s = max(self._timing.news_gap_s, self._gap_s / 2)
        else:
            await asyncio.sleep(self._gap_s * self._rng.uniform(0.8, 1.2))
            self._gap_s = min(2 * self._gap_s, interval_s)
        self._wake.clear()

    async def _exchange(self, partner: Partner) -> None:
        """One exchange. A refused connection costs nobody anything and slows nobody."""
        peer_id, addresses, is_introduction = partner
        introductions = self._introductions
        self._partners.begin(peer_id)
        began_s = self._now_s()
        try:
            await self._converse(peer_id, addresses)
            self._partners.trust(peer_id)
            self._pressure.answered()
            introductions.answered(peer_id)
            if is_introduction and len(self._others()) > KEPT:
                await self._partners.let_go(peer_id)
        except ManyhandsError as error:
            is_silent = self._now_s() - began_s >= 0.99 * self._timing.timeout_s  # clocks round
            if is_silent and not (is_introduction and introductions.has_failed(peer_id)):
                self._pressure.silent()
            if is_introduction:
                introductions.failed(peer_id, self._now_s(), is_alone=self._is_alone)
            await self._failed(peer_id, addresses, error, is_silent)
        finally:
            self._partners.end(peer_id)

    async def _converse(self, peer_id: PeerId, addresses: tuple[Address, ...]) -> None:
        timeout_s = self._timing.timeout_s * self._pressure.patience
        connection = await self._partners.connect(peer_id, addresses, timeout_s=timeout_s)
        compares = self._n_uncompared >= COMPARE_EVERY
        exchange = Exchange(
            self.table,
            compare=compares,
            tells_since_ms=self._told_ms if self._is_storm else None,
            window_ms=self._window_ms,
        )
        self._told_ms = self._now_ms()
        message, n_steps, found = exchange.question(self._told_ms), 0, False
        while message and n_steps < MAX_STEPS:
            began_s = self._now_s()
            told = await connection.call(METHOD, message, timeout_s=timeout_s)
            if n_steps == 0:  # the others may be large
                now_s, path = self._now_s(), connection.path
                self.links.learn(peer_id, now_s - began_s, at_s=now_s, path=path)
            taken = exchange.take(told, sender=peer_id, now_ms=self._now_ms())
            self._note(taken)
            found = n_steps > 0 and taken.n_taken > 0
            message, n_steps = taken.reply, n_steps + 1
        if compares and (self._is_storm or not found):  # in a storm no two tables are alike
            self._n_uncompared = 0
        self._n_uncompared += 1

    def _note(self, taken: Taken) -> None:
        if taken.has_news:
            self._has_news = True
            self._wake.set()

    async def _failed(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        error: ManyhandsError,
        is_silent: bool,
    ) -> None:
        await self._partners.shun(peer_id, self._now_s(), keeps=is_silent)
        if self._is_unknown(peer_id):
            self._introductions.warn(addresses, error, self._now_s())
        log.debug("an exchange failed", extra={"peer": peer_id, "reason": str(error)})
