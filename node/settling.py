"""A node's part in settling: it answers payers, deposits what both signed, and has that witnessed.

In: calls of payers, whom the transport has proven; witnesses, if the swarm has any. Out: answers,
and a spend log that a quorum has cosigned, told to this node's own books, which others hear of.
What is settled is decided by `ledger.settle_desk`; it waits for disks, so it runs on a thread, one
question at a time.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from ledger.cosigning import Cosigned
from ledger.epochs import epoch_now
from ledger.errors import DamagedLedger
from ledger.policy import Policy
from ledger.settle_desk import SettleDesk
from ledger.settle_words import METHOD, SIGNED, Asked
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from node.reconciling import Reconciling
from protocol.clock import wall_ms
from protocol.errors import IntegrityError, ManyhandsError, PeerBusy, PeerMisbehaved
from protocol.guard import Allowance, Budget
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.rate_limits import Limit
from protocol.transport import CallHandler

log = logging.getLogger(__name__)
T = TypeVar("T")

EVERY_S = 60.0
ASK_TIME_S = 10.0  # witnesses are asked what time it is no more often, whoever comes to settle
# Of one payer: a visit takes three questions, and two for each tab of which the two logs differ.
ASKS = Budget(calls=Limit(per_s=20, burst=2_100), bytes=Limit(per_s=64 * 1024, burst=8 * 2**20))


class Cosigners(Protocol):
    """The witnesses of a swarm, wherever they are."""

    async def check(self, log: SpendLog) -> None:
        """Raises DamagedLedger: one of them remembers more of the log than we have."""

    async def cosign(self, log: SpendLog) -> Cosigned:
        """Have the latest checkpoint signed by a quorum. Raises NoQuorum: who did not answer."""


class Settling:
    """`run` it for as long as the node is up."""

    def __init__(
        self,
        desk: SettleDesk,
        books: SpendBooks,
        policy: Policy,
        cosigners: Cosigners | None,
        reconciling: Reconciling | None = None,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        """reconciling: what was settled, and what is wrong, with what others know of that.
        clock: ours, in ms; by it we ask witnesses what time it is, and nothing else."""
        others = reconciling.calls if reconciling else {}
        self.calls: Mapping[str, CallHandler] = {METHOD: self._asked, **others}
        self._reconciling, self._clock = reconciling, clock
        self._desk, self._books, self._policy = desk, books, policy
        self._cosigners, self._is_checked = cosigners, False
        self._turn, self._wake = asyncio.Lock(), asyncio.Event()
        self._signing = asyncio.Lock()  # whoever lets the spend log grow, or has it cosigned
        self._asks, self._asked_time_s = Allowance(ASKS), -ASK_TIME_S

    async def _asked(self, peer: PeerId, request: bytes) -> bytes:
        """
        Raises:
            PeerBusy: it asks too much, for an epoch that is not over, or our log grew meanwhile.
            PeerMisbehaved: what it asks or shows does not hold.
            DamagedLedger: our own files cannot be read.
        """
        if not self._asks.admit(peer, len(request)):
            raise PeerBusy("", "too many questions about settlements from you")
        await self._catch_up()
        try:
            told = await self._at_desk(self._desk.answer, public_key_from_peer_id(peer), request)
        except DamagedLedger:
            raise  # our own disk, which is nobody else's offence
        except IntegrityError as error:
            raise PeerMisbehaved(peer, str(error)) from error
        if Asked.decode(request).kind == SIGNED:
            self._wake.set()
        return told

    async def run(self) -> None:
        """Until cancelled; what fails is tried again."""
        async with asyncio.TaskGroup() as tasks:
            if self._reconciling is not None:
                tasks.create_task(self._reconciling.run(), name="reconciling")
            tasks.create_task(self._settle(), name="settlements")

    async def _settle(self) -> None:
        while True:
            try:
                async with self._signing:
                    await self.settle()
            except ManyhandsError as error:
                log.warning("settlements wait", extra={"reason": str(error)})
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._wake.wait()

    async def settle(self) -> None:
        """Deposit what was signed, collect what nobody came to settle, give back what nobody will
        claim, and have it witnessed.

        Raises:
            NoQuorum: too few witnesses answer. DamagedLedger: our log is an old copy.
        """
        desk = self._desk
        if self._is_late() and await self._at_desk(self._has_business):
            await self._have_signed()
        for what, write in (
            ("deposited", desk.deposit),
            ("collected", desk.collect),
            ("given back", partial(desk.release, self._books)),
        ):
            if amount := await self._at_desk(write, is_dry=True):
                await self._make_sure()
                await self._at_desk(write)
                log.info("credit settled", extra={"how": what, "ncr": amount})
        spend_log = await asyncio.to_thread(self._desk.spend_log)
        if not await asyncio.to_thread(self._is_signed, spend_log):
            await self._have_signed()
        await asyncio.to_thread(self._learn, spend_log)

    async def _at_desk(self, do: Callable[..., T], *args: object, **named: object) -> T:
        """One at a time, and never while anybody waits for the network."""
        async with self._turn:
            return await asyncio.to_thread(do, *args, **named)

    async def _make_sure(self) -> None:
        """Once, before anything is signed: a home put back knows less than witnesses do."""
        if self._cosigners is not None and not self._is_checked:
            await self._cosigners.check(await asyncio.to_thread(self._desk.spend_log))
            self._is_checked = True

    async def _have_signed(self) -> None:
        if self._cosigners is not None:
            spend_log = await asyncio.to_thread(self._desk.spend_log)
            cosigned = await self._cosigners.cosign(spend_log)
            await asyncio.to_thread(self._books.hear_time, cosigned)

    async def _catch_up(self) -> None:
        """Hear what time it is before a payer is told that an epoch is not over; seldom."""
        now_s = monotonic()
        if now_s < self._asked_time_s + ASK_TIME_S or not self._is_late():
            return
        self._asked_time_s = now_s
        try:
            async with self._signing:
                await self._have_signed()
        except ManyhandsError as error:
            log.info("no word of what time it is", extra={"reason": str(error)})

    def _is_late(self) -> bool:
        """Whether an epoch is over by our clock that is not by witnesses': they alone are believed,
        and while nobody's log is signed they say nothing."""
        now = epoch_now(self._policy, self._books, self._clock())
        return now < self._policy.epoch_of(self._clock())

    def _has_business(self) -> bool:
        """Whether it matters to us what time it is."""
        return len(self._desk.spend_log()) > 0 or self._desk.is_owed()

    def _is_signed(self, spend_log: SpendLog) -> bool:
        note = spend_log.checkpoint()
        if note is None:
            return True
        return self._policy.quorum().open(note, spend_log.origin, spend_log.account).has_quorum

    def _learn(self, spend_log: SpendLog) -> None:
        note, account = spend_log.checkpoint(), spend_log.account
        if note is None:
            return
        signed = self._policy.quorum().open(note, spend_log.origin, account)
        if signed.has_quorum:
            start = self._books.size(account)
            self._books.learn(account, note, spend_log.leaves(start), start=start)
