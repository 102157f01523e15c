"""`manyhands serve`: lend this machine to a swarm.

In: a model, a span, where to listen and whom to join. Out: one JSON line on stdout once the span
is loaded and the port is open; then a node until a signal, which drains it. What a node does is
`node.node`'s; this file brings together what it needs: a home, books, a model, a loaded span.
"""

import asyncio
import json
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from manyhands import __version__, machine
from manyhands.arriving import arriving
from manyhands.belonging import check_discovery, joining, place_in_swarm
from manyhands.crediting.opened import Credit, open_credit
from manyhands.crediting.settling import open_settling
from manyhands.drafter import load_drafter
from manyhands.headings import headed
from manyhands.home import Home, open_books
from manyhands.loading import describe, load
from manyhands.loads import Loads
from manyhands.loops import run
from manyhands.manners import manners_options, wishes_of
from manyhands.money_options import money_options
from manyhands.options import (
    AdapterType,
    AddressType,
    EndpointType,
    PageType,
    SizeType,
    SpanType,
    accept_licence_option,
    auditors_option,
    home_option,
    join_option,
    trusted_key_option,
)
from manyhands.party import Party, open_party
from manyhands.ports import USUAL_PORT, check_port, usual_or_any_port
from manyhands.preparing import Prepared, Wanted, find_served, prepare
from manyhands.progress import say
from manyhands.running import Running, recorded
from manyhands.serve_settings import (
    about_of,
    check_sessions_and_adapters,
    check_words,
    settings_of,
)
from manyhands.signals import ending_at_once, interruptible
from manyhands.tracing import tracing
from manyhands.way_options import ways_options
from manyhands.whereabouts import check_mapping, ready_fields, ways_of
from protocol.address import Address
from protocol.membership.roles import Role
from protocol.transport.greeting import MODEL_DRAFTS

if TYPE_CHECKING:
    from ledger.writer import LedgerWriter
    from node.draft_model import DraftModel
    from node.engine import ShardEngine
    from protocol.tracing import Tracer


HEADINGS = {
    "What to serve": (
        *("span", "max_blocks", "adapters", "draft_model", "name", "wire", "pack"),
        *("trusted_keys", "accept_licence", "share_weights"),
    ),
    "Where": (
        "join",
        "swarm",
        "home",
        "page",
        "bootstrap",
        "libp2p",
        "lan",
        "region",
        "group",
        "ledger",
    ),
    "Being reached": ("listen", "announce", "map_port", "via", "relay", "relay_limit"),
    "Manners": ("hours", "on_battery", "when_idle_min", "max_bandwidth", "nice", "drain"),
    "Memory and device": (
        *("device", "require_gpu", "threads", "dtype", "quantize"),
        *("kv_cache", "max_memory", "max_vram"),
    ),
    "Money": (
        *("price_per_mtl", "prepaid"),
        *("payment_threshold", "disconnect_threshold", "newcomer_allowance"),
        *("no_quarantine", "auditors"),
    ),
}


@click.command(cls=headed(HEADINGS), short_help="Lend this machine: serve a span of a model.")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--span",
    type=SpanType(),
    default="auto",
    help="Blocks to serve: A:B, or auto: those that the swarm misses most, now and later.",
)
@click.option(
    "--max-blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --span auto: serve no more blocks than this. Default: what memory holds.",
)
@join_option
@click.option(
    "--listen",
    type=EndpointType(),
    help=f"Where to listen. Default: 0.0.0.0:{USUAL_PORT}, or any port when that one is taken.",
)
@ways_options
@click.option(
    "--libp2p",
    type=EndpointType(),
    help="Also be found over libp2p, listening there. Default: not, unless --bootstrap is given.",
)
@click.option(
    "--bootstrap",
    type=AddressType(),
    multiple=True,
    help="A libp2p address to find the swarm by, as a node's ready line has it. Repeat for more.",
)
@click.option(
    "--page",
    type=PageType(),
    default="auto",
    help="A page about this node, for this machine alone: a port, auto, which takes the first free "
    "one from 8401 on, or off. Default: auto.",
)
@click.option("--lan", is_flag=True, help="Find peers on this local network, and be found there.")
@home_option
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    help="What to compute in. Default: as stored, float16 as bfloat16.",
)
@click.option(
    "--quantize",
    type=click.Choice(["none", "int8", "4bit"]),
    default="none",
    help="Make the blocks' weights small: a half or a quarter. Default: none.",
)
@click.option(
    "--wire",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8-64"]),
    default="auto",
    help="What hidden states travel as. Default: what they are computed in, which rounds nothing.",
)
@click.option(
    "--pack",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Pack large frames without loss. Default: for peers across the internet.",
)
@click.option(
    "--device",
    default="auto",
    help="auto, cpu, mps, cuda, cuda:N, or several GPUs: cuda:0,cuda:1.",
)
@click.option("--require-gpu", is_flag=True, help="Rather fail than compute on the CPU.")
@click.option(
    "--kv-cache",
    type=SizeType(),
    default="1GiB",
    help="Memory for the caches of all sessions. Default: 1GiB.",
)
@click.option(
    "--adapter",
    "adapters",
    type=AdapterType(),
    multiple=True,
    help="Also serve this LoRA adapter of the model, as MODEL:NAME. Repeat for more.",
)
@click.option(
    "--draft-model",
    default="",
    metavar="PATH|NAME",
    help="A small model with the same tokenizer, which guesses ahead for answers that end here.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Default: half the cores.")
@click.option("--name", default="", help="What to call the model in front of people.")
@click.option("--region", default="", help="Where this machine is, for those who care.")
@click.option("--group", default="", help="Serve only clients that ask for this group by name.")
@click.option(
    "--ledger",
    default="",
    envvar="MANYHANDS_LEDGER",
    metavar="URL",
    help="Keep a new node's ledger at postgresql://USER@HOST/DATABASE, not in a file of the home.",
)
@money_options
@auditors_option
@click.option("--no-quarantine", is_flag=True, help="Also hear peers that are proven at fault.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="S",
    help="How long SIGTERM lets open sessions go on. Default: 30.",
)
@manners_options
@accept_licence_option
@trusted_key_option
@click.option(
    "--share-weights/--no-share-weights",
    default=True,
    help="Whether other nodes may fetch this span's weights from here. Default: they may.",
)
@click.option("--parent", type=int, hidden=True)  # of a local swarm: end when it ends
@click.option("--gently", is_flag=True, hidden=True)  # others answer on this machine: load slowly
def serve(**given: object) -> None:
    """Serve a span of MODEL to a swarm until Ctrl-C; of several models, of the one that needs it
    most, now and later.

    When ready, prints one line of JSON: {"event": "ready", "peer", "addresses", "model", "span",
    "adapters", "page", "reach"}.
    """
    wanted = Wanted(**given)  # type: ignore[arg-type]
    check_words(wanted)
    if wanted.parent is not None:
        machine.belong_to(wanted.parent)
    machine.give_way(wanted.nice)
    machine.set_threads(wanted.threads)
    machine.raise_file_limit()
    home, loads = Home.at(wanted.home), Loads()
    check_port(wanted.listen)
    check_port(wanted.relay)
    check_mapping(wanted)
    check_sessions_and_adapters(wanted)
    wishes_of(wanted)
    with home.sole_node():
        party = open_party(home, "node")
        party.require(Role.PROVIDE)
        if wanted.relay is not None:
            party.require(Role.RELAY)
        check_discovery(wanted, party)
        wanted = joining(wanted, home)
        with (
            open_books(home.node, party.identity, party.swarm_id, wanted.ledger) as books,
            open_credit(home, party) as credit,
        ):
            with ending_at_once():
                if wanted.gently:
                    machine.gently(_import_engine)
                known = replace(wanted, join=(*wanted.join, *_found(wanted, party)))
            listen = wanted.listen or ("0.0.0.0", usual_or_any_port())
            wanted = replace(wanted, listen=listen)
            with arriving(party, known.join, listen) as arrival:
                with ending_at_once():
                    models = find_served(known, home, party)
                    # Before spans are chosen: what it takes is no longer free then.
                    draft_model = load_drafter(known, models[0], home, party, loads)
                    prepared = prepare(known, models, party, arrival)
                model, span, device = prepared.model, prepared.span, prepared.device
                loads.bring(model, prepared.tensors, party=party, join=known.join)
                began_s = time.monotonic()
                with ending_at_once(), loads.timed(model):
                    engine = load(wanted, model, span, device, gently=wanted.gently)
                away_s = time.monotonic() - began_s + wanted.drain
            placing = replace(prepared.placing, reload_s=away_s)
            prepared = replace(prepared, placing=placing)
            with tracing("manyhands-node") as tracer:
                parts = prepared, engine, draft_model
                run(_serve(wanted, home, party, books, credit, *parts, loads, tracer))


def _found(wanted: Wanted, party: Party) -> tuple[Address, ...]:
    """Peers to ask before the node runs, of whom the command line says only how to find them."""
    if party.membership is not None and wanted.lan:
        from manyhands.nearby import look_nearby

        return run(look_nearby(party.swarm_id, wanted.listen[0] if wanted.listen else "0.0.0.0"))
    if not wanted.bootstrap:
        return ()
    from manyhands.discovering import find_peers

    return run(find_peers(party.swarm_id, wanted.bootstrap))


def _import_engine() -> None:
    """The longest part of a small model's start: torch and transformers."""
    import node.engine.selftest  # noqa: F401  (for all that it imports; `node.engine` is lazy)


async def _serve(
    wanted: Wanted,
    home: Home,
    party: Party,
    books: "LedgerWriter",
    credit: Credit,
    prepared: Prepared,
    engine: "ShardEngine",
    draft_model: "DraftModel | None",
    loads: Loads,
    tracer: "Tracer | None",
) -> None:
    from manyhands.dashboard.beside import page_beside
    from manyhands.discovering import make_plane
    from manyhands.moving import Elsewhere
    from manyhands.nearby import found_nearby
    from node.node import Node

    features = [MODEL_DRAFTS] if draft_model else []
    transport, is_open = party.transport(*features), party.membership is None
    plane = make_plane(
        party.identity,
        party.swarm_id,
        wanted.libp2p,
        wanted.bootstrap,
        lan=wanted.lan and is_open,
        relays=wanted.relay is not None,
    )
    transport.tunnelling = plane.tunnelling if plane else None
    model, moves = prepared.model, wanted.span is None
    if draft_model and engine.span.stop < engine.n_blocks:
        say(
            f"no answers end at blocks {engine.span}: nothing is guessed here until this node moves"
        )
    capacity = prepared.placing.of(model.manifest.digest).capacity_blocks if moves else 0
    node = Node(
        party.identity,
        party.swarm_id,
        transport,
        engine,
        describe(wanted, model, engine, capacity_blocks=capacity),
        books,
        settings_of(wanted, home, prepared.device, tracer, draft_model),
        _software(),
        elsewhere=Elsewhere(wanted, party, prepared, loads) if moves else None,
        plane=plane,
        place=place_in_swarm(home, party, transport),
        ways=ways_of(wanted),
        escrow=credit.escrow,
        witness=credit.witness,
        settling=open_settling(home, party, credit, books, transport, lambda: node.announcements()),
    )
    stop = asyncio.Event()
    about = about_of(wanted, prepared, loads, home)
    with interruptible(stop.set):
        async with (
            node.running(),
            found_nearby(node, is_wanted=wanted.lan and not is_open),
            page_beside(node, transport, home, wanted.page, about) as page,
        ):
            reach = await ready_fields(node)
            addresses = tuple(map(str, node.addresses))
            name, span = wanted.name or model.name, engine.span
            names = wanted.name or prepared.names
            problem = node.discovery.plane.problem if node.discovery else ""
            record = Running(
                command="serve",
                pid=os.getpid(),
                model=names,
                addresses=addresses,
                signature=model.signature,
                without=(f"no discovery over libp2p: {problem}",) if problem else (),
                page=page,
            )
            with recorded(home, record):
                ready = {
                    "event": "ready",
                    "peer": party.peer_id,
                    "addresses": addresses,
                    "model": name,
                    "span": [span.start, span.stop],
                    "adapters": engine.adapters.names,
                    "page": page or None,
                    **reach,
                }
                if node.discovery is not None:
                    ready["libp2p"] = [str(each) for each in node.discovery.plane.addresses]
                click.echo(json.dumps(ready))
                say(f"serving blocks {span} of {name}; Ctrl-C to leave")
                if page:
                    say(f"how this node is, and pausing it: {page}")
                await stop.wait()
            say("leaving: open sessions may finish; Ctrl-C again to end now")


def _software() -> str:
    """What computes here: announced, and named in every receipt."""
    import torch
    import transformers

    versions = (__version__, torch.__version__, transformers.__version__)
    return "manyhands/{} torch/{} transformers/{}".format(*versions)
