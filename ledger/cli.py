"""`manyhands ledger balance | statement | export | verify | prove`: read a home's ledgers.

Data goes to standard output, as tables for people or with `--json` for scripts; what is wrong goes
up as an error, which the front door prints and turns into the exit code (8 when anything does not
hold). Nothing here dials a peer or writes a ledger.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ledger import render
from ledger.credit_views import credit_views, spending_reports
from ledger.export_cli import export, export_balance, statement_csv, verify_bundle, worth_of
from ledger.findings_cli import audit
from ledger.homes import ROLES, find_receipt
from ledger.keys_cli import keys
from ledger.lines import peer_name
from ledger.migrate_cli import migrate_command
from ledger.options import AccountType, books_of, choice_of, choosing, common, worth_option
from ledger.paid_cli import debts, paid
from ledger.prune_cli import prune
from ledger.repair_cli import repair_command
from ledger.statement_html import statement_html
from ledger.statements import GROUPS
from ledger.verify import verify_ledger
from ledger.views import (
    Json,
    balance_view,
    check_proof_view,
    proof_view,
    report_view,
    statement_view,
)
from ledger.worth import Worth, worth_at
from protocol.errors import IntegrityError, UsageError

FORMATS = ("text", "json", "csv", "html")


def _say(schema: str, home: Path, as_json: bool, more: Json, show: Callable[[Json], None]) -> None:
    view = {"schema": f"manyhands/ledger-{schema}/v1", "home": str(home), **more}
    if as_json:
        click.echo(json.dumps(view))
    else:
        show(view)


@click.group("ledger")
def ledger() -> None:
    """Who did what for whom: balances, statements, and their proofs."""


ledger.add_command(export)
ledger.add_command(keys)
ledger.add_command(audit)
ledger.add_command(prune)
ledger.add_command(paid)
ledger.add_command(debts)
ledger.add_command(migrate_command)
ledger.add_command(repair_command)


@ledger.command()
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Of an exported statement (csv, jsonl, focus), instead of a home.",
)
@click.option("--peer", type=AccountType(), help="Only with this peer id.")
@click.option("--asset", type=AccountType(), help="Only in the credit of this issuer.")
@click.option(
    "--as-of",
    "day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="As it stood at the end of this day (UTC); what is granted is told of now alone.",
)
@common
def balance(
    home: Path,
    role: str | None,
    as_json: bool,
    file: Path | None,
    peer: bytes | None,
    asset: bytes | None,
    day: datetime | None,
) -> None:
    """What each counterparty owes us, and we them."""
    more: Json = {}
    if file is not None:
        if day is not None:
            raise UsageError("--as-of is of a home", hint="export one up to that day: --to DAY")
        views = [export_balance(file, peer, asset)]
    else:
        choice = choice_of(None, day, None, None)
        credit = [] if day else credit_views(home, (role,) if role else ROLES, peer, asset)
        books = books_of(home, role, may_lack=bool(credit))
        views = [balance_view(book, peer, asset, choice.last) for book in books]
        more = {"credit": credit} if credit else {}
        more |= {"as_of": choice.to_json()["to"]} if day else {}
    _say("balance", home, as_json, {"ledgers": views, **more}, render.balance)


@ledger.command()
@choosing
@click.option("--by", type=click.Choice(GROUPS), help="Sums for each of these, not every tab.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(FORMATS),
    help="text by default; --json is json. html is one page, for paper and files.",
)
@worth_option
@common
def statement(
    home: Path,
    role: str | None,
    as_json: bool,
    since: datetime | None,
    until: datetime | None,
    peer: str | None,
    model: str | None,
    by: str | None,
    shape: str | None,
    credit_is: tuple[str, str] | None,
) -> None:
    """Every tab on record: with whom, which blocks, how much work, for how much."""
    if as_json and shape not in (None, "json"):
        raise UsageError("--json is --format json", hint=f"leave one of them out: --format {shape}")
    if credit_is and shape == "csv":
        raise UsageError("csv says nanocredits alone", hint="--format html, json or text")
    choice = choice_of(since, until, peer, model)
    if shape == "csv":
        if by:
            raise UsageError("csv has every tab, not sums", hint="--format json has both")
        for piece in statement_csv(books_of(home, role), choice):
            click.echo(piece, nl=False)
        return
    worth = worth_of(credit_is) or worth_at(home)
    views = [statement_view(book, choice, by, worth) for book in books_of(home, role)]
    if shape == "html":
        made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {home}"
        for piece in statement_html(views, worth or Worth(), made):
            click.echo(piece, nl=False)
        return
    _say("statement", home, as_json or shape == "json", {"ledgers": views}, render.statement)


@ledger.command()
@click.option(
    "--proof",
    type=click.File("rb"),
    help="Check a proof somebody handed over (made by `prove --json`), instead of a home.",
)
@click.argument("bundle", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--owner", help="Whose BUNDLE it must be: a peer id, or an account.")
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Key events of BUNDLE's account, newer than its own. Default: those of this home, if any.",
)
@common
def verify(
    home: Path,
    role: str | None,
    as_json: bool,
    proof: Any,
    bundle: Path | None,
    owner: str | None,
    events: Path | None,
) -> None:
    """Derive everything again: signatures, amounts, leaves, tree, checkpoints, proofs.

    Of this home's ledgers; or of BUNDLE, which somebody made with `export bundle`. A bundle ends
    with code 0 when it holds, 2 when it does not, 3 when something is missing from it.
    """
    if bundle is not None:
        verify_bundle(bundle, owner, as_json, events, home)
        return
    if proof is not None:
        _verify_proof(proof.read(), as_json)
        return
    spending = spending_reports(home, (role,) if role else ROLES)
    books = books_of(home, role, may_lack=bool(spending))
    looked = [(book, verify_ledger(book.directory, book.account())) for book in books]
    reports = [(book.role, report) for book, report in looked] + spending
    holds = all(report.holds for _, report in reports)
    views = [report_view(what, report) for what, report in reports]
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
@common
def prove(receipt: str, home: Path, role: str | None, as_json: bool) -> None:
    """Prove that RECEIPT (an id, or how it begins) is in the log, to somebody else."""
    book, id_ = find_receipt(books_of(home, role), receipt)
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
    except (ValueError, RecursionError) as error:
        raise UsageError("the proof is not JSON", hint="make one: … prove --json") from error
    head, tab = check_proof_view(view)
    payer, payee = peer_name(tab.terms.payer), peer_name(tab.terms.payee)
    if as_json:
        found = {"ok": True, "peer": view["peer"], "receipt": view["receipt"], "size": head.size}
        parties = {"payer": payer, "payee": payee, "amount_ncr": tab.amount}
        click.echo(json.dumps({"schema": "manyhands/ledger-verify-proof/v1", **found, **parties}))
    else:
        render.proof(view, head, tab, payer, payee)
