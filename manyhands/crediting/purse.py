"""What the clients of a home pay with, where issuers' credit pays.

In: a home and its party, whom to ask first. Out: a purse over the wallet in `client/`, which asks
the swarm's witnesses and nodes on connections of its own, made when they are needed.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ledger.wallet import Wallet
from manyhands.crediting.meeting import Meeting
from manyhands.home import Home
from manyhands.party import Party
from protocol.address import Address
from scheduler.purse import ClientPurse

if TYPE_CHECKING:
    from protocol.transport import Transport


@asynccontextmanager
async def open_purse(
    home: Home, party: Party, transport: "Transport", join: Sequence[Address], least_ncr: int = 0
) -> AsyncIterator[ClientPurse]:
    """least_ncr: what an allotment has at least, where there is so much credit.

    Raises:
        DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: the wallet cannot be used as it is.
    """
    policy, meeting = party.policy, Meeting(party, transport, join)
    with Wallet.open(home.client, party.identity.key, party.swarm_id, policy) as wallet:

        async def fetch() -> None:
            await meeting.hear(wallet.books)

        try:
            panel = meeting.panel()
            yield ClientPurse(wallet, policy, panel, least_ncr=least_ncr, fetch=fetch)
        finally:
            await meeting.aclose()
