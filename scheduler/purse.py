"""What a client pays with, where issuers' credit pays: an allotment at hand for each hop.

In: the hops of a chain and what each can cost. Out: a stake per hop, from allotments that were made
before, or from new ones that a quorum of witnesses signs now. Those last for hours: as long as one
has enough left, a session asks nobody but its hops.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from ledger.cosigning import Cosigned
from ledger.policy import Policy
from ledger.spend_log import SpendLog
from ledger.wallet import Stake, Wallet
from protocol.clock import wall_ms
from protocol.errors import PeerBusy

log = logging.getLogger(__name__)

MAX_MADE = 8  # times for one session, when others take parts of what was made
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
    ) -> None:
        """cosigners: None, where another account sets aside what we pay with.

        least_ncr: what an allotment has at least, where there is so much credit.
        """
        self.policy, self.wallet = policy, wallet
        self._fetch, self._least_ncr = fetch, least_ncr
        self._own: tuple[Cosigners, SpendLog] | None = None
        if cosigners is not None:
            assert isinstance(wallet.log, SpendLog), "witnesses sign logs of our own"
            self._own = cosigners, wallet.log
        self._turn = asyncio.Lock()  # of who makes allotments
        self._is_checked = False

    async def stakes(self, wants: Mapping[bytes, int], asset: bytes) -> dict[bytes, Stake]:
        """For each payee a stake of so many ncr, all or none.

        Raises:
            NotFunded: there is not so much credit; the hint says whom to ask.
            NoQuorum: too few witnesses answered; the message names those that did not.
            PeerBusy: other sessions took all that was set aside meanwhile.
            DamagedLedger: our own log is older than what witnesses signed of it.
        """
        taken: dict[bytes, Stake] = {}
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

    @property
    def _epoch(self) -> int:
        return self.policy.epoch_of(wall_ms())

    def _settle(self, promised: Mapping[Stake, int]) -> None:
        for stake, amount in promised.items():
            self.wallet.settle(stake, amount)

    async def _take(
        self, wants: Mapping[bytes, int], asset: bytes, taken: dict[bytes, Stake]
    ) -> dict[bytes, int]:
        """Stakes of what is at hand, into `taken`; what is still wanted."""
        epoch = self._epoch

        def take() -> dict[bytes, Stake | None]:
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
        if self._own is not None and not self._is_checked:
            await self._own[0].check(self._own[1])  # a home put back knows less than was signed
            self._is_checked = True
        if await asyncio.to_thread(self.wallet.available, asset) < sum(wants.values()):
            await self._fetch()
        make = (wants, asset, self._epoch, self._least_ncr)
        await asyncio.to_thread(self.wallet.make, *make)
        log.info("credit set aside", extra={"payees": len(wants), "ncr": sum(wants.values())})
        await self._make_ready()

    async def _make_ready(self) -> None:
        """Have all that the log sets aside signed, also what a process left that died."""
        for _ in range(MAX_ROUNDS):
            if await asyncio.to_thread(self.wallet.ready):
                return
            if self._own is not None:
                await self._own[0].cosign(self._own[1])
