"""`manyhands ledger export`, and what is read back: bundles that prove, statements that say."""

import json
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import click

from ledger import render
from ledger.balances import balances
from ledger.bundle_check import Proven, as_known, check_bundle
from ledger.bundles import write_bundle
from ledger.errors import BadBundle, IncompleteBundle, KeyNotValid
from ledger.exports import write_csv, write_focus, write_jsonl
from ledger.homes import Book
from ledger.imports import read_export
from ledger.key_ring import ACCOUNT, EVENTS, KeyRing, read_chain
from ledger.key_state import fold
from ledger.lines import Line, peer_name
from ledger.noted import noted_at
from ledger.options import choice_of, choosing, common, one_book, worth_option
from ledger.reader import LedgerReader
from ledger.statements import Choice, make_statement
from ledger.swarms import swarm_of
from ledger.views import Json, balance_rows, kept_by, rows_with
from ledger.worth import Worth, worth_at
from protocol.canonical import MAX_UINT
from protocol.errors import ConfigError, ManyhandsError, UsageError
from protocol.files import private_file
from protocol.signing import Envelope

BUNDLE_CHECK_SCHEMA = "manyhands/ledger-verify-bundle/v1"
ASK_AGAIN = "have it sent again: its owner makes one with `manyhands ledger export bundle`"
_DEVICES = (("/", "dev"), ("/", "proc"))  # what stands there, nothing can replace
FORMATS = ("csv", "jsonl", "focus", "bundle")


@click.command()
@click.argument("kind", metavar="csv|jsonl|focus|bundle", type=click.Choice(FORMATS))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to write; standard output by default, which a bundle cannot go to.",
)
@worth_option
@click.option(
    "--month",
    type=click.DateTime(["%Y-%m"]),
    help="All of this month (UTC), and for focus as invoices: one of each provider.",
)
@choosing
@common
def export(
    kind: str,
    out: Path | None,
    credit_is: tuple[str, str] | None,
    month: datetime | None,
    since: datetime | None,
    until: datetime | None,
    peer: str | None,
    model: str | None,
    home: Path,
    role: str | None,
    as_json: bool,
) -> None:
    """Write a statement for other programs, or with all that proves it.

    csv and jsonl have every tab; focus, for FinOps tools, has what was spent; a bundle is a zip
    that anybody checks offline: manyhands ledger verify FILE.
    """
    if credit_is and kind != "focus":
        raise UsageError("--credit-is goes with focus")
    if as_json and out is None:
        raise UsageError("--json tells what was written to a file", hint="name one: --out FILE")
    if month is not None:
        if since or until:
            raise UsageError("--month is a whole month, without --from and --to")
        since, until = month, month.replace(day=monthrange(month.year, month.month)[1])
    choice, book = choice_of(since, until, peer, model), one_book(home, role)
    if kind == "bundle":
        n_lines = _write_bundle(book, home, out, choice)
    else:
        worth = worth_of(credit_is) or (worth_at(home) if kind == "focus" else None)
        n_lines = _write_text(book, kind, out, choice, worth, month)
    if as_json:
        told = {"kind": kind, "file": str(out), "lines": n_lines}
        click.echo(json.dumps({"schema": "manyhands/ledger-export/v1", **told}))


def _write_bundle(book: Book, home: Path, out: Path | None, choice: Choice) -> int:
    if out is None:
        raise UsageError("a bundle goes into a file", hint="name one: --out ledger.zip")
    swarm_id, policy = swarm_of(home)
    ring = KeyRing(directory=home / ACCOUNT, keys=home / ACCOUNT, swarm_id=swarm_id)
    with book.reader() as reader:
        if reader.swarm_id != swarm_id:
            raise ConfigError("this ledger is of another swarm than its home belongs to")
        events = ring.events() if ring.exists else []
        try:
            if events:
                fold(events, swarm_id).check(
                    reader.account, "log", epoch=_first_epoch(reader, choice)
                )
        except KeyNotValid as error:
            click.echo(f"note: {error}; this bundle is the key's, not the account's", err=True)
            events = []
        return len(write_bundle(out, reader, policy, choice, events).lines)


def _first_epoch(reader: LedgerReader, choice: Choice) -> int:
    last = MAX_UINT if choice.last is None else choice.last
    among = (kept for kept in kept_by(reader) if choice.first <= kept.epoch <= last)
    return min((kept.epoch for kept in among if choice.is_about(kept)), default=0)


def _write_text(
    book: Book,
    kind: str,
    out: Path | None,
    choice: Choice,
    worth: Worth | None,
    month: datetime | None,
) -> int:
    with book.reader() as reader:
        made = make_statement(kept_by(reader), choice, noted_at(book, reader))
    lines, invoiced = made.lines, month.strftime("%Y-%m") if month else ""
    writers: dict[str, Callable[[], Iterator[str]]] = {
        "csv": lambda: write_csv(lines, made.credited),
        "jsonl": lambda: write_jsonl(lines, made.credited),
        "focus": lambda: write_focus(lines, worth, made.credited, month=invoiced),
    }
    text = writers[kind]()
    if out is None:
        for piece in text:
            click.echo(piece, nl=False)
        return len(lines)
    try:
        if out.parts[:2] in _DEVICES or (out.exists() and not out.is_file()):
            with out.open("w", encoding="utf-8", newline="") as sink:
                sink.writelines(text)
        else:
            with private_file(out) as file:
                file.writelines(piece.encode() for piece in text)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    return len(lines)


def statement_csv(books: Iterable[Book], choice: Choice) -> Iterator[str]:
    """The chosen tabs of several ledgers, as one table."""
    lines: list[Line] = []
    credited: list[int] = []
    for book in books:
        with book.reader() as reader:
            made = make_statement(kept_by(reader), choice, noted_at(book, reader))
        lines += made.lines
        credited += made.credited
    return write_csv(lines, credited)


def worth_of(credit_is: tuple[str, str] | None) -> Worth | None:
    if not credit_is:
        return None
    try:
        return Worth(credit_is[1], Decimal(credit_is[0]))
    except InvalidOperation as error:
        raise UsageError(f"not an amount: {credit_is[0][:40]!r}") from error


def export_balance(file: Path, peer: bytes | None = None, asset: bytes | None = None) -> Json:
    """The balances that an exported statement comes to, or those with a peer, in an asset."""
    account, claims = read_export(file)
    if account is None:
        click.echo(f"note: {file} has no tabs, and does not say whose statement it is", err=True)
    rows = balances(account, claims) if account else []
    return balance_rows("file", account or b"", len(claims), rows_with(rows, peer, asset))


def verify_bundle(
    path: Path, owner: str | None, as_json: bool, events: Path | None, home: Path
) -> None:
    """Check a bundle, and that it is of whom it is expected to be.

    events: of its account, as its owner told them last; else those of the home, where it has some.

    Raises:
        BadBundle, IncompleteBundle, ConfigError: see `check_bundle`.
    """
    try:
        proven = check_bundle(path)
        known = _known_events(proven, events, home)
        proven = as_known(proven, known) if known else proven
        account = proven.keys.account.hex() if proven.keys else None
        if owner is not None and owner not in (peer_name(proven.account), account):
            whose = f"it is the ledger of {peer_name(proven.account)}, not of {owner}"
            raise BadBundle(whose, hint="--owner is the peer id that its owner told you otherwise")
    except (BadBundle, IncompleteBundle) as error:
        error.hint = error.hint or ASK_AGAIN
        if as_json:
            told = {"ok": False, "code": error.code, "reason": str(error)}
            click.echo(json.dumps({"schema": BUNDLE_CHECK_SCHEMA, **told}))
        raise
    view: dict[str, Any] = {
        "schema": BUNDLE_CHECK_SCHEMA,
        "ok": True,
        "peer": peer_name(proven.account),
        "account": account,
        "swarm": proven.swarm_id.hex(),
        "swarm_name": proven.swarm,
        "size": proven.head.size,
        "root": proven.head.root.hex(),
        "whole": proven.is_whole,
        "beyond_account": proven.n_unspoken,
        "account_events": ("known" if known else "its own") if proven.keys else None,
        **proven.statement.within.to_json(),
    }
    if as_json:
        click.echo(json.dumps(view))
    else:
        render.bundle(view)


def _known_events(proven: Proven, file: Path | None, home: Path) -> list[Envelope]:
    """Those in the file; else this home's, where they are of the account that is proven."""
    if file is not None:
        try:
            return read_chain(file)
        except FileNotFoundError as error:
            raise ConfigError(f"there is no {file}") from error
    try:
        own = read_chain(home / ACCOUNT / EVENTS)
    except FileNotFoundError:
        return []
    except ManyhandsError as error:
        click.echo(f"note: the key events of this home are not looked at: {error}", err=True)
        return []
    account = proven.keys.account if proven.keys else None
    return own if own and own[0].object_id(proven.swarm_id) == account else []
