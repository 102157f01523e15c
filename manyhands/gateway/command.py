"""`manyhands gateway`: an OpenAI-compatible HTTP API in front of a swarm.

In: models, where the swarm is, where to listen. Out: one JSON line on stdout once it listens; then
answers until a signal, after which what runs may end within `--drain`. The web framework is loaded
when the command runs, not before.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.asking import open_client
from manyhands.gateway.alias_command import alias
from manyhands.gateway.explain_command import explain
from manyhands.gateway.key_command import key
from manyhands.gateway.listening_options import Where, listening_options
from manyhands.governing.gate import terms_for
from manyhands.headings import headed
from manyhands.home import Home
from manyhands.loops import run
from manyhands.models import Model
from manyhands.options import (
    accept_licence_option,
    auditors_option,
    channel_option,
    home_option,
    join_option,
    policy_option,
    tunnels_option,
)
from manyhands.progress import say
from manyhands.running import Running, join_addresses, recorded
from manyhands.signals import interruptible
from manyhands.thin import find_client_model
from manyhands.tracing import tracing
from protocol.address import Address
from protocol.errors import UsageError
from protocol.membership.rules import Rules

if TYPE_CHECKING:
    from manyhands.dashboard.routes import Panel
    from manyhands.gateway.gateway import Gateway
    from manyhands.gateway.keys import KeyFile
    from manyhands.gateway.second_runs import By
    from protocol.tracing import Tracer
    from scheduler.client import Client
    from scheduler.permission import Terms

HEADINGS = {
    "What to serve": ("aliases", "policy", "max_tokens", "timeout_s", "by"),
    "Where it listens, and for whom": (
        *("host", "port", "tls_cert", "tls_key", "origins", "max_running", "max_per_key"),
        "drain_s",
    ),
    "Where the swarm is": (
        "join",
        "swarm",
        "home",
        "tunnels",
        "channel",
        "accept_licence",
        "auditors",
    ),
}


ABOUT: Mapping[str, click.Command] = {"key": key, "alias": alias, "explain": explain}


class GatewayCommand(headed(HEADINGS)):  # type: ignore[misc]  # a base made by a call
    """`gateway MODEL…`, and what is about it: `gateway key …`, `gateway alias …`, and others."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **more: Any,
    ) -> click.Context:
        about = ABOUT.get(args[0]) if args else None
        if about is not None:
            return about.make_context(f"{info_name} {args[0]}", args[1:], parent, **more)
        made: click.Context = super().make_context(info_name, args, parent, **more)
        return made


@click.command(cls=GatewayCommand, short_help="An OpenAI-compatible API for a swarm.")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@join_option
@listening_options
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    metavar="NAME=MODEL",
    help="Another name for a model. `default` is the first one's, unless you say otherwise.",
)
@policy_option
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    default=1024,
    metavar="N",
    help="Of answers whose caller names no limit. Default: 1024, or what fits.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    metavar="S",
    help="For one answer. Default: 600.",
)
@click.option(
    "--max-running",
    type=click.IntRange(min=1),
    default=256,
    metavar="N",
    help="Answers at a time; more are told to come back. Default: 256.",
)
@click.option(
    "--max-per-key",
    type=click.IntRange(min=1),
    default=64,
    metavar="N",
    help="Of them, for one key. Default: 64.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="S",
    help="For answers that run when it is told to end. Default: 30.",
)
@click.option(
    "--verify-by",
    "by",
    type=click.Choice(["auto", "own", "peers", "nobody"]),
    default="auto",
    help="Who runs answers again that callers want verified: this machine, other peers, or nobody. "
    "Default: auto, this machine what has up to 1 GiB of weights, too.",
)
@tunnels_option
@channel_option
@accept_licence_option
@auditors_option
@home_option
def gateway(
    models: tuple[str, ...],
    join: tuple[Address, ...],
    aliases: tuple[str, ...],
    tunnels: bool,
    channel: str,
    accept_licence: bool,
    auditors: tuple[str, ...],
    policy: Path | None,
    home: Path | None,
    by: "By",
    **more: Any,
) -> None:
    """Serve MODEL… of a swarm over HTTP, as OpenAI's clients expect it, until Ctrl-C.

    Who may ask: whoever is on this machine, until `manyhands gateway key new` makes a key; then
    callers with a key alone. The first MODEL is also called `default`; MODEL:ADAPTER asks for an
    adapter. Prints one line of JSON when it listens: {"event": "ready", "url", "models"}.
    """
    from manyhands.dashboard.books import HomeBooks
    from manyhands.dashboard.nodes import nodes_on
    from manyhands.dashboard.routes import Panel
    from manyhands.gateway.aliases import AliasFile, aliases_path
    from manyhands.gateway.allowances import Allowances
    from manyhands.gateway.catalogue import Catalogue, served_of
    from manyhands.gateway.gateway import Bounds, Gateway
    from manyhands.gateway.keys import KeyFile, keys_path
    from manyhands.gateway.policy import Policy
    from manyhands.gateway.ruled import require_known
    from manyhands.gateway.second_runs import SecondRuns
    from manyhands.gateway.spending import Spending, spending_path

    place = Home.at(home)
    keys = KeyFile(keys_path(place))
    where = Where.of(more, keys)
    ruled = Policy.read(policy) if policy else Policy()
    found = [find_client_model(each, place, join, channel) for each in models]
    names = AliasFile(aliases_path(place))
    catalogue = Catalogue(served_of(found), aliases_of(aliases), names)
    require_known(ruled, catalogue)
    opening = open_client(
        place,
        join_addresses(place, join),
        channel,
        all_terms(place, found, accepts=accept_licence),
        tunnels=tunnels,
        auditors=auditors,
    )
    panel = Panel(books=HomeBooks(place.root), nodes=partial(nodes_on, place))
    ids = [served.id for served in catalogue.served]
    with Spending(spending_path(place)) as spending:
        bounds = Bounds(**more, policy=ruled)
        second_runs = SecondRuns(place, by)
        gateway = Gateway(catalogue, bounds, Allowances(spending), second_runs)
        record = Running(command="gateway", pid=os.getpid(), model=" ".join(ids), addresses=())

        def listens(url: str) -> AbstractContextManager[None]:
            return recorded(place, replace(record, url=url))

        with tracing("manyhands-gateway") as tracer:
            run(_serve(gateway, keys, opening, panel, where, listens, tracer))


def aliases_of(given: Sequence[str]) -> dict[str, str]:
    aliases = {}
    for each in given:
        name, equals, model = each.partition("=")
        if not (name and equals and model):
            raise UsageError(f"not an alias: {each[:100]!r}", hint="write it as --alias NAME=MODEL")
        aliases[name] = model
    return aliases


def all_terms(home: Home, models: Sequence[Model], *, accepts: bool = False) -> "Terms":
    """What is asked before any of these models is used."""
    asked: Mapping[bytes, Terms] = {
        model.manifest.digest: terms_for(home, model.manifest, accepts=accepts) for model in models
    }

    def require(rules: Rules, digest: bytes) -> None:
        asked[digest](rules, digest)

    return require


async def _serve(
    gateway: "Gateway",
    keys: "KeyFile",
    opening: "AbstractAsyncContextManager[Client]",
    panel: "Panel",
    where: Where,
    listens: Callable[[str], AbstractContextManager[None]],
    tracer: "Tracer | None",
) -> None:
    """`listens`: entered with its URL while it does."""
    from manyhands.gateway.app import make_app
    from manyhands.gateway.door import admission
    from manyhands.gateway.readiness import Readiness
    from manyhands.gateway.ruled import require_proof
    from manyhands.gateway.serving import listening

    stop = asyncio.Event()
    with interruptible(stop.set):
        admit = admission(keys, is_wide=where.is_wide)
        app = make_app(gateway, Readiness(gateway), admit, panel, where.origins, tracer)
        async with (
            listening(app, where.host, where.port, where.certificate) as bound,
            opening as client,
            gateway.serving(require_proof(client, gateway.bounds.policy)),
            panel.watch.watching(client),
        ):
            url = where.url(bound)
            names = gateway.catalogue.names
            with listens(url):
                click.echo(json.dumps({"event": "ready", "url": url, "models": names}))
                say(f"the page is at {url}, the API at {url}/v1, for {', '.join(names)}")
                await stop.wait()
            say("ending; answers that run may end first, another Ctrl-C cuts them off")
