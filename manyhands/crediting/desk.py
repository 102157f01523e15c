"""Where an account of this home writes its spend log: the steps of one entry, in their order.

In: an account of a home, a way to the swarm. Out: entries that a quorum signed and that nodes know.
First what others know is heard, and witnesses are asked whether they know more of our log than we
do (a copy that was put back must sign nothing); then the entry is logged, cosigned, told.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ledger.amounts import show_amount
from ledger.cosigning import Cosigned
from ledger.epochs import epoch_now
from ledger.policy import Policy
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import Allotment, Spending
from manyhands.crediting.meeting import Meeting
from manyhands.crediting.shown import plural
from manyhands.home import Home
from manyhands.party import Party, Who, open_party
from manyhands.progress import say
from manyhands.swarm_telling import candidates
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import (
    ManyhandsError,
    NoQuorum,
    NotFunded,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import PeerId
from protocol.signing import Envelope

FIX = "name one that runs with --join ADDR, or start one: manyhands serve MODEL"


@dataclass(frozen=True, slots=True)
class Written:
    """An entry, and who vouches for it by now."""

    oid: bytes
    index: int
    cosigned: Cosigned
    told: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Desk:
    """Use `open_desk`."""

    party: Party
    log: SpendLog
    books: SpendBooks
    meeting: Meeting

    @property
    def policy(self) -> Policy:
        return self.party.policy

    @property
    def epoch(self) -> int:
        """Of now, by the swarm's witnesses."""
        return epoch_now(self.policy, self.books, wall_ms())

    def allotment(
        self, number: int, payee: bytes, asset: bytes, amount: int, epochs: int, *, hint: str
    ) -> Allotment:
        """What sets so much aside for `payee`, until so many epochs after this one have passed.

        Raises:
            NotFunded: the account has not so much; `hint` says what helps.
        """
        there_is = self.books.available(self.log.account, asset)
        if amount > there_is:
            has = f"{self.party.peer_id} has {show_amount(there_is)}"
            raise NotFunded("", f"{has} credits, not {show_amount(amount)}", hint=hint)
        return Allotment(
            payer=self.log.account,
            asset=asset,
            payee=payee,
            allot_no=number,
            amount=amount,
            expires_epoch=self.epoch + epochs,
        )

    async def sync(self) -> tuple[Cosigned | None, tuple[PeerId, ...]]:
        """Hear what is known, and have our own log signed and known; None: it has no entries.

        Raises:
            PeerUnreachable: nobody answers. NoQuorum: too few witnesses do.
            DamagedLedger: our log is older than what they know of it.
        """
        say("asking the swarm for spend logs")
        await self.meeting.hear(self.books)
        await self.meeting.panel().check(self.log)
        if not len(self.log):
            return None, ()
        return await self._vouched()

    async def write(self, make: Callable[[int], Spending]) -> Written:
        """Log what `make` makes of the entry's number.

        Raises:
            NotFunded: an earlier entry is beyond the account's credit, so no later one counts.
            NoQuorum, DamagedLedger, PeerUnreachable: as `sync`. After NoQuorum the entry stands in
                the log, and counts once enough witnesses sign it.
        """
        await self.sync()
        account, size = self.log.account, len(self.log)
        if not size:  # what time it is witnesses say, who were asked to sign nothing yet
            cosigned = await self.meeting.panel().cosign(self.log)
            await asyncio.to_thread(self.books.hear_time, cosigned)
        if (counted := self.books.counted(account)) < size:
            raise NotFunded(
                "",
                f"entry {counted} of {size} in this log is beyond its credit, or breaks a rule:"
                " later ones wait for it",
                hint="have more granted; manyhands ledger balance shows what there is",
            )
        sealed = make(size).seal(self.party.swarm_id, self.party.identity.key)
        cosigned, told = await self._append(sealed)
        return Written(sealed.object_id(self.party.swarm_id), size, cosigned, told)

    async def publish(self, objects: Sequence[Envelope]) -> tuple[int, tuple[PeerId, ...]]:
        """Log what of these is not logged yet, and have the log signed and told; how many were
        new, and who was told.

        Raises:
            NoQuorum, DamagedLedger, PeerUnreachable: as `write`.
        """
        await self.sync()
        swarm_id, holds = self.party.swarm_id, self.log.holds
        fresh = [each for each in objects if not holds(each.object_id(swarm_id))]
        if not fresh:
            return 0, (await self._vouched())[1]
        return len(fresh), (await self._append(*fresh))[1]

    async def _append(self, *sealed: Envelope) -> tuple[Cosigned, tuple[PeerId, ...]]:
        await asyncio.to_thread(self.log.append, *sealed)
        try:
            return await self._vouched()
        except NoQuorum as error:
            error.hint = "it is logged, and counts once they sign: manyhands ledger sync"
            raise

    async def _vouched(self) -> tuple[Cosigned, tuple[PeerId, ...]]:
        """Signed by a quorum, in our own books, and told to a few nodes."""
        asked = plural(len(self.policy.witnesses), "witness", "witnesses")
        say(f"asking {asked} to sign {plural(len(self.log), 'entry', 'entries')}")
        cosigned = await self.meeting.panel().cosign(self.log)
        await asyncio.to_thread(self._learn, cosigned.head.size)
        try:
            told = await self.meeting.publish(self.log)
        except ManyhandsError as error:
            say(f"warning: no node was told: {error}; manyhands ledger sync tells them later")
            return cosigned, ()
        return cosigned, tuple(told)

    def _learn(self, size: int) -> None:
        """Our own books hear of our own log as everybody does: with its checkpoint, of the size
        that witnesses signed; another process may have logged more by now."""
        note, account = self.log.checkpoint_of(size), self.log.account
        start = self.books.size(account)
        self.books.learn(account, note, self.log.leaves(start, size), start=min(start, size))


@asynccontextmanager
async def open_desk(place: Home, who: Who, join: Sequence[Address] = ()) -> AsyncIterator[Desk]:
    """
    Raises:
        UsageError: nothing is granted in its swarm.
        DamagedLedger, ForeignLedger, ConfigError: its files cannot be used.
    """
    from protocol.transport.paths import paths_of

    party = open_party(place, who)
    check_granted(party.policy)
    directory = place.node if who == "node" else place.client
    addresses = candidates(place, join)
    if not addresses:
        raise PeerUnreachable("", f"no node of swarm {party.policy.name} is known here", hint=FIX)
    with (
        SpendLog.open(directory, party.identity.key, party.swarm_id) as log,
        SpendBooks.open(directory, party.swarm_id, party.policy.quorum()) as books,
    ):
        transport = party.transport()
        meeting = Meeting(party, transport, addresses)
        try:
            yield Desk(party, log, books, meeting)
        finally:
            await meeting.aclose()
            await paths_of(transport).aclose()


def check_granted(policy: Policy) -> None:
    """
    Raises:
        UsageError: pairs owe each other there.
    """
    if not policy.issuers:
        raise UsageError(
            f"in swarm {policy.name} nobody grants credit: pairs of peers owe each other",
            hint="found one where somebody does: manyhands swarm create NAME --funding granted",
        )
