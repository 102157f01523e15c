"""Announcements over the network of discovery: one more way that records come and go.

In: the node's one table, and a `ControlPlane`. Out: this node's record on the page where others
look for it, and in the table whatever others keep there. Gossip needs somebody to begin with; this
finds somebody, and now and then a part of the swarm that gossip has lost. What counts is the
table's to say, with the same rules, limits and counters as for gossip.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from protocol.announcement_table import AnnouncementTable, Merged
from protocol.announcements import AnnouncementSource
from protocol.clock import wall_ms
from protocol.errors import ConfigError, ManyhandsError, PeerMisbehaved
from protocol.guard import Allowance, Budget, Guard
from protocol.identity import PeerId
from protocol.rate_limits import Limit
from protocol.record_pages import (
    MAX_PUT_BYTES,
    MAX_VALUE_BYTES,
    N_PAGES,
    key_of_page,
    page_of,
    read_key,
    record_of,
    take,
    write_page,
    write_records,
)
from protocol.transport.control_plane import CLOSEST, ControlPlane, Keeper

log = logging.getLogger(__name__)

EVERY_S = 30.0  # publish our record, look at a page
ALONE_EVERY_S = 5.0  # look at all pages, while nobody else is known
LOOK_S = 0.5  # whether anybody is connected, while nobody was
N_ASKED = 2  # peers asked for the page looked at now and then
PAGE_LASTS_S = 2.0  # a page is written anew at most that often, whoever asks
LEAVE_TIMEOUT_S = 1.0
# Of one sender. A newcomer asks for 16 pages, and puts one.
CALLS = Limit(per_s=5, burst=100)
BYTES = Limit(per_s=MAX_VALUE_BYTES, burst=N_PAGES * MAX_VALUE_BYTES)
CHECKS = Limit(per_s=20, burst=200)  # signatures, 0.1 ms each
BUDGET = Budget(calls=CALLS, bytes=BYTES, checks=CHECKS)


class Discovery(AnnouncementSource, Keeper):
    """`start` it before `run`; `leave` or `stop` it after."""

    def __init__(
        self,
        table: AnnouncementTable,
        plane: ControlPlane,
        *,
        every_s: float = EVERY_S,
        alone_every_s: float = ALONE_EVERY_S,
        now_ms: Callable[[], int] = wall_ms,
        now_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        guard: Guard | None = None,
    ) -> None:
        """`guard`: the node's, which hears of values that do not hold."""
        self.table, self.plane = table, plane
        self.n_found = 0  # records that the table did not hold
        self.refused: Counter[str] = Counter()
        self._every_s, self._alone_every_s = every_s, alone_every_s
        self._now_ms, self._now_s, self._rng = now_ms, now_s, rng or random.Random()
        self._allowance = Allowance(BUDGET, self._now_s)
        self._guard = guard or Guard(now_s=self._now_s, now_ms=self._now_ms)
        self._pages: dict[int, tuple[float, bytes]] = {}  # written for others, and until when

    async def start(self) -> bool:
        """Connect; whether that could be. A node works without, so it is not an error."""
        try:
            await self.plane.start(self)
        except ConfigError as error:
            self.plane.problem = str(error)
            why = {"reason": str(error), "fix": error.hint}
            log.warning("no discovery over libp2p; peers come from --join and gossip", extra=why)
            return False
        return True

    async def run(self) -> None:
        while not self.plane.problem:
            if not self.plane.peers():
                await asyncio.sleep(LOOK_S)
                continue
            is_alone = len(self.table.live(self._now_ms())) <= 1
            pages = range(N_PAGES) if is_alone else [self._rng.randrange(N_PAGES)]
            try:
                await self.publish()
                await self.look(pages, n_peers=CLOSEST if is_alone else N_ASKED)
            except ManyhandsError as error:
                log.debug("a round of discovery failed", extra={"reason": str(error)})
            is_alone = len(self.table.live(self._now_ms())) <= 1
            pause_s = self._alone_every_s if is_alone else self._every_s
            await asyncio.sleep(pause_s * self._rng.uniform(0.8, 1.2))

    async def publish(self) -> int:
        """Put our record where others look for it; how many peers keep it."""
        record = record_of(self.table, self.plane.peer_id, self._now_ms())
        if record is None:
            return 0
        key = key_of_page(self.table.swarm_id, page_of(self.plane.peer_id))
        return await self.plane.publish(key, write_records([record]))

    async def look(self, pages: Sequence[int], *, n_peers: int = CLOSEST) -> int:
        """Take in what others keep on some pages; how many records that brought."""
        n_before = self.n_found
        for page in pages:
            key = key_of_page(self.table.swarm_id, page)
            for told in await self.plane.find(key, n_peers=n_peers):
                try:
                    put = take(self.table, told.value, sender=told.sender, now_ms=self._now_ms())
                except PeerMisbehaved as error:
                    log.debug("a page that is none", extra={"reason": str(error)})
                else:
                    self.n_found += put.n_taken
        return self.n_found - n_before

    async def leave(self) -> None:
        """Our tombstone goes where our record was; then we are gone."""
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self.publish()
        except (TimeoutError, ManyhandsError) as error:
            log.debug("nobody keeps our leave", extra={"reason": str(error)})
        finally:
            await self.stop()

    async def stop(self) -> None:
        await self.plane.stop()

    # --- what others ask --------------------------------------------------------------------------

    def admits(self, peer_id: PeerId) -> bool:
        return self._guard.bans.of(peer_id) is None

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        try:
            self._admit(sender, len(value))
            read_key(self.table.swarm_id, key, sender=sender)
            now_ms = self._now_ms()
            put = take(self.table, value, sender=sender, now_ms=now_ms, max_bytes=MAX_PUT_BYTES)
        except _Limited:
            return self._refuse("limited", sender, Merged.LIMITED)
        except PeerMisbehaved as error:
            log.debug("a value not kept", extra={"peer": sender, "reason": str(error)})
            self._strike(sender)
            return self._refuse("malformed", sender)
        self._allowance.owe(sender, n_checks=put.n_checked)
        self.n_found += put.n_taken
        if put.is_clean:
            return True
        self._strike(sender)
        return self._refuse("dropped", sender)

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        try:
            self._admit(sender, len(key))
            page = read_key(self.table.swarm_id, key, sender=sender)
        except _Limited:
            self._refuse("limited", sender, Merged.LIMITED)
            return b""
        except PeerMisbehaved:
            self._refuse("foreign key", sender)
            return b""
        until_s, written = self._pages.get(page, (0.0, b""))
        if self._now_s() >= until_s:
            written = write_page(self.table, page, self._now_ms())
            self._pages[page] = (self._now_s() + PAGE_LASTS_S, written)
        self._allowance.owe(sender, n_bytes=len(written))
        return written

    def _admit(self, sender: PeerId, n_bytes: int) -> None:
        if not self._allowance.admit(sender, n_bytes):
            raise _Limited

    def _strike(self, sender: PeerId) -> None:
        """One value that does not hold may be an accident; many are not."""
        self._guard.offended(sender, "it stores what does not hold")

    def _refuse(self, why: str, sender: PeerId, merged: Merged | None = None) -> bool:
        self.refused[why] += 1
        if merged is not None:
            self.table.count(merged, sender)
        return False

    def status(self) -> dict[str, object]:
        """For people, and for `manyhands status`."""
        return {
            "problem": self.plane.problem,
            "addresses": [str(address) for address in self.plane.addresses],
            "peers": len(self.plane.peers()),
            "records_found": self.n_found,
            "refused": dict(self.refused + self.plane.refused),
        }


class _Limited(Exception):
    """A sender asks more than it may."""
