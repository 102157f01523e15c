"""Peers that gossip alone would not bring together: met one by one, for round trips and bandwidth.

In: who serves now. Out: round trips in `LinkTimes`, now and then a burst in `Bandwidth`. Gossip
keeps to a few partners; routes lead anywhere. A new connection's first exchange is not counted.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence

from node.bandwidth import Bandwidth
from node.links import LinkTimes
from protocol.announcements import MAX_LINKS, Announcement
from protocol.errors import ManyhandsError, PeerRefused
from protocol.path import Path
from protocol.transport import Connection, Transport
from protocol.transport.paths import paths_of

log = logging.getLogger(__name__)

SOON_S, LATER_S = 2.0, 30.0  # between meetings while few links are known, and afterwards
N_PINGS = 3
TIMEOUT_S = 5.0
LEAST_BURSTS, BURST_S = 3, 600.0  # bursts at the start, then one so often
MOST_OFFERS = 2 * LEAST_BURSTS  # at the start: who cannot be dialled directly is asked for none


class Meetings:
    """`others`: who serves now, but this node. `is_idle`: whether a burst would disturb nobody."""

    def __init__(
        self,
        transport: Transport,
        others: Callable[[], Sequence[Announcement]],
        links: LinkTimes,
        bandwidth: Bandwidth,
        is_idle: Callable[[], bool],
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._transport, self._others, self._links = transport, others, links
        self._bandwidth, self._is_idle = bandwidth, is_idle
        self._rng = rng or random.Random()
        self._burst_at_s = self._offered_at_s = 0.0
        self._n_offered = 0

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        while True:
            n_known = len(self._links.best(time.monotonic()))
            enough = min(MAX_LINKS, len(self._others()))
            interval_s = SOON_S if n_known < enough or not n_known else LATER_S
            await asyncio.sleep(interval_s * self._rng.uniform(0.8, 1.2))
            if (peer := self._next()) is not None:
                try:
                    await self.meet(peer)
                except ManyhandsError as error:
                    log.debug("a meeting failed", extra={"peer": peer.peer_id, "why": str(error)})

    async def meet(self, peer: Announcement) -> None:
        """Dial, measure, part.

        Raises:
            ManyhandsError: it cannot be reached, or does not answer.
        """
        paths = paths_of(self._transport)
        connection = await paths.dial(peer.peer_id, peer.to_dial, timeout_s=TIMEOUT_S)
        try:
            await connection.call("ping", b"", timeout_s=TIMEOUT_S)
            for _ in range(N_PINGS):
                began_s = time.monotonic()
                await connection.call("ping", b"", timeout_s=TIMEOUT_S)
                now_s = time.monotonic()
                rtt_s = now_s - began_s
                self._links.learn(peer.peer_id, rtt_s, at_s=now_s, path=connection.path)
            if connection.path is Path.DIRECT:  # else it would be the relay that is measured
                await self._burst(connection)
        finally:
            await connection.aclose()

    async def _burst(self, connection: Connection) -> None:
        now_s = time.monotonic()
        if not self._is_idle():
            return
        if self._bandwidth.n_known < LEAST_BURSTS or now_s - self._burst_at_s > BURST_S:
            self._burst_at_s = now_s
            await self._bandwidth.probe(connection)
        if self._offers(now_s):
            self._n_offered, self._offered_at_s = self._n_offered + 1, now_s
            with contextlib.suppress(PeerRefused):  # older peers
                await self._bandwidth.offer(connection)

    def _offers(self, now_s: float) -> bool:
        """Whether too few have asked for bursts of ours to know how wide the way up is."""
        is_begun = self._n_offered >= MOST_OFFERS
        is_due = not is_begun or now_s - self._offered_at_s > BURST_S
        return is_due and self._bandwidth.n_told < LEAST_BURSTS

    def _next(self) -> Announcement | None:
        """Whoever was never measured, else anybody."""
        others = [peer for peer in self._others() if peer.addresses]
        now_s = time.monotonic()
        unknown = [peer for peer in others if self._links.rtt_s(peer.peer_id, now_s) is None]
        return self._rng.choice(unknown or others) if others else None
