"""`manyhands ledger prune`: erase receipts that are settled and old, or a single one on request."""

import json
import time
from pathlib import Path
from typing import Any

import click

from ledger import findings, settled, spend_books
from ledger.epochs import epoch_now
from ledger.findings import Findings
from ledger.homes import Book, find_receipt
from ledger.options import books_of, common
from ledger.places import is_there
from ledger.policy import Policy
from ledger.pruning import Plan, body_of, plan, tabs_in
from ledger.reader import LedgerReader
from ledger.settled import SettledBook, read_settlement
from ledger.spend_books import SpendBooks
from ledger.swarms import policy_at

SCHEMA = "manyhands/ledger-prune/v1"


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be erased, and erase nothing.")
@click.option(
    "--receipt",
    metavar="ID",
    help="Erase this one alone, settled or not: an id, or how it begins. Its proof is lost.",
)
@common
def prune(home: Path, role: str | None, as_json: bool, dry_run: bool, receipt: str | None) -> None:
    """Erase receipts of tabs that were settled long ago.

    Roots, proofs of what is kept, statements and balances stay as they are. What is not settled by
    both sides, was settled lately, or is disputed is kept.
    """
    books = books_of(home, role)
    if receipt is not None:
        views = [_erase(books, receipt, dry_run=dry_run)]
    else:
        policy = policy_at(home)
        views = [_prune(book, policy, dry_run=dry_run) for book in books]
    if as_json:
        told = {"schema": SCHEMA, "home": str(home), "dry_run": dry_run, "ledgers": views}
        click.echo(json.dumps(told))
        return
    for view in views:
        verb = "would be erased" if dry_run else "erased"
        click.echo(f"{view['role']}: {view['erased']} receipts {verb}")
        for reason, n in view["kept"].items():
            click.echo(f"  {n} kept: {reason}")


def _prune(book: Book, policy: Policy, *, dry_run: bool) -> dict[str, Any]:
    with book.reader() as reader:
        found = _planned(book, reader, policy)
        if not dry_run and found.bodies:
            reader.forget(found.bodies)
    return {"role": book.role, "erased": len(found.bodies), "kept": dict(found.kept)}


def _planned(book: Book, reader: LedgerReader, policy: Policy) -> Plan:
    directory, swarm_id = book.directory, reader.swarm_id
    made, notes, disputed, epoch = [], dict[bytes, int](), dict[bytes, set[bytes]](), 0
    given_back = frozenset[bytes]()
    if is_there(directory, settled.FILE_NAME):
        with SettledBook.open(directory, swarm_id) as kept:
            made = [read_settlement(each) for each in kept.of(reader.account)]
            for payee in {each.payee for each in made}:
                notes |= kept.notes(payee)
    if (directory / findings.FILE_NAME).exists():
        with Findings.open(directory, swarm_id) as known:
            disputed = tabs_in(each.fault for each in known.faults())
    if is_there(directory, spend_books.FILE_NAME):
        with SpendBooks.open(directory, swarm_id, policy.quorum()) as others:
            epoch = epoch_now(policy, others, 0) if policy.witnesses else 0
            given_back = others.given_back(reader.account) | others.released()
    if not policy.witnesses:
        epoch = epoch_now(policy, None, int(time.time() * 1000))
    return plan(reader, policy, made, epoch, disputed=disputed, notes=notes, given_back=given_back)


def _erase(books: list[Book], prefix: str, *, dry_run: bool) -> dict[str, Any]:
    book, id_ = find_receipt(books, prefix)
    with book.reader() as reader:
        body = body_of(reader, id_)
        if not dry_run:
            reader.forget([body])
    return {"role": book.role, "erased": 1, "kept": {}}
