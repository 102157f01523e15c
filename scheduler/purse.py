"""What a client pays with, where issuers' credit pays: an allotment at hand for each hop.

In: the hops of a chain and what each can cost. Out: a stake per hop, from allotments that were made
before, or from new ones that a quorum of witnesses signs now. Those last for hours: as long as one
has enough left, a session asks nobody but its hops.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Protocol

from ledger.cosigning import Cosigned
from ledger.epochs import epoch_now
from ledger.policy import Policy
from ledger.spend_log import SpendLog
from ledger.wallet import Stake, Wallet
from protocol.clock import wall_ms
from protocol.errors import NoQuorum, PeerBusy

log = logging.getLogger(__name__)

MAX_MADE = 8  # times for one session, when others take parts of what was made
ASK_TIME_S = 60.0  # witnesses are asked what time it is no more often
MAX_ROUNDS = 3  # with the witnesses, when other processes write to the log meanwhile


class Cosigners(Protocol):
    """The witnesses of a swarm, wherever they are."""

    async def check(self, log: SpendLog) -> None:
        """Raises DamagedLedger: one of them remembers more of the log than we have."""

    async def cosign(self, log: SpendLog) -> Cosigned:
        """Have the latest checkpoint signed by a quorum. Raises NoQuorum: who did not answer."""


async def _nothing() -> None:
    pass


class ClientPurse:
    """Of all sessions of a client. fetch: learn what others' logs say of our credit."""

    def __init__(
        self,
        wallet: Wallet,
        policy: Policy,
        cosigners: Cosigners | None,
        *,
        least_ncr: int = 0,
        fetch: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], int] = wall_ms,
    ) -> None:
        """cosigners: None, where another account sets aside what we pay with.

        least_ncr: what an allotment has at least, where there is so much credit.
        clock: ours, in ms; by it we ask witnesses what time it is, and nothing else.
        """
        self.policy, self.wallet = policy, wallet
        self._fetch, self._least_ncr = fetch, least_ncr
        self._own: tuple[Cosigners, SpendLog] | None = None
        if cosigners is not None:
            assert isinstance(wallet.log, SpendLog), "witnesses sign logs of our own"
            self._own = cosigners, wallet.log
        self._turn = asyncio.Lock()  # of who makes allotments
        self._is_checked = False
        self._clock, self._asked_time_s = clock, -ASK_TIME_S

    async def stakes(self, wants: Mapping[bytes, int], asset: bytes) -> dict[bytes, Stake]:
        """For each payee a stake of so many ncr, all or none.

        Raises:
            NotFunded: there is not so much credit; the hint says whom to ask.
            NoQuorum: too few witnesses answered; the message names those that did not.
            PeerBusy: other sessions took all that was set aside meanwhile.
            DamagedLedger: our own log is older than what witnesses signed of it.
        """
        taken: dict[bytes, Stake] = {}
        await self._hear_time()
        try:
            missing = await self._take(wants, asset, taken)
            if missing:
                async with self._turn:
                    await self._make_ready()
                    for _ in range(MAX_MADE):  # others may take parts of what we made
                        missing = await self._take(missing, asset, taken)
                        if not missing:
                            break
                        await self._make(missing, asset)
                    missing = await self._take(missing, asset, taken)
            if missing:
                raise PeerBusy("", "others take all that is set aside", hint="try again shortly")
        except BaseException:
            await self.settle(dict.fromkeys(taken.values(), 0))
            raise
        return taken

    async def settle(self, promised: Mapping[Stake, int]) -> None:
        """Tabs closed with these vouchers; the rest of their stakes is free again."""
        if promised:
            await asyncio.to_thread(self._settle, promised)

    async def used_up(self, stake: Stake) -> bool:
        """See `Wallet.used_up`."""
        return await asyncio.to_thread(self.wallet.used_up, stake)

    # --- within ----------------------------------------------------------------------------------

    def _epoch(self) -> int:
        """By witnesses; what they said last is on disk."""
        return epoch_now(self.policy, self.wallet.books, self._clock())

    async def _hear_time(self) -> None:
        """Where an epoch is over by our clock, ask witnesses, who alone are believed; seldom.

        Without their word what was set aside earlier is shown on: it is the payee who says whether
        its time is over.
        """
        now_s = monotonic()
        if now_s < self._asked_time_s + ASK_TIME_S:
            return
        if await asyncio.to_thread(self._epoch) >= self.policy.epoch_of(self._clock()):
            return
        async with self._turn:
            self._asked_time_s = now_s
            try:
                await self._ask_time()
            except NoQuorum as error:
                log.info("no word of what time it is", extra={"reason": str(error)})

    async def _ask_time(self) -> None:
        if self._own is None:  # our books hear of logs that others have signed
            await self._fetch()
            return
        await self._make_sure()
        cosigners, own = self._own
        await asyncio.to_thread(self.wallet.books.hear_time, await cosigners.cosign(own))

    async def _make_sure(self) -> None:
        """Once: a copy of the home put back knows less than was signed."""
        if self._own is not None and not self._is_checked:
            await self._own[0].check(self._own[1])
            self._is_checked = True

    def _settle(self, promised: Mapping[Stake, int]) -> None:
        for stake, amount in promised.items():
            self.wallet.settle(stake, amount)

    async def _take(
        self, wants: Mapping[bytes, int], asset: bytes, taken: dict[bytes, Stake]
    ) -> dict[bytes, int]:
        """Stakes of what is at hand, into `taken`; what is still wanted."""

        def take() -> dict[bytes, Stake | None]:
            epoch = self._epoch()
            return {payee: self.wallet.take(payee, asset, n, epoch) for payee, n in wants.items()}

        taking = asyncio.ensure_future(asyncio.to_thread(take))
        try:
            found = await asyncio.shield(taking)
        finally:  # also what a thread takes for somebody who was cancelled meanwhile
            found = await taking
            taken.update((payee, stake) for payee, stake in found.items() if stake is not None)
        return {payee: wants[payee] for payee, stake in found.items() if stake is None}

    async def _make(self, wants: Mapping[bytes, int], asset: bytes) -> None:
        """Set aside more, and have that signed."""
        await self._make_sure()
        if await asyncio.to_thread(self.wallet.available, asset) < sum(wants.values()):
            await self._fetch()
        epoch = await asyncio.to_thread(self._epoch)
        await asyncio.to_thread(self.wallet.make, wants, asset, epoch, self._least_ncr)
        log.info("credit set aside", extra={"payees": len(wants), "ncr": sum(wants.values())})
        await self._make_ready()

    async def _make_ready(self) -> None:
        """Have all that the log sets aside signed, also what a process left that died."""
        for _ in range(MAX_ROUNDS):
            if await asyncio.to_thread(self.wallet.ready):
                return
            if self._own is not None:
                await self._own[0].cosign(self._own[1])
