"""`manyhands gateway key new | limit | list | revoke`: who may use this home's gateway, for what.

In: a name, limits. Out: on stdout the key, which is shown this once; or the list of what there is,
with what each has spent.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from manyhands.home import Home
from manyhands.options import home_option, json_option
from manyhands.private_files import changing
from manyhands.progress import say

if TYPE_CHECKING:
    from manyhands.gateway.grants import Grant
    from manyhands.gateway.spending import Spent

Command = TypeVar("Command", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)


@click.group("key", short_help="API keys of this home's gateway.")
def key() -> None:
    """API keys of this home's gateway: with one, it takes callers that show it, and no others."""


def limits_options(command: Command) -> Command:
    """What a key may."""
    options = (
        click.option(
            "--model",
            "models",
            multiple=True,
            metavar="NAME",
            help="A model or alias that it may ask for; repeat it. Default: all.",
        ),
        click.option("--requests-per-minute", type=COUNT, metavar="N", help="Default: no limit."),
        click.option(
            "--tokens-per-minute",
            type=COUNT,
            metavar="N",
            help="Of prompts and answers. Default: no limit.",
        ),
        click.option(
            "--budget",
            "budget_ncr",
            type=click.IntRange(min=0),
            metavar="NCR",
            help="What its answers may cost, in nanocredits. Default: no limit.",
        ),
        click.option(
            "--budget-per",
            type=click.Choice(["day", "all"]),
            default="day",
            help="A budget for each day (UTC), or one in all. Default: day.",
        ),
        click.option(
            "--region",
            "regions",
            multiple=True,
            metavar="R",
            help="Only peers there may serve it; repeat it. Default: anywhere.",
        ),
        click.option(
            "--data-class",
            type=click.Choice(["public", "internal", "restricted"]),
            default="public",
            help="Of all that it asks, at least. Default: public.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@key.command("new")
@click.option("--name", default="key", metavar="TEXT", help="For the list. Default: key.")
@limits_options
@home_option
def new(name: str, home: Path | None, **limits: Any) -> None:
    """Make a key, and print it: this is the only time."""
    from manyhands.gateway.keys import Keys, keys_path

    path, grant = keys_path(Home.at(home)), _grant(limits)
    with changing(path):
        keys, text = Keys.read(path).made(name, grant)
        keys.write(path)
    click.echo(text)
    say(f"kept as a hash in {path}; a gateway that runs takes it from now on")


@key.command("limit")
@click.argument("which", metavar="NAME|ID")
@limits_options
@home_option
def limit(which: str, home: Path | None, **limits: Any) -> None:
    """Give a key these limits, and no others; a gateway that runs keeps to them at once."""
    from manyhands.gateway.keys import Keys, keys_path

    path, grant = keys_path(Home.at(home)), _grant(limits)
    with changing(path):
        Keys.read(path).limited(which, grant).write(path)
    say(f"{which} has now: {grant.in_words()}")


@key.command("list")
@json_option
@home_option
def show(as_json: bool, home: Path | None) -> None:
    """The keys, by name, with their limits and what they spent; not the keys themselves, which
    nobody has."""
    from manyhands.gateway.keys import Keys, keys_path
    from manyhands.gateway.spending import Spending, spending_path, today

    place = Home.at(home)
    keys, path = Keys.read(keys_path(place)).all, spending_path(place)
    spending = Spending(path if path.exists() else None)
    if as_json:
        listed = [
            {
                "name": k.name,
                "id": k.id,
                "made": _time(k.made_ms),
                "revoked": _time(k.revoked_ms),
                "limits": k.grant.to_json(),
                "spent": {
                    "today": _spent(spending.on(k.hash, today())),
                    "in_all": _spent(spending.in_all(k.hash)),
                },
            }
            for k in keys
        ]
        click.echo(json.dumps({"schema": "manyhands/gateway-keys/v1", "keys": listed}))
        return
    for each in keys:
        state = f"revoked {_time(each.revoked_ms)}" if each.revoked_ms else "live"
        click.echo(f"{each.id}  {each.name}  made {_time(each.made_ms)}  {state}")
        spent, day = spending.in_all(each.hash), spending.on(each.hash, today())
        click.echo(
            f"          {each.grant.in_words()}; spent {spent.ncr} ncr for {spent.tokens} tokens, "
            f"{day.ncr} ncr of it today"
        )


@key.command("revoke")
@click.argument("which", metavar="NAME|ID")
@home_option
def revoke(which: str, home: Path | None) -> None:
    """Take a key back; a gateway that runs refuses it from its next request on."""
    from manyhands.gateway.keys import Keys, keys_path

    path = keys_path(Home.at(home))
    with changing(path):
        Keys.read(path).revoked(which).write(path)
    say(f"revoked: {which}")


def _grant(limits: dict[str, Any]) -> "Grant":
    from manyhands.gateway.grants import Grant

    return Grant.read(limits)


def _spent(spent: "Spent") -> dict[str, int]:
    return {"ncr": spent.ncr, "tokens": spent.tokens, "answers": spent.answers}


def _time(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else None
