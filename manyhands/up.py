"""`manyhands up`: a swarm on this machine, kept whole until Ctrl-C.

In: how many nodes, a model, a port. Out: processes that are started again when they end, a health
page that says whether the swarm can answer now, and a record by which `generate`, `chat` and
`status` find it without `--join`.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhands.asking import Ask, open_client
from manyhands.fetching import bring_weights
from manyhands.generate import stream
from manyhands.health import HOST, health_server
from manyhands.home import Home, open_identity
from manyhands.licences import require_accepted
from manyhands.local import LocalNode, LocalSwarm, even_split
from manyhands.loops import run
from manyhands.models import TINY, Model, find_model
from manyhands.options import accept_licence_option, home_option
from manyhands.progress import say, shown
from manyhands.running import Running, recorded
from manyhands.signals import interruptible
from protocol.errors import ManyhandsError

if TYPE_CHECKING:
    from scheduler.client import Client

DEFAULT_PORT = 8400
LOOK_S = 0.5
BACKOFF_S = (0.5, 15.0)  # between starts of a node that keeps ending


@click.command(short_help="Run a local swarm until Ctrl-C.")
@click.option("--nodes", type=click.IntRange(min=1), default=3, help="Default: 3.")
@click.option("--model", default=TINY, metavar="MODEL", help="Default: tiny.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    help=f"Of the health page, on loopback. Default: {DEFAULT_PORT}.",
)
@accept_licence_option
@home_option
def up(nodes: int, model: str, port: int, accept_licence: bool, home: Path | None) -> None:
    """Run a swarm of local processes until Ctrl-C.

    Prints one line of JSON when the swarm can answer: {"event": "ready", "url", "addresses",
    "model", "spans"}. GET /health/ready answers 200 from then on, and 503 while a node is missing.
    """
    place = Home.at(home)
    with shown(model) as progress:
        found = find_model(model, progress=progress)
    require_accepted(place, found.manifest, accepts=accept_licence)
    bring_weights(found, found.manifest.tensors, identity=open_identity(place.client))
    spans = even_split(found.manifest.n_blocks, nodes)
    swarm = LocalSwarm(model, spans, place.root / "swarm")
    run(_up(place, found, swarm, port))


class Readiness:
    """Whether the swarm can generate now, as last tried."""

    def __init__(self) -> None:
        self.reason = "starting"

    def __call__(self) -> str:
        return self.reason


async def _up(home: Home, model: Model, swarm: LocalSwarm, port: int) -> None:
    readiness = Readiness()
    addresses = tuple(map(str, swarm.addresses))
    record = Running(command="up", pid=os.getpid(), model=model.asked, addresses=addresses)
    with interruptible():
        async with health_server(port, readiness) as bound:
            say(f"starting {len(swarm.nodes)} nodes; health on http://{HOST}:{bound}/health/ready")
            async with swarm.running(_say_ready), open_client(home, swarm.addresses) as client:
                with recorded(home, record):
                    await _keep_whole(swarm, client, model, readiness, bound)


async def _keep_whole(
    swarm: LocalSwarm, client: "Client", model: Model, readiness: Readiness, port: int
) -> None:
    async with asyncio.TaskGroup() as tasks:
        for node in swarm.nodes:
            tasks.create_task(_keep_alive(swarm, node))
        announced = False
        while True:
            readiness.reason = await _why_not(swarm, client, model, readiness.reason)
            if not readiness.reason and not announced:
                announced = True
                _announce(swarm, model, port)
            await asyncio.sleep(LOOK_S)


async def _why_not(swarm: LocalSwarm, client: "Client", model: Model, before: str) -> str:
    """What keeps the swarm from answering; a token is drawn whenever something has changed."""
    missing = [str(node.index + 1) for node in swarm.nodes if not (node.is_ready and node.is_alive)]
    if missing:
        return f"node {', '.join(missing)} of {len(swarm.nodes)} is not up"
    if not before:
        return ""
    ask = Ask(max_tokens=1, temperature=0.0, seed=0, timeout_s=10.0)
    try:
        await stream(client, ask.request(model, [0], None), lambda event: None)
    except ManyhandsError as error:
        return str(error)
    return ""


async def _keep_alive(swarm: LocalSwarm, node: LocalNode) -> None:
    wait_s = BACKOFF_S[0]
    while True:
        status = await node.ended()
        say(f"node {node.index + 1} ended with status {status}; starting it again")
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, BACKOFF_S[1])
        try:
            await swarm.start(node, _say_ready)
            wait_s = BACKOFF_S[0]
        except ManyhandsError as error:
            say(f"warning: {error}")


def _say_ready(node: LocalNode) -> None:
    say(
        f"node {node.index + 1} serves blocks {node.span} as {node.address.peer_id}, "
        f"ready in {node.ready_s:.1f} s"
    )


def _announce(swarm: LocalSwarm, model: Model, port: int) -> None:
    ready = {
        "event": "ready",
        "url": f"http://{HOST}:{port}",
        "addresses": [str(address) for address in swarm.addresses],
        "model": model.asked,
        "spans": [[node.span.start, node.span.stop] for node in swarm.nodes],
    }
    click.echo(json.dumps(ready))
    say(f"ready: in another terminal, try  manyhands chat {model.asked}")
