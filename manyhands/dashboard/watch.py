"""A swarm, watched for as long as somebody looks: its table, and who answers from here.

In: a `Sight` of the swarm: a client's, or a node's own. Out: the newest look at it, and a wait for
the next. Peers are pinged a few at a time, so that each is heard of within `PING_EVERY_S`, over the
connections that answers use, too. Where nobody has asked for `IDLE_S` nobody is looked at.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from manyhands.condition import Seen
from manyhands.sight import Ping, seen_in
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.path import Path

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from scheduler.directory import Directory
    from scheduler.peer_record import PeerRecords

log = logging.getLogger(__name__)

ROUND_S = 2.0
IDLE_S = 20.0  # a page that is open asks more often
FRESH_S = 3 * ROUND_S  # what is older is waited for, up to `WAIT_S`
WAIT_S = 5.0
PING_EVERY_S = 6.0
PING_S = 3.0
MAX_PINGED, AT_ONCE = 64, 16  # of a large swarm the first in the table's order
MISSED_PINGS = 2  # one lost answer is no news


class Sight(Protocol):
    """How a swarm is seen from here; a client is one."""

    @property
    def records(self) -> "PeerRecords":
        """What was seen of peers earlier."""

    async def directory(self) -> "Directory":
        """Who serves what, now.

        Raises:
            ManyhandsError: nobody tells.
        """

    async def ping(
        self, peer: "Announcement", *, timeout_s: float, anew: bool = False
    ) -> tuple[float, Path]:
        """Milliseconds to a peer and back, and the way there. anew: the connection at hand is
        taken for dead.

        Raises:
            ManyhandsError: why it does not answer.
        """


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and when, by our clock. why_not: nobody in the swarm answers."""

    at_ms: int
    number: int
    seen: "Mapping[Announcement, Seen]" = field(default_factory=dict)
    why_not: str = ""


class SwarmWatch:
    """Use `watching`; then `fresh`, or `after` for what comes next."""

    def __init__(self) -> None:
        self._pings: dict[PeerId, Ping] = {}
        self._news, self._asked = asyncio.Event(), asyncio.Event()
        self._asked_at_s = 0.0
        self.sight: Sight | None = None  # while it watches
        self.newest = Look(wall_ms(), 0, why_not="nobody has looked yet")
        self.has_ended = False

    async def fresh(self) -> Look:
        """The newest look; one that is old is waited for a little."""
        self._ask()
        is_old = wall_ms() - self.newest.at_ms > FRESH_S * 1000 or not self.newest.number
        if is_old and self.sight is not None:
            await self.after(self.newest.number, WAIT_S)
        return self.newest

    async def after(self, number: int, timeout_s: float) -> Look | None:
        """A look that is newer than `number`; None: there was none in time, or there is no more."""
        self._ask()
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
    async def watching(self, sight: Sight) -> AsyncIterator[None]:
        """Look again and again in this way while the context lasts, and somebody asks."""
        self.sight = sight
        task = asyncio.create_task(self._run(sight), name="watching the swarm")
        try:
            yield
        finally:
            self.end()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.sight = None

    def _ask(self) -> None:
        self._asked_at_s = asyncio.get_running_loop().time()
        self._asked.set()

    async def _run(self, sight: Sight) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            if began_s - self._asked_at_s > IDLE_S:
                self._asked.clear()
            await self._asked.wait()
            began_s = loop.time()
            self.newest = await self._one_look(sight)
            news, self._news = self._news, asyncio.Event()
            news.set()
            await asyncio.sleep(max(0.1, ROUND_S - (loop.time() - began_s)))

    async def _one_look(self, sight: Sight) -> Look:
        """What was seen last is still worth more than nothing."""
        last = self.newest
        try:
            directory = await sight.directory()
            await self._ping(sight, directory.live()[:MAX_PINGED])
            seen = seen_in(directory, self._pings, sight.records, misses=MISSED_PINGS)
            return Look(wall_ms(), last.number + 1, seen)
        except ManyhandsError as error:
            why = error.reason if isinstance(error, PeerError) else str(error)
        except Exception:  # a mistake of ours must not end the watch, nor look like news
            log.exception("the swarm could not be looked at")
            why = "this process could not look; its log says why"
        return Look(last.at_ms, last.number + 1, last.seen, why_not=why)

    async def _ping(self, sight: Sight, peers: "Sequence[Announcement]") -> None:
        """Those who are due; who has gone is forgotten."""
        present = {peer.peer_id for peer in peers}
        for gone in self._pings.keys() - present:
            del self._pings[gone]
        now_s = asyncio.get_running_loop().time()
        due = [peer for peer in peers if self._is_due(peer.peer_id, now_s)]
        due.sort(key=lambda peer: self._last_s(peer.peer_id))
        async with asyncio.TaskGroup() as tasks:
            for peer in due[:AT_ONCE]:
                tasks.create_task(self._ping_one(sight, peer))

    def _is_due(self, peer_id: PeerId, now_s: float) -> bool:
        ping = self._pings.get(peer_id)
        wait_s = ROUND_S / 2 if ping is not None and ping.n_missed else PING_EVERY_S
        return ping is None or now_s - ping.at_s >= wait_s

    def _last_s(self, peer_id: PeerId) -> float:
        ping = self._pings.get(peer_id)
        return ping.at_s if ping is not None else 0.0

    async def _ping_one(self, sight: Sight, peer: "Announcement") -> None:
        ping = self._pings.setdefault(peer.peer_id, Ping())
        anew = ping.n_missed >= MISSED_PINGS
        try:
            ping.answered(*await sight.ping(peer, timeout_s=PING_S, anew=anew))
        except ManyhandsError as error:
            ping.missed(error)
        ping.at_s = asyncio.get_running_loop().time()
