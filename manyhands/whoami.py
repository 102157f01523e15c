"""`manyhands identity`: the keys of a home, and the peer ids they prove. No key is ever shown."""

import json
from pathlib import Path

import click

from manyhands.home import KEY_NAME, default_home
from manyhands.options import home_option, json_option
from protocol.errors import ConfigError


@click.group(invoke_without_command=True, short_help="The keys of a home.")
@home_option
@json_option
@click.pass_context
def identity(ctx: click.Context, home: Path | None, as_json: bool) -> None:
    """Who this home is to others: one peer id for its node, one for its clients."""
    if ctx.invoked_subcommand is None:
        _show(home, as_json)


@identity.command()
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """Show the peer ids."""
    _show(home, as_json)


def _show(home: Path | None, as_json: bool) -> None:
    from protocol.identity import load_identity

    root = (home or default_home()).expanduser().absolute()
    found = {}
    for role in ("node", "client"):
        key = root / role / KEY_NAME
        if key.exists():
            found[role] = {"peer": load_identity(key).peer_id, "key": str(key)}
    if not found:
        raise ConfigError(
            f"there is no key in {root}",
            hint="the first `manyhands serve` or `generate` on a home makes one",
        )
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/identity/v1", "home": str(root), **found}))
        return
    for role, who in found.items():
        click.echo(f"{role:<7}{who['peer']}   {who['key']}")
