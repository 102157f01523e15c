"""`manyhands ledger repair`: make damaged logs whole, from what is left of them and from copies."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ledger.homes import ROLES, Book
from ledger.options import common
from ledger.places import address_of
from ledger.repair import RECEIPTS, SPENDING, LogFile, repair
from ledger.swarms import swarm_of
from protocol.errors import ConfigError

SCHEMA = "manyhands/ledger-repair/v1"


@click.command("repair")
@click.option(
    "--copy",
    "copies",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A copy of the database, however old: what is missing is taken from it. Repeat for more.",
)
@click.option("--spending", is_flag=True, help="The log of what was spent, not that of receipts.")
@common
def repair_command(
    home: Path, role: str | None, as_json: bool, copies: tuple[Path, ...], spending: bool
) -> None:
    """Make a damaged log whole: all that was signed is there again, or nothing is changed.

    Stop what runs on the home first. The damaged database stays beside it, as `….damaged`.
    """
    log = SPENDING if spending else RECEIPTS
    books = [Book(each, home / each) for each in ((role,) if role else ROLES)]
    there = [book for book in books if _has(book, log)]
    if not there:
        raise ConfigError(f"there is no {log.file_name} in {home}")
    views = [_repair(book, log, copies, swarm_of(home)[0]) for book in there]
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "home": str(home), "ledgers": views}))
        return
    for view in views:
        lost = view["lost_receipts"]
        click.echo(
            f"{view['role']}: {view['file_name']} has its {view['n_entries']} entries"
            + (f"; the receipts of {lost} are lost, counterparties have them" if lost else "")
        )


def _has(book: Book, log: LogFile) -> bool:
    return any((book.directory / name).exists() for name in (log.file_name, log.head_name))


def _repair(book: Book, log: LogFile, copies: tuple[Path, ...], swarm_id: bytes) -> dict[str, Any]:
    if (address := address_of(book.directory)) is not None:
        raise ConfigError(f"{address.at(log.file_name)} is its server's to repair: restore a dump")
    if (account := book.account()) is None:
        raise ConfigError(f"{book.directory} has no key: whose log it is, nobody says")
    repaired = repair(book.directory, log, account, swarm_id, copies)
    return {"role": book.role, **asdict(repaired)}
