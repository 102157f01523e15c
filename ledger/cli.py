"""`manyhands ledger balance | statement | verify | prove`: read a home's ledgers.

Data goes to standard output, as tables for people or with `--json` for scripts; what is wrong goes
up as an error, which the front door prints and turns into the exit code (8 when anything does not
hold). Nothing here dials a peer or writes a ledger.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ledger import render
from ledger.homes import ROLES, Book, find_books, find_receipt
from ledger.verify import verify_ledger
from ledger.views import (
    Json,
    balance_view,
    check_proof_view,
    peer_name,
    proof_view,
    report_view,
    statement_view,
)
from protocol.errors import IntegrityError, UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


def _default_home() -> str:
    from platformdirs import user_data_dir

    return user_data_dir("manyhands")


def _common(command: Command) -> Command:
    """The options every command here takes."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts."),
        click.option(
            "--role",
            type=click.Choice(ROLES),
            help="Only the node's ledger, or only the clients'. Both by default.",
        ),
        click.option(
            "--home",
            type=click.Path(file_okay=False, path_type=Path),
            envvar="MANYHANDS_HOME",
            default=_default_home,
            show_default="the platform's data directory",
            help="Where keys and ledgers live.",
        ),
    ):
        command = option(command)
    return command


def _books(home: Path, role: str | None) -> list[Book]:
    return find_books(home, (role,) if role else ROLES)


def _say(schema: str, home: Path, as_json: bool, more: Json, show: Callable[[Json], None]) -> None:
    view = {"schema": f"manyhands/ledger-{schema}/v1", "home": str(home), **more}
    if as_json:
        click.echo(json.dumps(view))
    else:
        show(view)


@click.group("ledger")
def ledger() -> None:
    """Who did what for whom: balances, statements, and their proofs."""


@ledger.command()
@_common
def balance(home: Path, role: str | None, as_json: bool) -> None:
    """What each counterparty owes us, and we them."""
    views = [balance_view(book) for book in _books(home, role)]
    _say("balance", home, as_json, {"ledgers": views}, render.balance)


@ledger.command()
@click.option("--peer", help="Only tabs with this peer id.")
@_common
def statement(home: Path, role: str | None, as_json: bool, peer: str | None) -> None:
    """Every tab on record: with whom, which blocks, how much work, for how much."""
    views = [statement_view(book, peer) for book in _books(home, role)]
    _say("statement", home, as_json, {"ledgers": views}, render.statement)


@ledger.command()
@click.option(
    "--proof",
    type=click.File("rb"),
    help="Check a proof somebody handed over (made by `prove --json`), instead of a home.",
)
@_common
def verify(home: Path, role: str | None, as_json: bool, proof: Any) -> None:
    """Derive everything again: signatures, amounts, leaves, tree, checkpoints, proofs."""
    if proof is not None:
        _verify_proof(proof.read(), as_json)
        return
    books = _books(home, role)
    reports = [(book, verify_ledger(book.directory, book.account())) for book in books]
    holds = all(report.holds for _, report in reports)
    views = [report_view(book, report) for book, report in reports]
    _say("verify", home, as_json, {"ok": holds, "ledgers": views}, render.report)
    if not holds:
        first = next(failure for _, report in reports for failure in report.failures)
        n_failures = sum(len(report.failures) for _, report in reports)
        others = f" (and {n_failures - 1} more)" if n_failures > 1 else ""
        raise IntegrityError(
            f"the ledger does not hold: {first}{others}",
            hint="restore it from a backup; the counterparty's ledger has the same receipts",
        )


@ledger.command()
@click.argument("receipt")
@_common
def prove(receipt: str, home: Path, role: str | None, as_json: bool) -> None:
    """Prove that RECEIPT (an id, or how it begins) is in the log, to somebody else."""
    book, id_ = find_receipt(_books(home, role), receipt)
    with book.reader() as reader:
        view = proof_view(reader.account, reader.swarm_id, reader.prove(id_))
    head, tab = check_proof_view(view)  # what does not convince ourselves convinces nobody
    if as_json:
        click.echo(json.dumps(view))
    else:
        render.proof(view, head, tab, peer_name(tab.terms.payer), peer_name(tab.terms.payee))


def _verify_proof(data: bytes, as_json: bool) -> None:
    try:
        view = json.loads(data)
    except ValueError as error:
        raise UsageError("the proof is not JSON", hint="make one: … prove --json") from error
    head, tab = check_proof_view(view)
    payer, payee = peer_name(tab.terms.payer), peer_name(tab.terms.payee)
    if as_json:
        found = {"ok": True, "peer": view["peer"], "receipt": view["receipt"], "size": head.size}
        parties = {"payer": payer, "payee": payee, "amount_ncr": tab.amount}
        click.echo(json.dumps({"schema": "manyhands/ledger-verify-proof/v1", **found, **parties}))
    else:
        render.proof(view, head, tab, payer, payee)
