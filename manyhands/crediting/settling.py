"""What a node needs to settle with those who paid it: its desk, and a way to the witnesses.

In: a home, its party, its books. Out: `node.settling.Settling`, in a swarm where issuers' credit
pays; in others nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manyhands.crediting.opened import Credit
from manyhands.home import Home
from manyhands.party import Party
from protocol.address import Address

if TYPE_CHECKING:
    from ledger.receipts import Receipt
    from ledger.writer import LedgerWriter
    from node.settling import Settling
    from protocol.transport import Transport


def open_settling(
    home: Home,
    party: Party,
    credit: Credit,
    writer: "LedgerWriter",
    transport: "Transport",
    join: Sequence[Address],
) -> "Settling | None":
    """None: nobody issues credit here."""
    if credit.escrow is None:
        return None
    from ledger.epochs import epoch_now
    from ledger.settle_desk import SettleDesk
    from manyhands.crediting.meeting import Meeting
    from manyhands.running import join_addresses
    from node.settling import Settling
    from protocol.clock import wall_ms

    books, policy = credit.escrow.purse.books, party.policy

    def file(receipt: "Receipt") -> None:
        writer.file(receipt).result()

    desk = SettleDesk(
        home.node,
        party.identity.key,
        party.swarm_id,
        policy,
        lambda: epoch_now(policy, books, wall_ms()),
        file,
    )
    panel = Meeting(party, transport, join_addresses(home, join)).panel(credit.witness)
    return Settling(desk, books, policy, panel)
