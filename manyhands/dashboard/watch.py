"""A swarm, watched for as long as a page may ask: its table, and who answers from here.

In: a client of the swarm. Out: the newest look at it, and a wait for the next. The table is fetched
each round; peers are pinged a few at a time, so that each is heard of within `PING_EVERY_S`, over
the connections that answers use, too.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from manyhands.condition import Seen
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.path import Path
from protocol.regions import doubts

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from scheduler.client import Client
    from scheduler.directory import Directory

log = logging.getLogger(__name__)

ROUND_S = 2.0
PING_EVERY_S = 6.0
PING_S = 3.0
MAX_PINGED, AT_ONCE = 64, 16  # of a large swarm the first in the table's order
MISSED_PINGS = 2  # one lost answer is no news


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and when, by our clock. why_not: nobody in the swarm answers."""

    at_ms: int
    number: int
    seen: "Mapping[Announcement, Seen]" = field(default_factory=dict)
    why_not: str = ""


@dataclass(slots=True)
class Ping:
    """The newest of one peer."""

    at_s: float
    rtt_ms: float | None = None
    way: Path = Path.DIRECT
    why_not: str = ""
    n_missed: int = 0


class SwarmWatch:
    """Use `watching`; then `newest`, or `after` for what comes next."""

    def __init__(self) -> None:
        self._pings: dict[PeerId, Ping] = {}
        self._news = asyncio.Event()
        self.newest = Look(wall_ms(), 0, why_not="nobody has looked yet")
        self.has_ended = False

    async def after(self, number: int, timeout_s: float) -> Look | None:
        """A look that is newer than `number`; None: there was none in time, or there is no more."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.newest.number <= number and not self.has_ended:
                    await self._news.wait()
        except TimeoutError:
            return None
        return self.newest if self.newest.number > number else None

    def end(self) -> None:
        """Nothing comes any more: whoever waits is let go."""
        self.has_ended = True
        self._news.set()

    @asynccontextmanager
    async def watching(self, client: "Client") -> AsyncIterator[None]:
        """Look again and again through this client while the context lasts."""
        task = asyncio.create_task(self._run(client), name="watching the swarm")
        try:
            yield
        finally:
            self.end()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, client: "Client") -> None:
        while True:
            began_s = asyncio.get_running_loop().time()
            try:
                look = await self._look(client)
            except ManyhandsError as error:  # what was seen last is still worth more than nothing
                last = self.newest
                look = Look(last.at_ms, last.number + 1, last.seen, why_not=_reason(error))
            except Exception:  # a mistake of ours must not end the watch, nor look like news
                log.exception("the swarm could not be looked at")
                last = self.newest
                why = "this gateway could not look; its log says why"
                look = Look(last.at_ms, last.number + 1, last.seen, why_not=why)
            self.newest = look
            news, self._news = self._news, asyncio.Event()
            news.set()
            took_s = asyncio.get_running_loop().time() - began_s
            await asyncio.sleep(max(0.1, ROUND_S - took_s))

    async def _look(self, client: "Client") -> Look:
        directory = await client.directory()
        peers = directory.live()
        await self._ping(client, peers[:MAX_PINGED])
        now_ms = wall_ms()
        slowdowns = client.records.believed(peers, now_ms / 1000)
        doubted = doubts(peers)
        seen = {
            peer: self._seen(
                peer,
                directory,
                slowdown=slowdowns.get(peer.peer_id),
                doubt=str(doubted.get(peer.peer_id, "")),
            )
            for peer in peers
        }
        return Look(now_ms, self.newest.number + 1, seen)

    def _seen(
        self,
        peer: "Announcement",
        directory: "Directory",
        *,
        slowdown: float | None,
        doubt: str,
    ) -> Seen:
        ping = self._pings.get(peer.peer_id) or Ping(0.0)
        now_ms = directory.now_ms()
        return Seen(
            rtt_ms=ping.rtt_ms,
            way=ping.way,
            why_not=ping.why_not if ping.n_missed >= MISSED_PINGS else "",
            age_s=directory.table.heard_ms(peer.peer_id, now_ms) / 1000,
            slowdown=slowdown,
            doubt=doubt,
            skew_s=directory.table.skew_ms(peer.peer_id, now_ms) / 1000,
        )

    async def _ping(self, client: "Client", peers: "tuple[Announcement, ...]") -> None:
        """Those who are due; who has gone is forgotten."""
        present = {peer.peer_id for peer in peers}
        for gone in self._pings.keys() - present:
            del self._pings[gone]
        now_s = asyncio.get_running_loop().time()
        due = [peer for peer in peers if self._is_due(peer.peer_id, now_s)]
        due.sort(key=lambda peer: self._last_s(peer.peer_id))
        async with asyncio.TaskGroup() as tasks:
            for peer in due[:AT_ONCE]:
                tasks.create_task(self._ping_one(client, peer))

    def _is_due(self, peer_id: PeerId, now_s: float) -> bool:
        ping = self._pings.get(peer_id)
        wait_s = ROUND_S / 2 if ping is not None and ping.n_missed else PING_EVERY_S
        return ping is None or now_s - ping.at_s >= wait_s

    def _last_s(self, peer_id: PeerId) -> float:
        ping = self._pings.get(peer_id)
        return ping.at_s if ping is not None else 0.0

    async def _ping_one(self, client: "Client", peer: "Announcement") -> None:
        ping = self._pings.setdefault(peer.peer_id, Ping(0.0))
        try:
            anew = ping.n_missed >= MISSED_PINGS
            ping.rtt_ms, ping.way = await client.ping(peer, timeout_s=PING_S, anew=anew)
            ping.why_not, ping.n_missed = "", 0
        except ManyhandsError as error:
            ping.why_not, ping.n_missed = _reason(error), ping.n_missed + 1
        ping.at_s = asyncio.get_running_loop().time()


def _reason(error: ManyhandsError) -> str:
    return error.reason if isinstance(error, PeerError) else str(error)
