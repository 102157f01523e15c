"""`manyhands ledger dispute tabs`: tabs on which more was claimed than was signed for."""

import json
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from ledger.disputes import disputes
from ledger.homes import Book
from ledger.lines import moment, peer_name
from ledger.options import books_of, choice_of, choosing, common
from ledger.statements import Choice
from ledger.tables import add_numbers, new_table, print_table
from ledger.views import Json


@click.command()
@choosing
@common
def tabs(
    home: Path,
    role: str | None,
    as_json: bool,
    since: datetime | None,
    until: datetime | None,
    peer: str | None,
    model: str | None,
) -> None:
    """Tabs on which the provider claimed more than its client signed for.

    A client that stops paying, or leaves, looks like that, and so does a provider that counts what
    nobody saw. Neither can cost the other more than the window that both agreed on.
    """
    choice = choice_of(since, until, peer, model)
    views = [_view(book, choice) for book in books_of(home, role)]
    if as_json:
        view = {"schema": "manyhands/ledger-disputed-tabs/v1", "home": str(home), "ledgers": views}
        click.echo(json.dumps(view))
        return
    for told in views:
        _show(told)


def _view(book: Book, choice: Choice) -> Json:
    with book.reader() as reader:
        found = [dispute.to_json() for dispute in disputes(reader, choice)]
        return {"role": book.role, "peer": peer_name(reader.account), "tabs": found}


def _show(told: Json) -> None:
    table = new_table(f"{told['role']} · {told['peer']}", "receipt", "closed", "with", "claimed by")
    add_numbers(table, "claimed ncr", "signed ncr", "window ncr")
    for tab in told["tabs"]:
        table.add_row(
            tab["receipt"][:12],
            moment(tab["closed_ms"]).strftime("%Y-%m-%d %H:%M"),
            f"…{tab['peer'][-10:]}",
            tab["claimed_by"],
            *(f"{tab[name]:,}" for name in ("claimed_ncr", "signed_ncr", "window_ncr")),
        )
    print_table(Console(), table)
