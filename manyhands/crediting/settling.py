"""What a node needs to settle with those who paid it: its desk, and a way to the witnesses.

In: a home, its party, its books, who serves now. Out: `node.settling.Settling`, in a swarm where
issuers' credit pays; in others nothing. Witnesses that are nodes are found as others announce them.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from manyhands.crediting.opened import Credit
from manyhands.home import Home
from manyhands.party import Party
from protocol.address import Address
from protocol.errors import PeerUnreachable
from protocol.identity import PeerId

if TYPE_CHECKING:
    from ledger.receipts import Receipt
    from ledger.witness import WitnessBook
    from ledger.witness_http import Answer
    from ledger.writer import LedgerWriter
    from manyhands.crediting.panel import Ask, Panel
    from node.settling import Settling
    from protocol.announcements import Announcement
    from protocol.transport import Transport

DIAL_S = 5.0
Others = Callable[[], "Sequence[Announcement]"]


def open_settling(
    home: Home,
    party: Party,
    credit: Credit,
    writer: "LedgerWriter",
    transport: "Transport",
    others: Others,
) -> "Settling | None":
    """None: nobody issues credit here. others: who serves now; asked when a witness is."""
    if credit.escrow is None or credit.objects is None:
        return None
    from ledger.epochs import epoch_now
    from ledger.settle_desk import SettleDesk
    from node.reconciling import Reconciling
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
    reconciling = Reconciling(credit.objects, transport, party.peer_id, others)
    panel = _panel(party, transport, others, credit.witness)
    return Settling(desk, books, policy, panel, reconciling)


def _panel(
    party: Party, transport: "Transport", others: Others, own: "WitnessBook | None"
) -> "Panel":
    """The swarm's witnesses, as a node reaches them."""
    from functools import partial

    from manyhands.crediting.meeting import ask_over_http
    from manyhands.crediting.panel import Panel

    membership = party.membership
    asks: dict[str, Ask] = {}
    for name, where in membership.state.policy.witnesses if membership else ():
        if own is not None and own.witness.name == name:
            asks[name] = _ask_here(own)
        elif where.startswith(("http://", "https://")):
            asks[name] = partial(ask_over_http, where)
        else:
            asks[name] = _ask_node(where, transport, others)
    return Panel(party.policy.quorum(), asks)


def _ask_here(book: "WitnessBook") -> "Ask":
    from ledger.witness_http import ADD_CHECKPOINT, answer
    from protocol.clock import wall_ms

    async def ask(request: bytes) -> "Answer":
        now_s = wall_ms() // 1000
        return await asyncio.to_thread(answer, book, "POST", ADD_CHECKPOINT, request, now_s)

    return ask


def _ask_node(where: str, transport: "Transport", others: Others) -> "Ask":
    """where: a peer id, or an address."""
    from ledger.spend_words import WITNESS, decode_answer
    from manyhands.crediting.panel import ANSWER_S
    from protocol.transport.paths import paths_of

    async def ask(request: bytes) -> "Answer":
        if where.startswith("/"):
            addresses: Sequence[Address] = (Address.parse(where),)
        else:
            known = [each.to_dial for each in others() if each.peer_id == where]
            if not known:
                raise PeerUnreachable(PeerId(where), "no node of this id is announced")
            addresses = known[0]
        paths = paths_of(transport)
        connection = await paths.dial(addresses[0].peer_id, addresses, timeout_s=DIAL_S)
        try:
            return decode_answer(await connection.call(WITNESS, request, timeout_s=ANSWER_S))
        finally:
            await connection.aclose()

    return ask
