"""`manyhands ledger sync`: what is known of all spend logs, heard anew, shown, told on.

In: a home of a swarm with issuers. Out: news heard from nodes, our own log signed and told; tables,
or one JSON object; and the logs themselves over HTTP, as C2SP tiles.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from ledger.credit_views import books_at, policy_view, sync_views
from ledger.homes import ROLES
from ledger.spend_shelf import Shelf
from manyhands.crediting.command import ledger, online, role_option
from manyhands.crediting.desk import check_granted, open_desk
from manyhands.crediting.shown import show_sync
from manyhands.home import Home
from manyhands.loops import run
from manyhands.options import base_option, json_option
from manyhands.party import Who, open_party
from manyhands.progress import say
from manyhands.signals import interruptible
from manyhands.swarm import place_of, which_option
from protocol.address import Address
from protocol.errors import ConfigError

__all__ = ["ledger"]  # with more commands


@ledger.group(invoke_without_command=True)
@role_option
@online
@click.pass_context
def sync(
    context: click.Context,
    role: Who,
    home: Path | None,
    name: str | None,
    join: tuple[Address, ...],
    as_json: bool,
) -> None:
    """Hear what the swarm knows of all spend logs; have our own signed and known."""
    if context.invoked_subcommand is not None:
        return
    place = place_of(home, name)
    run(_sync(place, role, join))
    _show_sync(place, as_json)


@sync.command("status")
@which_option
@base_option
@json_option
def sync_status(home: Path | None, name: str | None, as_json: bool) -> None:
    """What this home knows of all spend logs, as of when, signed by how many witnesses."""
    _show_sync(place_of(home, name), as_json)


@sync.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8431, show_default=True, help="0 picks one.")
@which_option
@base_option
def sync_serve(host: str, port: int, home: Path | None, name: str | None) -> None:
    """Let anybody read the logs that this home knows, over HTTP, as C2SP tlog-tiles."""
    place = place_of(home, name)
    check_granted(open_party(place, "client").policy)
    for role in ROLES:  # a node's books go on growing
        with books_at(place.root, role) as books:
            if books is not None:
                asyncio.run(_serve(books.shelf, host, port))
                return
    raise ConfigError(
        f"{place.root} knows no spend log yet", hint="manyhands ledger sync, or serve a MODEL there"
    )


# --- within ---------------------------------------------------------------------------------------


async def _serve(shelf: Shelf, host: str, port: int) -> None:
    from manyhands.gateway.serving import listening
    from manyhands.witnessing.logs_app import LogsApp

    stop = asyncio.Event()
    with interruptible(stop.set):
        async with listening(LogsApp(shelf), host, port) as bound:
            shown = f"[{host}]" if ":" in host else host
            url = f"http://{shown}:{bound}"
            click.echo(json.dumps({"event": "ready", "url": url, "logs": len(shelf.heads())}))
            say(f"each log is at {url}/ACCOUNT/checkpoint")
            await stop.wait()


async def _sync(place: Home, role: Who, join: tuple[Address, ...]) -> None:
    with interruptible():
        async with open_desk(place, role, join) as desk:
            await desk.sync()


def _show_sync(place: Home, as_json: bool) -> None:
    policy = open_party(place, "client").policy
    check_granted(policy)
    view: dict[str, Any] = {"schema": "manyhands/ledger-sync/v1", "home": str(place.root)}
    view |= {"swarm": policy.name, "policy": policy_view(policy), "roles": sync_views(place.root)}
    if as_json:
        click.echo(json.dumps(view))
    else:
        show_sync(view)
