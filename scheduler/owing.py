"""What this client and the nodes that it pays tell each other of debts: once per node and process.

In: nodes that take part in a chain and ask for money. Out: tallies on disk, of which some have our
signature too, and a node that knows who our kin is. All of it runs beside the answer, which never
waits for it; what fails is tried again by a later process.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from ledger.log import Ledger
from ledger.tallies import Tallies, signed_too
from ledger.writer import LedgerWriter
from protocol.errors import ManyhandsError
from protocol.identity import Identity, public_key_from_peer_id
from protocol.owing import MAX_HANDED, METHOD, Owing, Showing
from protocol.signing import Envelope
from scheduler.chain import Connections

log = logging.getLogger(__name__)

TALK_S = 5.0
T = TypeVar("T")


class OwingTalks:
    """Of one client."""

    def __init__(
        self, identity: Identity, books: LedgerWriter, connections: Connections, shows: Showing
    ) -> None:
        """shows: who our kin is, and what others signed that it did for them."""
        self._identity, self._books, self._connections = identity, books, connections
        self.shows = shows
        self._met: set[str] = set()
        self._talking: set[asyncio.Task[None]] = set()

    def met(self, peer: str, addresses: Sequence[str]) -> None:
        """It works for us, and not for free."""
        if peer not in self._met:
            self._met.add(peer)
            task = asyncio.create_task(self._talk(peer, addresses), name=f"owing to {peer}")
            self._talking.add(task)
            task.add_done_callback(self._talking.discard)

    async def aclose(self) -> None:
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)

    async def _talk(self, peer: str, addresses: Sequence[str]) -> None:
        payee = public_key_from_peer_id(peer)
        try:
            held = await self._ask(partial(_mutual_with, payee))
            tallies = (*held, *self.shows.tallies)[:MAX_HANDED]
            showing = Showing(kin=self.shows.kin, tallies=tallies)
            connection = await self._connections.to(peer, addresses, timeout_s=TALK_S)
            answer = await connection.call(METHOD, showing.encode(), timeout_s=TALK_S)
            told = Owing.decode(answer, sender=peer)
            await self._ask(partial(_keep, told, self._identity, payee))
        except ManyhandsError as error:  # a node of an older version does not know the question
            log.debug("no word of debts", extra={"peer": peer, "error": str(error)})

    async def _ask(self, question: Callable[[Ledger], T]) -> T:
        return await asyncio.wrap_future(self._books.ask(question))


def _mutual_with(payee: bytes, ledger: Ledger) -> list[bytes]:
    with Tallies.open(ledger.directory, ledger.swarm_id) as tallies:
        return tallies.mutual_of(ledger.account, payee)


def _keep(told: Owing, identity: Identity, payee: bytes, ledger: Ledger) -> None:
    """Raises IntegrityError: something of it does not hold; what came before it is kept."""
    with Tallies.open(ledger.directory, ledger.swarm_id, {ledger.account}) as tallies:
        if told.tally:
            ours = ledger.sums(of=payee).get(payee)
            most = ours.spent if ours else 0
            for each in signed_too(told.tally, identity.key, payee, most, ledger.swarm_id):
                tallies.keep(each)
        if tallies.is_full:
            worked = {(key, ledger.account): passed.spent for key, passed in ledger.sums().items()}
            tallies.make_room(worked, {})
        for data in told.others:
            tallies.keep(Envelope.decode(data))
