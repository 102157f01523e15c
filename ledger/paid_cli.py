"""`manyhands ledger paid | debts`: what strangers owe each other, and that somebody settled.

Where nobody grants credit, a debt is settled by work in return, or in whatever way two people agree
on. That it was is for the creditor to say, with its signature. Nothing here dials a peer: the
debtor hears of it when it next talks with the creditor's node.
"""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ledger.amounts import AmountType
from ledger.debts import Debts
from ledger.homes import KEY_NAME, Book
from ledger.lines import credits_text, peer_name
from ledger.objects import NO_ASSET
from ledger.options import AccountType, books_of, common, one_book
from ledger.tables import add_numbers, new_table, print_table
from ledger.tallies import Tallies
from ledger.tally import Tally, open_tally
from protocol.canonical import MAX_UINT
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError
from protocol.key_files import read_key
from protocol.passphrases import ask

Json = dict[str, Any]


@click.command()
@click.argument("peer", type=AccountType())
@click.argument("amount", type=AmountType())
@common
def paid(peer: bytes, amount: int, home: Path, role: str | None, as_json: bool) -> None:
    """Record that PEER has made good AMOUNT credits of what it owes this home.

    It is signed with the node's key (or the clients', with --role), says nothing of how it was
    paid, and cannot be taken back. A node that runs on this home knows within seconds.
    """
    book = one_book(home, role or "node")
    key_path = book.directory / KEY_NAME
    if not key_path.exists():
        raise ConfigError(f"there is no key in {book.directory} to sign with")
    key = read_key(key_path, ask)
    if peer == key.public_key:
        raise UsageError("nobody owes themselves")
    with book.reader() as reader:
        swarm_id = reader.swarm_id
        passed = reader.sums(of=peer).get(peer)
    with Tallies.open(book.directory, swarm_id) as tallies:
        held = tallies.settled(peer, key.public_key, NO_ASSET)
        before = open_tally(held, swarm_id)[0].settled if held else 0
        if before + amount > MAX_UINT:
            raise UsageError("what was settled in all stays below 2^63 nanocredits")
        said = Tally(
            payer=peer,
            payee=key.public_key,
            served=passed.earned if passed else 0,
            settled=before + amount,
            issued_ms=wall_ms(),
        )
        tallies.keep(said.seal(swarm_id, key))
    view = {
        "schema": "manyhands/ledger-paid/v1",
        "home": str(home),
        "peer": peer_name(peer),
        "paid_ncr": amount,
        "settled_ncr": said.settled,
        "earned_ncr": said.served,
    }
    if as_json:
        click.echo(json.dumps(view))
        return
    sums = (credits_text(said.settled), credits_text(said.served))
    click.echo("{} has now settled {} credits of {} earned from it".format(view["peer"], *sums))


@click.command()
@common
def debts(home: Path, role: str | None, as_json: bool) -> None:
    """Who owes this home what, and whom it owes: tabs, less what was settled otherwise."""
    views = [_owed(book) for book in books_of(home, role)]
    if as_json:
        view = {"schema": "manyhands/ledger-debts/v1", "home": str(home), "ledgers": views}
        click.echo(json.dumps(view))
        return
    for told in views:
        _show(told)


def _show(told: Json) -> None:
    table = new_table(f"{told['role']} · {told['peer']}", "peer")
    headings = ("earned", "spent", "it settled", "we settled", "it owes us")
    add_numbers(table, *(f"{heading} ncr" for heading in headings))
    for row in told["debts"]:
        names = ("earned_ncr", "spent_ncr", "got_ncr", "gave_ncr", "owes_ncr")
        table.add_row(row["peer"], *(f"{row[name]:,}" for name in names))
    print_table(Console(), table)


def _owed(book: Book) -> Json:
    with book.reader() as reader:
        account, swarm_id = reader.account, reader.swarm_id
        held = Debts([account], reader.sums())
    with Tallies.open(book.directory, swarm_id) as tallies:
        known = [tally for tally, _ in tallies.all()]
    for tally in known:
        held.take(tally)
    others = {
        key
        for tally in known
        for key in (tally.payer, tally.payee)
        if account in (tally.payer, tally.payee)
    }
    rows = []
    for key in sorted({*held.of_node, *others} - {account}):
        pair = held.with_(key)
        amounts = {"earned_ncr": pair.earned, "spent_ncr": pair.spent}
        settled = {"got_ncr": pair.got, "gave_ncr": pair.gave}
        rows.append({"peer": peer_name(key), **amounts, **settled, "owes_ncr": pair.owes})
    return {"role": book.role, "peer": peer_name(account), "debts": rows}
