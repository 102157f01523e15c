"""`manyhands gateway key new | list | revoke`: who may use this home's gateway.

In: a name. Out: on stdout the key, which is shown this once; or the list of what there is.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from manyhands.home import Home
from manyhands.options import home_option, json_option
from manyhands.progress import say


@click.group("key", short_help="API keys of this home's gateway.")
def key() -> None:
    """API keys of this home's gateway: with one, it takes callers that show it, and no others."""


@key.command("new")
@click.option("--name", default="key", metavar="TEXT", help="For the list. Default: key.")
@home_option
def new(name: str, home: Path | None) -> None:
    """Make a key, and print it: this is the only time."""
    from manyhands.gateway.keys import Keys, keys_path

    path = keys_path(Home.at(home))
    keys, text = Keys.read(path).made(name)
    keys.write(path)
    click.echo(text)
    say(f"kept as a hash in {path}; a gateway that runs takes it from now on")


@key.command("list")
@json_option
@home_option
def show(as_json: bool, home: Path | None) -> None:
    """The keys, by name; not the keys themselves, which nobody has."""
    from manyhands.gateway.keys import Keys, keys_path

    keys = Keys.read(keys_path(Home.at(home))).all
    if as_json:
        listed = [
            {"name": k.name, "id": k.id, "made": _time(k.made_ms), "revoked": _time(k.revoked_ms)}
            for k in keys
        ]
        click.echo(json.dumps({"schema": "manyhands/gateway-keys/v1", "keys": listed}))
        return
    for each in keys:
        state = f"revoked {_time(each.revoked_ms)}" if each.revoked_ms else "live"
        click.echo(f"{each.id}  {each.name}  made {_time(each.made_ms)}  {state}")


@key.command("revoke")
@click.argument("which", metavar="NAME|ID")
@home_option
def revoke(which: str, home: Path | None) -> None:
    """Take a key back; a gateway that runs refuses it from its next request on."""
    from manyhands.gateway.keys import Keys, keys_path

    path = keys_path(Home.at(home))
    Keys.read(path).revoked(which).write(path)
    say(f"revoked: {which}")


def _time(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds") if ms else None
