"""A node's part in keeping settlements and faults alike: it compares with one peer at a time.

In: calls of peers, and a few peers to ask. Out: all that holds of what any of them has. What two
hold in common costs next to nothing to compare (`ledger.reconciliation`); each asks for what it
lacks itself, and nobody is sent what it did not ask for.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from ledger.told_objects import (
    MAX_ASKED,
    OBJECTS,
    RECONCILE,
    ToldObjects,
    ask_compare,
    ask_objects,
)
from protocol.announcements import Announcement
from protocol.errors import IntegrityError, ManyhandsError, PeerBusy, PeerMisbehaved
from protocol.guard import Allowance, Budget
from protocol.identity import PeerId
from protocol.rate_limits import Limit
from protocol.transport import CallHandler, Connection, Transport
from protocol.transport.paths import paths_of

log = logging.getLogger(__name__)

EVERY_S, TIMEOUT_S = 20.0, 10.0
MOST = 2_000  # objects taken from one peer in one go
BUDGET = Budget(calls=Limit(per_s=5, burst=200), bytes=Limit(per_s=256 * 1024, burst=32 * 2**20))


class Reconciling:
    """`run` it for as long as the node is up."""

    def __init__(
        self,
        objects: ToldObjects,
        transport: Transport,
        own: PeerId,
        known: Callable[[], Sequence[Announcement]],
        rng: random.Random | None = None,
    ) -> None:
        """known: who serves now, this node (`own`) among them or not."""
        self.calls: Mapping[str, CallHandler] = {RECONCILE: self._compared, OBJECTS: self._told}
        self._objects, self._transport, self._rng = objects, transport, rng or random.Random()
        self._own, self._known = own, known
        self._allowance = Allowance(BUDGET)

    async def _compared(self, peer: PeerId, request: bytes) -> bytes:
        return await self._answer(peer, self._objects.compare, request)

    async def _told(self, peer: PeerId, request: bytes) -> bytes:
        return await self._answer(peer, self._objects.tell, request)

    async def _answer(
        self, peer: PeerId, answer: Callable[[bytes], bytes], request: bytes
    ) -> bytes:
        """
        Raises:
            PeerBusy: it asks too much. PeerMisbehaved: what it asks makes no sense.
        """
        if not self._allowance.admit(peer, len(request)):
            raise PeerBusy("", "too many comparisons from you", hint="try again shortly")
        try:
            told = await asyncio.to_thread(answer, request)
        except IntegrityError as error:
            raise PeerMisbehaved(peer, str(error)) from error
        self._allowance.owe(peer, n_bytes=len(told))
        return told

    async def run(self) -> None:
        """Until cancelled; no peer's failure ends it."""
        while True:
            others = [p for p in self._known() if p.addresses and p.peer_id != self._own]
            for partner in self._rng.sample(others, min(1, len(others))):
                await self._visit(partner)
            await asyncio.sleep(EVERY_S * self._rng.uniform(0.8, 1.2))

    async def _visit(self, partner: Announcement) -> None:
        peer_id = partner.peer_id
        try:
            paths = paths_of(self._transport)
            connection = await paths.dial(peer_id, partner.to_dial, timeout_s=TIMEOUT_S)
            try:
                for kind in self._objects.kinds:
                    await take_from(connection, self._objects, kind)
            finally:
                await connection.aclose()
        except PeerMisbehaved as error:
            log.warning("compared falsely", extra={"peer": peer_id, "why": str(error)})
        except ManyhandsError as error:
            log.debug("nothing compared", extra={"peer": peer_id, "why": str(error)})


async def take_from(connection: Connection, objects: ToldObjects, kind: str) -> int:
    """Have all of a kind that the peer has; how many of it were new.

    Raises:
        PeerMisbehaved: what it says or tells does not hold.
        ManyhandsError: it cannot be reached, or refuses us.
    """
    try:
        asker = await asyncio.to_thread(objects.asker, kind, MOST)
        while not asker.is_over:
            asked = ask_compare(kind, asker.message())
            answered = await connection.call(RECONCILE, asked, timeout_s=TIMEOUT_S)
            await asyncio.to_thread(asker.take, answered)
        lacking, n = sorted(oid for _, oid in asker.lacking), 0
        for at in range(0, len(lacking), MAX_ASKED):
            some = lacking[at : at + MAX_ASKED]
            told = await connection.call(OBJECTS, ask_objects(kind, some), timeout_s=TIMEOUT_S)
            n += await asyncio.to_thread(objects.take, kind, some, told)
        return n
    except IntegrityError as error:
        raise PeerMisbehaved(connection.peer_id, str(error)) from error
