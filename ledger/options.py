"""What the ledger commands share: where the home is, which of its ledgers, which of their lines."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from ledger.homes import ROLES, Book, find_books
from ledger.statements import Choice
from protocol.errors import ConfigError, IntegrityError, UsageError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.signing import can_be_made, check_public_key

Account = bytes
Command = TypeVar("Command", bound=Callable[..., Any])


class AccountType(click.ParamType[Any]):
    """An account, by its peer id or by its key in hexadecimal."""

    name = "PEER|ACCOUNT"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Account:
        if isinstance(value, bytes):
            return value
        text = str(value)
        try:
            if len(text) != 64:
                return public_key_from_peer_id(text)
            account = bytes.fromhex(text)
            check_public_key(account)
        except (IntegrityError, UsageError, ValueError) as error:
            self.fail(f"{text!r} is no account: {error}", param, ctx)
        return account


class OwnerType(AccountType):
    """An account that credit is given to: what goes to a key that nobody has is lost."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Account:
        account = super().convert(value, param, ctx)
        if not can_be_made(account):
            self.fail(
                f"{value!r} is nobody's key, and credit for it were lost: it is mistyped, or the"
                " number of an account above keys (then: a peer id of its owner's node or clients)",
                param,
                ctx,
            )
        return account


def default_home() -> str:
    from platformdirs import user_data_dir

    return user_data_dir("manyhands")


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
role_option = click.option(
    "--role",
    type=click.Choice(ROLES),
    help="Only the node's ledger, or only the clients'. Both by default.",
)
home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="MANYHANDS_HOME",
    default=default_home,
    show_default="the platform's data directory",
    help="Where keys and ledgers live.",
)

worth_option = click.option(
    "--credit-is",
    nargs=2,
    metavar="AMOUNT CURRENCY",
    help="What a credit is worth, as you agreed on elsewhere, for example 1.00 USD. "
    "Default: as the swarm's policy says, if it does.",
)


def common(command: Command) -> Command:
    """The options every command here takes."""
    for option in (json_option, role_option, home_option):
        command = option(command)
    return command


def choosing(command: Command) -> Command:
    """Options for some lines of a ledger; `choice_of` reads them."""
    day = click.DateTime(["%Y-%m-%d"])
    for option in (
        click.option("--model", help="Only of this model: its digest, or how that begins."),
        click.option("--peer", help="Only tabs with this peer id."),
        click.option("--to", "until", type=day, help="Up to the end of this day (UTC)."),
        click.option("--from", "since", type=day, help="From the beginning of this day (UTC)."),
    ):
        command = option(command)
    return command


def choice_of(
    since: datetime | None, until: datetime | None, peer: str | None, model: str | None
) -> Choice:
    if peer is not None and not re.fullmatch(r"[0-9a-f]{64}", peer):  # the hex of what is no key
        public_key_from_peer_id(PeerId(peer))
    return Choice.of(since.date() if since else None, until.date() if until else None, peer, model)


def books_of(home: Path, role: str | None, *, may_lack: bool = False) -> list[Book]:
    """may_lack: there need not be any, for other books of this home are asked for, too."""
    try:
        return find_books(home, (role,) if role else ROLES)
    except ConfigError:
        if may_lack:
            return []
        raise


def one_book(home: Path, role: str | None) -> Book:
    """The one ledger that is meant.

    Raises:
        UsageError: the home has two, and none is named.
    """
    found = books_of(home, role)
    if len(found) > 1:
        raise UsageError(
            f"{home} has a ledger of its node and one of its clients",
            hint="say which: --role node or --role client",
        )
    return found[0]
