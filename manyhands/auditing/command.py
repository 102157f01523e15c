"""`manyhands ledger audit run`: ask as users ask, and look at what every hop did for it.

In: a model, an address of its swarm. Out: what was found of each hop, as lines or one JSON object;
it is kept in the home, where routing and `ledger audit list` read it.
"""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.findings_cli import audit as audits
from ledger.findings_view import finding_view, look_view
from manyhands.auditing.canaries import Canary, draw, read_prompts
from manyhands.home import Home
from manyhands.loops import run as run_loop
from manyhands.options import (
    PeerType,
    accept_licence_option,
    channel_option,
    home_option,
    join_option,
    json_option,
    tunnels_option,
    wait_option,
)
from manyhands.progress import say
from protocol.address import Address
from protocol.errors import ManyhandsError, NoSuchModel, UsageError
from protocol.identity import peer_id_from_public_key, public_key_from_peer_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from manyhands.auditing.auditor import Audit
    from manyhands.auditing.desk import Desk
    from manyhands.models import Model
    from scheduler.client import Client

SCHEMA = "manyhands/ledger-audit-run/v1"
TRUST_SCHEMA = "manyhands/ledger-audit-trust/v1"


@audits.command("run")
@click.argument("model", metavar="MODEL")
@join_option
@click.option("--canaries", default=4, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--prompts", type=click.Path(dir_okay=False, path_type=Path), help="One per line.")
@click.option("--peer", "peers", multiple=True, metavar="PEER", help="Who must serve; it is told.")
@click.option(
    "--reference",
    "references",
    type=click.Choice(["auto", "own", "peers"]),
    default="auto",
    show_default=True,
    help="Who runs it again: this machine, other peers, or both.",
)
@click.option("--rate", type=click.FloatRange(0, 100), default=100.0, metavar="PERCENT")
@click.option(
    "--thresholds", type=click.Path(dir_okay=False, path_type=Path), help="Of `ledger calibrate`."
)
@click.option("--timeout", "timeout_s", type=float, default=600.0, metavar="S", help="Per canary.")
@wait_option
@tunnels_option
@channel_option
@accept_licence_option
@home_option
@json_option
def run(
    model: str,
    join: tuple[Address, ...],
    home: Path | None,
    canaries: int,
    prompts: Path | None,
    references: str,
    rate: float,
    thresholds: Path | None,
    tunnels: bool,
    channel: str,
    accept_licence: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    """Ask MODEL's swarm some questions, and run again what its hops committed to.

    Each hop's fingerprints are compared with what its blocks give elsewhere: on this machine, where
    the weights are here, and at other peers. Two opinions that find it wrong make a fault.
    """
    from manyhands.asking import open_client
    from manyhands.governing.gate import terms_for
    from manyhands.models import find_model
    from manyhands.running import join_addresses

    place = Home.at(home)
    try:
        found = find_model(model)
    except NoSuchModel as error:
        raise UsageError(
            f"{error}: to audit a model, its embedding has to be here",
            hint="name a directory that has it",
        ) from error
    drawn = [draw(read_prompts(prompts) if prompts else ()) for _ in range(canaries)]
    terms = terms_for(place, found.manifest, accepts=accept_licence)
    opening = partial(
        open_client, place, join_addresses(place, join), channel, terms, tunnels=tunnels
    )
    choices = {"references": references, "thresholds": thresholds, "say": say}
    rate_ppm = round(rate * 10_000)
    done = run_loop(_run(opening, place, found, drawn, choices | {"rate_ppm": rate_ppm}, asked))
    view = _view(done)
    click.echo(json.dumps(view)) if as_json else _show(view)


@audits.command("trust")
@click.argument("auditors", type=PeerType(), nargs=-1, metavar="[PEER]...")
@click.option("--remove", is_flag=True, help="Trust these no longer.")
@home_option
@json_option
def trust(auditors: tuple[str, ...], remove: bool, home: Path | None, as_json: bool) -> None:
    """Name PEERs whose word that work was wrong is enough in this home; without any: who is named.

    Clients that run follow within seconds, a node when it is started again. A home trusts its own
    keys anyway.
    """
    from ledger.auditors import name_auditors, read_auditors

    root = Home.at(home).root
    known, told = read_auditors(root), set(map(public_key_from_peer_id, auditors))
    if remove and not (told and known.issuperset(told)):
        raise UsageError("not all of these are named here", hint="manyhands ledger audit trust")
    named = known - told if remove else known | told
    if named != known:
        name_auditors(root, named)
    peers = sorted(map(peer_id_from_public_key, named))
    if as_json:
        click.echo(json.dumps({"schema": TRUST_SCHEMA, "home": str(root), "auditors": peers}))
    else:
        click.echo("\n".join(peers) or "this home trusts its own keys alone")


async def _run(
    opening: "Callable[[], AbstractAsyncContextManager[Client]]",
    home: Home,
    model: "Model",
    canaries: list[Canary],
    choices: dict[str, Any],
    asked: dict[str, Any],
) -> "list[Audit]":
    from ledger.findings import Findings
    from manyhands.auditing.desk import Desk, summary

    done: list[Audit] = []
    async with opening() as client:
        with Findings.open(home.client, client.swarm_id) as findings:
            desk = Desk(client, model, findings, calibrations=home.calibrations, **choices)
            await client.directory()
            if heard := await client.exchange_faults(findings):
                say(f"{heard} faults heard of from peers: manyhands ledger dispute list")
            for number, canary in enumerate(canaries, 1):
                try:
                    audit = await _ask(client, desk, model, canary, **asked)
                except ManyhandsError as error:
                    if number == len(canaries) and not done:
                        raise
                    say(f"canary {number} of {len(canaries)}: {error}")
                    continue
                done.append(audit)
                say(f"canary {number} of {len(canaries)}: {summary(audit)}")
                for note in audit.notes:
                    say(f"  {note}")
    return done


async def _ask(
    client: "Client",
    desk: "Desk",
    model: "Model",
    canary: Canary,
    *,
    peers: tuple[str, ...],
    timeout_s: float,
    wait_s: float | None,
) -> "Audit":
    from manyhands.asking import Ask
    from protocol.text import Tokenizer
    from scheduler.request import Finished

    tokenizer = Tokenizer.from_directory(model.directory)
    ask = Ask(
        max_tokens=canary.max_tokens,
        temperature=canary.temperature,
        require=peers,
        timeout_s=timeout_s,
        wait_s=wait_s,
    )
    request = ask.request(model, tokenizer.encode(canary.prompt), tokenizer)
    result = None
    generation = client.generate(request)
    async with generation:
        async for event in generation:
            if isinstance(event, Finished):
                result = event.result
    assert result is not None, "a generation ends with a result or an error"
    return await desk.look(request, generation, result)


def _view(done: "list[Audit]") -> dict[str, Any]:
    from ledger.judging import Finding

    faults = [
        finding_view(Finding(fault.kind, fault.accused, what="two opinions found its work wrong"))
        for audit in done
        for fault in audit.faults
    ]
    return {
        "schema": SCHEMA,
        "canaries": len(done),
        "looks": [look_view(look) for audit in done for look in audit.looks],
        "notes": [note for audit in done for note in audit.notes],
        "faults": faults,
    }


def _show(view: dict[str, Any]) -> None:
    from ledger.findings_render import looks

    looks(view)
    for fault in view["faults"]:
        click.echo(f"{fault['peer']}: {fault['what']}")
    if view["faults"]:
        click.echo("see the evidence: manyhands ledger dispute list")
