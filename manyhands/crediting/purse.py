"""What the clients of a home pay with, where issuers' credit pays.

In: a home and its party, whom to ask first. Out: a purse over the wallet in `client/`, which asks
the swarm's witnesses and nodes on connections of its own, made when they are needed.
"""

import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ledger.amounts import parse_amount
from ledger.lent import LentWallet
from ledger.wallet import Wallet
from manyhands.crediting.meeting import Meeting
from manyhands.crediting.payer import read_payer
from manyhands.home import Home
from manyhands.party import Party
from protocol.address import Address
from protocol.canonical import MAX_UINT
from protocol.errors import ManyhandsError, UsageError
from scheduler.purse import ClientPurse

if TYPE_CHECKING:
    from protocol.transport import Transport

log = logging.getLogger(__name__)

VARIABLE = "MANYHANDS_ALLOT"


@asynccontextmanager
async def open_purse(
    home: Home, party: Party, transport: "Transport", join: Sequence[Address]
) -> AsyncIterator[ClientPurse]:
    """
    Raises:
        UsageError: what is to be set aside at least is no amount.
        DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: the wallet cannot be used as it is.
    """
    policy, meeting, least_ncr = party.policy, Meeting(party, transport, join), _least_ncr()
    payer = read_payer(home)
    with _wallet(home, party, payer) as wallet:

        async def fetch() -> None:
            try:
                await meeting.hear(wallet.books)
            except ManyhandsError as error:  # then what we know has to do
                log.info("no news of spend logs", extra={"why": str(error)})

        try:
            panel = None if payer else meeting.panel()
            yield ClientPurse(wallet, policy, panel, least_ncr=least_ncr, fetch=fetch)
        finally:
            await meeting.aclose()


def _wallet(home: Home, party: Party, payer: bytes | None) -> Wallet:
    if payer is not None:
        return LentWallet.open_for(payer, home.client, party.swarm_id, party.policy)
    return Wallet.open(home.client, party.identity.key, party.swarm_id, party.policy)


def _least_ncr() -> int:
    """What an allotment has at least, where there is so much credit."""
    if not (text := os.environ.get(VARIABLE)):
        return 0
    amount = parse_amount(text)
    if amount is None or amount > MAX_UINT:
        raise UsageError(f"{VARIABLE}={text[:40]} is no amount", hint="credits as 2.5, or 2500ncr")
    return amount
