"""`manyhands ledger credit`: a node takes off a tab what its client promised too much.

In: a tab of this home's node, an amount. Out: a note in the node's spend log, signed by a quorum
and told to nodes; the client's books, its statements and the settlement count it. What can be
credited is `ledger/credit_notes.py`'s.
"""

import json
from pathlib import Path

import click

from ledger.amounts import AmountType, show_amount
from ledger.credit_notes import find_tab, make_note
from ledger.settled import SettledBook
from ledger.spending import CreditNote
from manyhands.crediting.command import online
from manyhands.crediting.desk import Desk, Written, check_granted, open_desk
from manyhands.crediting.settle import ledger
from manyhands.crediting.shown import plural
from manyhands.home import Home
from manyhands.loops import run
from manyhands.party import open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of
from protocol.address import Address

__all__ = ["ledger"]  # with one more command

SCHEMA = "manyhands/ledger-credit/v1"


@ledger.command()
@click.argument("tab", metavar="RECEIPT|SESSION")
@click.argument("amount", type=AmountType())
@click.option("--reason", default="", help="Why; it is logged for everybody to read.")
@online
def credit(
    tab: str,
    amount: int,
    reason: str,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Take AMOUNT, in all, off what a tab of this home's node promises it, before it is settled.

    The tab is named by its id or a receipt's, or how one begins: `ledger statement --role node`.
    """
    place = place_of(home, name)
    party = open_party(place, "node")
    check_granted(party.policy)
    tab_id = find_tab(place.node, party.policy, party.identity.public_key, tab)
    written = run(_credit(place, join, tab_id, amount, reason))
    told = {"tab": tab_id.hex(), "credit_ncr": amount, "id": written.oid.hex()}
    if as_json:
        view = {"schema": SCHEMA, "home": str(place.root), **told, "told": list(written.told)}
        click.echo(json.dumps({**view, "entry": written.index}))
        return
    click.echo(f"{show_amount(amount)} credits off tab {tab_id.hex()}")
    say(f"entry {written.index}, told to {plural(len(written.told), 'node')}")


async def _credit(
    place: Home, join: tuple[Address, ...], tab_id: bytes, amount: int, reason: str
) -> Written:
    with interruptible():
        async with open_desk(place, "node", join) as desk:

            def make(number: int) -> CreditNote:
                return _promised(place, desk, tab_id, amount, reason)

            return await desk.write(make)


def _promised(place: Home, desk: Desk, tab_id: bytes, amount: int, reason: str) -> CreditNote:
    """The note; what the node settles from now on counts it, before it stands in the log: killed
    in between, the client still pays less."""
    account = desk.log.account
    note = make_note(place.node, desk.policy, desk.log, tab_id, amount, reason)
    with SettledBook.open(place.node, desk.party.swarm_id) as kept:
        kept.note(account, [(tab_id, amount)])
    return note
