"""`manyhands up`: a swarm on this machine, kept whole until Ctrl-C.

In: how many nodes, a model, a port. Out: processes that are started again when they end, a gateway
in front of them, which also says whether the swarm can answer now, and a record by which
`generate`, `chat` and `status` find it without `--join`.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhands.asking import open_client
from manyhands.fetching import bring_weights
from manyhands.governing.gate import require_served
from manyhands.home import Home
from manyhands.keeping import Keeper, say_ready, waiting_told
from manyhands.licences import require_accepted
from manyhands.local import HOST, LocalSwarm, replicated_split
from manyhands.loops import run
from manyhands.membership import adopt
from manyhands.models import TINY, Model, find_model
from manyhands.options import accept_licence_option, home_option, policy_option
from manyhands.party import open_party
from manyhands.progress import say, shown
from manyhands.running import Running, found_running, recorded
from manyhands.signals import interruptible
from manyhands.tracing import tracing
from protocol.errors import ConfigError
from protocol.membership.rules import Channel

if TYPE_CHECKING:
    from manyhands.gateway.policy import Policy
    from manyhands.gateway.spending import Spending
    from protocol.tracing import Tracer

DEFAULT_PORT = 8400
DRAIN_S = 5.0  # for answers that run at Ctrl-C


@click.command(short_help="Run a local swarm until Ctrl-C.")
@click.option("--nodes", type=click.IntRange(min=1), default=3, help="Default: 3.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    help="How many of the nodes host each block. Default: 1.",
)
@click.option("--model", default=TINY, metavar="MODEL", help="Default: tiny.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    help=f"Of the API, on loopback. Default: {DEFAULT_PORT}.",
)
@policy_option
@accept_licence_option
@home_option
def up(
    nodes: int,
    replicas: int,
    model: str,
    port: int,
    policy: Path | None,
    accept_licence: bool,
    home: Path | None,
) -> None:
    """Run a swarm of local processes, and a gateway to it, until Ctrl-C.

    Prints one line of JSON when the swarm can answer: {"event": "ready", "url", "addresses",
    "model", "spans", "replicas"}. The API is at URL/v1; GET /health/ready answers 200 from then on,
    and 503 while some block has no host that answers. A node that ends is started again.
    """
    from manyhands.gateway.policy import Policy
    from manyhands.gateway.ruled import require_proof
    from manyhands.gateway.spending import Spending, spending_path

    ruled = Policy.read(policy) if policy else Policy()
    place = Home.at(home)
    require_alone(place)
    party = open_party(place, "client")
    require_proof(party, ruled)
    with shown(model) as progress:
        found = find_model(model, progress=progress)
    spans = replicated_split(found.manifest.n_blocks, nodes, replicas)
    (found,) = require_served(place, party, [found], accepts=accept_licence)
    require_accepted(place, found.manifest, accepts=accept_licence)
    bring_weights(found, found.manifest.tensors, party=party)
    swarm = LocalSwarm(model, spans, place.root / "swarm", pages=True)
    adopt(place, [node.home for node in swarm.nodes])
    with Spending(spending_path(place)) as spending, tracing("manyhands-gateway") as tracer:
        run(_up(place, found, swarm, replicas, port, ruled, spending, tracer))


def require_alone(home: Home) -> None:
    """Two swarms would start each other's nodes.

    Raises:
        ConfigError: one runs on this home.
    """
    if other := next((known for known in found_running(home) if known.command == "up"), None):
        raise ConfigError(
            f"a swarm of {other.model} runs on {home.root} already, as pid {other.pid}",
            hint="use that one, end it with Ctrl-C, or give this one a home of its own: --home DIR",
        )


async def _up(
    home: Home,
    model: Model,
    swarm: LocalSwarm,
    replicas: int,
    port: int,
    policy: "Policy",
    spending: "Spending",
    tracer: "Tracer | None",
) -> None:
    from manyhands.dashboard.books import HomeBooks
    from manyhands.dashboard.nodes import nodes_of
    from manyhands.dashboard.routes import Panel
    from manyhands.gateway.aliases import AliasFile, aliases_path
    from manyhands.gateway.allowances import Allowances
    from manyhands.gateway.app import make_app
    from manyhands.gateway.catalogue import Catalogue, served_of
    from manyhands.gateway.door import admission
    from manyhands.gateway.gateway import Bounds, Gateway
    from manyhands.gateway.keys import KeyFile, keys_path
    from manyhands.gateway.readiness import Readiness
    from manyhands.gateway.ruled import require_known
    from manyhands.gateway.second_runs import SecondRuns
    from manyhands.gateway.serving import listening

    addresses = tuple(map(str, swarm.addresses))
    record = Running(command="up", pid=os.getpid(), model=model.asked, addresses=addresses)
    keeper: Keeper | None = None

    def why_not_ready() -> str:
        return keeper.why_not_ready if keeper else "starting"

    catalogue = Catalogue(served_of([model]), file=AliasFile(aliases_path(home)))
    require_known(policy, catalogue)
    bounds = Bounds(drain_s=DRAIN_S, policy=policy)
    gateway = Gateway(catalogue, bounds, Allowances(spending), SecondRuns(home))
    admit = admission(KeyFile(keys_path(home)))
    panel = Panel(books=HomeBooks(home.root), nodes=lambda: nodes_of(swarm))
    app = make_app(gateway, Readiness(gateway, why_not_ready), admit, panel, tracer=tracer)
    with interruptible():
        async with listening(app, HOST, port) as bound:
            say(f"starting {len(swarm.nodes)} nodes; health on http://{HOST}:{bound}/health/ready")
            running = open_client(home, swarm.addresses, Channel.DEV)  # whatever the nodes serve
            async with (
                waiting_told(swarm.nodes),
                swarm.running(say_ready),
                running as client,
                gateway.serving(client),
                panel.watch.watching(client),
            ):
                with recorded(home, replace(record, url=f"http://{HOST}:{bound}")):
                    keeper = Keeper(swarm, client, model)
                    await keeper.run(lambda: _announce(swarm, model, replicas, bound))


def _announce(swarm: LocalSwarm, model: Model, replicas: int, port: int) -> None:
    ready = {
        "event": "ready",
        "url": f"http://{HOST}:{port}",
        "addresses": [str(address) for address in swarm.addresses],
        "model": model.asked,
        "spans": [[node.span.start, node.span.stop] for node in swarm.nodes],
        "replicas": replicas,
    }
    click.echo(json.dumps(ready))
    say(
        f"ready: open {ready['url']} in a browser; the API is at {ready['url']}/v1; "
        f"in another terminal, manyhands chat {model.asked}"
    )
