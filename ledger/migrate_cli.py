"""`manyhands ledger migrate`: take a home's ledgers to a PostgreSQL server, or back into files."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from ledger.address import Address
from ledger.homes import Book
from ledger.migrate import Moved, Told, migrate
from ledger.options import books_of, common

SCHEMA = "manyhands/ledger-migrate/v1"
FILES = "sqlite"
TOLD_ROWS = 10_000


@click.command("migrate")
@click.option(
    "--to",
    "to",
    required=True,
    metavar="URL|sqlite",
    help="postgresql://USER@HOST/DATABASE, or `sqlite`: back into files of the home.",
)
@common
def migrate_command(home: Path, role: str | None, as_json: bool, to: str) -> None:
    """Copy all databases, compare them, and turn the home to the copy.

    Stop the node first. When it breaks off, begin again: what is there is kept. The files that were
    left end in `.moved`, and nobody can write in them.
    """
    views = [_migrate(book, to) for book in books_of(home, role)]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "home": str(home), "ledgers": views}))
        return
    for view in views:
        click.echo(f"{view['role']}: now {view['to']}")
        for each in view["databases"]:
            root = f", root {each['root'][:16]}" if each["root"] else ""
            rows = f"{each['rows']:,} rows ({each['written']:,} written now)"
            click.echo(f"  {each['name']}: {rows}{root}")


def _migrate(book: Book, to: str) -> dict[str, Any]:
    with book.reader() as reader:
        account = reader.account
    address = None if to == FILES else Address.of(to, book.role, account)
    moved = migrate(book.directory, address, _progress(book.role))
    place = str(address) if address else f"files in {book.directory}"
    return {"role": book.role, "to": place, "databases": [_view(each) for each in moved]}


def _view(moved: Moved) -> dict[str, Any]:
    return {
        "name": moved.file_name.split(".")[0],
        "rows": sum(moved.rows.values()),
        "written": moved.n_written,
        "tables": moved.rows,
        "root": moved.root,
    }


def _progress(role: str) -> Told:
    def told(file_name: str, table: str, n_rows: int) -> None:
        if n_rows and n_rows % TOLD_ROWS == 0:
            name = file_name.split(".")[0]
            print(f"{role} {name}: {n_rows:,} rows of {table}", file=sys.stderr)

    return told
