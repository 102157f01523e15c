"""`manyhands ledger settle`: visit the nodes that this home's clients paid, and settle with them.

In: a home's receipts. Out: settlements that both sides signed, one per node and epoch, which the
node deposits. What is settled already is not asked again; what fails is said, and is settled the
next time.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.amounts import show_amount
from ledger.lines import peer_name
from ledger.options import AccountType
from manyhands.crediting.command import online
from manyhands.crediting.desk import check_granted
from manyhands.crediting.dispute_command import ledger
from manyhands.home import Home
from manyhands.loops import run
from manyhands.party import Party, open_party
from manyhands.progress import say
from manyhands.running import join_addresses
from manyhands.signals import interruptible
from manyhands.swarm import place_of
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError
from protocol.identity import PeerId

if TYPE_CHECKING:
    from ledger.settling import Pair
    from ledger.spending import Settlement

__all__ = ["ledger"]  # with one more command


@dataclass(frozen=True, slots=True)
class Due:
    """Something to settle: with whom, and of which epoch."""

    pair: "Pair"
    epoch: int

    @property
    def peer(self) -> str:
        return peer_name(self.pair.payee)


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of it; error: why nothing did."""

    due: Due
    made: "Sequence[Settlement]" = ()
    error: ManyhandsError | None = None


@ledger.command()
@click.option(
    "--epoch", type=click.IntRange(0), help="Only this epoch. Default: all that are over."
)
@click.option("--peer", type=AccountType(), help="Only with this node.")
@online
def settle(
    epoch: int | None,
    peer: bytes | None,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Settle with nodes what sessions took of allotments, epoch by epoch.

    Both sides derive it from their own receipts and sign; a receipt that one of them lacks is
    handed over. A node that nobody comes to settle with collects what vouchers promise it.
    """
    place = place_of(home, name)
    party = open_party(place, "client")
    check_granted(party.policy)
    due = [each for each in due_of(place, party, epoch) if peer in (None, each.pair.payee)]
    found = run(settle_all(place, party, join, due)) if due else []
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "home": str(place.root), **_view(found)}))
    else:
        _show(found, "" if peer is None else f" with {peer_name(peer)}")
    failed = [each.error for each in found if each.error is not None]
    if failed:
        raise failed[0]


SCHEMA = "manyhands/ledger-settle/v1"


def due_of(place: Home, party: Party, epoch: int | None) -> list[Due]:
    """What our receipts give and was not signed by both, of epochs that are over by our clock."""
    from ledger.log import Ledger
    from ledger.owed import owed_tabs
    from ledger.places import is_there
    from ledger.reader import FILE_NAME, LedgerReader
    from ledger.settled import SettledBook, read_settlement
    from ledger.settling import settlements, with_notes

    lent = _lent(place, party)
    if not is_there(place.client, FILE_NAME):
        if not lent:
            return []
        Ledger.open(place.client, party.identity.key, party.swarm_id).close()
    now = party.policy.epoch_of(wall_ms())
    due = []
    with (
        LedgerReader.read(place.client) as reader,
        SettledBook.open(place.client, party.swarm_id) as kept,
    ):
        for pair, tabs in owed_tabs(reader, party.policy, payer=reader.account).items():
            signed = [read_settlement(each) for each in kept.between(pair)]
            owed = with_notes(tabs, kept.notes(pair.payee))
            for each in sorted({tab.epoch for tab in owed}):
                if epoch not in (None, each) or (epoch is None and each >= now):
                    continue
                if any(made not in signed for made in settlements(pair, owed, each)):
                    due.append(Due(pair, each))
        known = {(each.pair, each.epoch) for each in due}
        recent = range(max(0, now - 1 - party.policy.grace_epochs), now)
        for pair in lent:
            done = {read_settlement(each).epoch for each in kept.between(pair)}
            for each in recent if epoch is None else (epoch,):
                if each not in done and (pair, each) not in known:
                    due.append(Due(pair, each))
    return due


def _lent(place: Home, party: Party) -> "list[Pair]":
    """Pairs of which we may lack receipts: where other keys pay from what we allot, they have them.

    Payees hand them over; of epochs whose grace is past they have collected what was promised.
    """
    from ledger.mandates import events_in
    from ledger.places import is_there
    from ledger.settling import Pair
    from ledger.spend_leaf import SpendLeaf
    from ledger.spend_log import FILE_NAME, SpendLog
    from ledger.spending import Allotment, open_spending

    if not is_there(place.client, FILE_NAME):
        return []
    with SpendLog.open(place.client, party.identity.key, party.swarm_id) as log:
        leaves = [SpendLeaf.decode(data) for data in log.leaves()]
        account, swarm_id = log.account, log.swarm_id
    state, _ = events_in(account, swarm_id, leaves)
    if state is None or not state.changes:
        return []
    entries = (open_spending(each.envelope, account, swarm_id) for each in leaves)
    made = {(each.payee, each.asset) for each in entries if isinstance(each, Allotment)}
    return [Pair(account, payee, asset) for payee, asset in sorted(made)]


async def settle_all(
    place: Home, party: Party, join: Sequence[Address], due: Sequence[Due]
) -> list[Settled]:
    with interruptible():
        return await visit_all(
            place,
            party,
            join,
            due,
            tell=lambda each: say(f"settling epoch {each.epoch} with {each.peer}"),
        )


async def visit_all(
    place: Home,
    party: Party,
    join: Sequence[Address],
    due: Sequence[Due],
    *,
    tell: Callable[[Due], None] = lambda _: None,
) -> list[Settled]:
    """One after another; what fails holds nothing else up. tell: whom we go to now."""
    from ledger.log import Ledger
    from ledger.receipts import Receipt
    from ledger.settle_visit import Visit
    from manyhands.crediting.meeting import Meeting
    from protocol.transport.paths import paths_of
    from scheduler.visiting import settle as visit_to

    def file(receipt: Receipt) -> None:
        with Ledger.open(place.client, party.identity.key, party.swarm_id) as log:
            log.append(receipt)

    transport = party.transport()
    meeting = Meeting(party, transport, join_addresses(place, join))
    rules = (place.client, party.identity.key, party.swarm_id, party.policy)
    found = []
    try:
        for each in due:
            tell(each)
            try:
                connection = await meeting.peer(PeerId(each.peer))
                visit = Visit(*rules, each.pair, each.epoch, file)
                found.append(Settled(each, await visit_to(connection, visit)))
            except ManyhandsError as error:
                found.append(Settled(each, error=error))
    finally:
        await meeting.aclose()
        await paths_of(transport).aclose()
    return found


def _view(found: Sequence[Settled]) -> dict[str, Any]:
    settled = [
        {
            "peer": each.due.peer,
            "epoch": made.epoch,
            "asset": made.asset.hex(),
            "tabs": made.n_sessions,
            "gross_ncr": made.gross,
            "credit_ncr": made.credit,
            "net_ncr": made.net,
        }
        for each in found
        for made in each.made
    ]
    left = [
        {
            "peer": each.due.peer,
            "epoch": each.due.epoch,
            "code": each.error.code,
            "reason": str(each.error),
        }
        for each in found
        if each.error is not None
    ]
    return {"settled": settled, "left": left}


def _show(found: Sequence[Settled], of_whom: str = "") -> None:
    if not found:
        click.echo(f"nothing is left to settle{of_whom}")
    for each in found:
        for made in each.made:
            told = f"{show_amount(made.net)} credits for {made.n_sessions} tabs"
            click.echo(f"epoch {made.epoch}  {told}  {each.due.peer}")
        if each.error is not None:
            click.echo(f"epoch {each.due.epoch}  not settled: {each.error}  {each.due.peer}")
