"""`manyhands serve`: lend this machine to a swarm.

In: a model, a span, where to listen and whom to join. Out: one JSON line on stdout once the span
is loaded and the port is open; then a node until a signal, which drains it. What a node does is
`node.node`'s; this file brings together what it needs: a home, books, a model, a loaded span.
"""

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from manyhands import __version__, machine
from manyhands.devices import choose_device, look
from manyhands.home import Home, open_books, open_identity
from manyhands.loops import run
from manyhands.models import Model, find_model
from manyhands.options import (
    AdapterType,
    EndpointType,
    SizeType,
    SpanType,
    home_option,
    join_option,
)
from manyhands.progress import say, shown
from manyhands.running import Running, recorded
from manyhands.signals import ending_at_once, interruptible
from protocol.address import Address
from protocol.errors import PeerError, UsageError
from protocol.identity import Identity
from protocol.messages import Span
from protocol.signing import OPEN_SWARM_ID
from protocol.transport.reach import why_not_listening

if TYPE_CHECKING:
    from ledger.meter import Rates
    from ledger.writer import LedgerWriter
    from node.engine import ShardEngine
    from node.node import Model as NodeModel
    from node.settings import NodeSettings
    from protocol.announcements import Announcement

USUAL_PORT = 31400
JOIN_WAIT_S = 5.0
MAX_TEXT_CHARS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The command line, read."""

    model: str
    span: Span | None  # None: what the swarm misses most
    join: tuple[Address, ...]
    listen: tuple[str, int] | None
    home: Path | None
    dtype: str
    quantize: str
    wire: str
    pack: str
    device: str
    require_gpu: bool
    kv_cache: int
    adapters: tuple[tuple[str, Path], ...]
    threads: int | None
    name: str
    region: str
    price_per_mtl: int
    drain: float
    parent: int | None


@click.command(short_help="Lend this machine: serve a span of a model.")
@click.argument("model", metavar="MODEL")
@click.option("--span", type=SpanType(), default="auto", help="Blocks to serve. Default: auto.")
@join_option
@click.option(
    "--listen",
    type=EndpointType(),
    help=f"Where to listen. Default: 0.0.0.0:{USUAL_PORT}, or any port when that one is taken.",
)
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
@click.option("--threads", type=click.IntRange(min=1), help="Default: half the cores.")
@click.option("--name", default="", help="What to call the model in front of people.")
@click.option("--region", default="", help="Where this machine is, for those who care.")
@click.option(
    "--price-per-mtl",
    type=click.IntRange(min=0),
    default=0,
    metavar="NCR",
    help="Nanocredits per million tokens through one block. Default: free.",
)
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=30.0,
    metavar="S",
    help="How long SIGTERM lets open sessions go on. Default: 30.",
)
@click.option("--parent", type=int, hidden=True)  # of a local swarm: end when it ends
def serve(**given: object) -> None:
    """Serve a span of MODEL to a swarm until Ctrl-C.

    When ready, prints one line of JSON: {"event": "ready", "peer", "addresses", "model", "span"}.
    """
    wanted = Wanted(**given)  # type: ignore[arg-type]
    for text in (wanted.name, wanted.region):
        if len(text) > MAX_TEXT_CHARS or not text.isprintable():
            raise UsageError(
                f"not a name that others can print: {text[:40]!r}",
                hint=f"--name and --region take up to {MAX_TEXT_CHARS} printable characters",
            )
    if wanted.parent is not None:
        machine.die_with(wanted.parent)
    machine.set_threads(wanted.threads)
    home = Home.at(wanted.home)
    _check_port(wanted.listen)
    with home.sole_node():
        identity = open_identity(home.node)
        with open_books(home.node, identity, OPEN_SWARM_ID) as books:
            with ending_at_once():
                model, engine = _load(wanted, identity)
            run(_serve(wanted, home, identity, books, model, engine))


def _load(wanted: Wanted, identity: Identity) -> tuple[Model, "ShardEngine"]:
    with shown(wanted.model) as progress:
        model = find_model(wanted.model, progress=progress)
    _check_span(wanted.span, model)
    say(f"starting torch, {os.environ['OMP_NUM_THREADS']} thread(s)")
    from node.engine import load_shard

    device = _choose_device(wanted)
    span = wanted.span or _choose_span(wanted, model, identity, device)
    with shown(f"{model.name} {span}") as progress:
        engine = load_shard(
            model.directory,
            span,
            dtype=wanted.dtype,
            device=device,
            quantize=wanted.quantize,
            cache=_span_cache(),
            kv_cache_bytes=wanted.kv_cache,
            progress=progress,
        )
    say(f"{engine.weights_bytes / 2**20:,.0f} MiB of weights, run as {engine.profile}")
    for name, directory in wanted.adapters:
        say(f"adapter {engine.adapters.load(directory, name)}")
    return model, engine


def _choose_device(wanted: Wanted) -> str:
    choice = choose_device(wanted.device, look(), require_gpu=wanted.require_gpu)
    for line in choice.told:
        say(line)
    return choice.device


def _span_cache() -> Path:
    """Where quantized spans are kept: they can be made again, so it is a cache."""
    import platformdirs

    return platformdirs.user_cache_path("manyhands") / "spans"


def _check_span(span: Span | None, model: Model) -> None:
    n_blocks = model.manifest.n_blocks
    if span is not None and span.stop > n_blocks:
        raise UsageError(
            f"span {span} lies outside {model.name}, which has blocks 0:{n_blocks}",
            hint=f"choose a span within 0:{n_blocks}, or --span auto",
        )


def _choose_span(wanted: Wanted, model: Model, identity: Identity, device: str) -> Span:
    """What the swarm misses most, as far as it can be asked, and as much as memory allows."""
    from scheduler.placement import choose_span

    manifest = model.manifest
    capacity = machine.capacity_blocks(
        model.directory,
        dtype=wanted.dtype,
        device=device,
        quantize=wanted.quantize,
        kv_cache_bytes=wanted.kv_cache,
    )
    announcements = run(_announcements(identity, wanted.join)) if wanted.join else ()
    return choose_span(
        announcements,
        manifest=manifest.digest,
        n_blocks=manifest.n_blocks,
        capacity_blocks=capacity,
        peer_id=identity.peer_id,
    )


async def _announcements(identity: Identity, join: Sequence[Address]) -> "tuple[Announcement, ...]":
    from protocol.announcement_table import AnnouncementTable
    from protocol.transport.grpc import GrpcTransport
    from scheduler.directory import Directory, fetch_directory

    directory = Directory(AnnouncementTable(OPEN_SWARM_ID))
    with interruptible():
        try:
            await fetch_directory(
                GrpcTransport(identity, OPEN_SWARM_ID), join, directory, timeout_s=JOIN_WAIT_S
            )
        except PeerError as error:
            say(f"warning: choosing a span without knowing the swarm: {error}")
    return directory.live()


async def _serve(
    wanted: Wanted,
    home: Home,
    identity: Identity,
    books: "LedgerWriter",
    model: Model,
    engine: "ShardEngine",
) -> None:
    from node.node import Node
    from protocol.transport.grpc import GrpcTransport

    node = Node(
        identity,
        OPEN_SWARM_ID,
        GrpcTransport(identity, OPEN_SWARM_ID),
        engine,
        _served(wanted, model, engine),
        books,
        _settings(wanted, home),
        _software(),
    )
    stop = asyncio.Event()
    with interruptible(stop.set):
        async with node.running():
            addresses = tuple(map(str, node.addresses))
            name, span = wanted.name or model.name, engine.span
            record = Running(command="serve", pid=os.getpid(), model=name, addresses=addresses)
            with recorded(home, record):
                ready = {
                    "event": "ready",
                    "peer": identity.peer_id,
                    "addresses": addresses,
                    "model": name,
                    "span": [span.start, span.stop],
                    "adapters": engine.adapters.names,
                }
                click.echo(json.dumps(ready))
                say(f"serving blocks {span} of {name}; Ctrl-C to leave")
                await stop.wait()
            say("leaving: open sessions may finish; Ctrl-C again to end now")


def _software() -> str:
    """What computes here: announced, and named in every receipt."""
    import torch
    import transformers

    versions = (__version__, torch.__version__, transformers.__version__)
    return "manyhands/{} torch/{} transformers/{}".format(*versions)


def _served(wanted: Wanted, model: Model, engine: "ShardEngine") -> "NodeModel":
    from node.node import Model as NodeModel
    from node.throughput import measure
    from protocol.actions import Ending
    from protocol.answer import Answer
    from protocol.messages import Reserve
    from protocol.text import Tokenizer

    tokenizer = Tokenizer.from_directory(model.directory) if engine.heads else None

    def ending(request: Reserve, ids: Sequence[int], n_prompt: int) -> Ending:
        assert tokenizer is not None, "only a node that serves the head ends answers"
        return Answer(tokenizer, request, ids, n_prompt)

    decode_us, prefill_us_per_row = measure(engine)
    return NodeModel(
        name=wanted.name or model.name,
        digest=model.manifest.digest,
        files=model.small_files(),
        ending=ending,
        decode_us=decode_us,
        prefill_us_per_row=prefill_us_per_row,
    )


def _settings(wanted: Wanted, home: Home) -> "NodeSettings":
    from node.settings import NodeSettings

    host, port = wanted.listen or ("0.0.0.0", _usual_or_any_port())
    return NodeSettings(
        host=host,
        port=port,
        join=wanted.join,
        kv_cache_bytes=wanted.kv_cache,
        drain_s=wanted.drain,
        wire="" if wanted.wire == "auto" else wanted.wire,
        pack=wanted.pack,
        adapters=home.adapters,
        region=wanted.region,
        rates=_rates(wanted.price_per_mtl),
    )


def _rates(price_per_mtl: int) -> "Rates":
    from ledger.meter import Rates

    return Rates(prefill_tl=price_per_mtl, decode_tl=price_per_mtl)


def _check_port(listen: tuple[str, int] | None) -> None:
    """Find out now, before minutes of loading, whether the port can be had.

    Raises:
        ConfigError: it cannot.
    """
    if listen is not None and not _is_free(*listen):
        raise why_not_listening(*listen)


def _usual_or_any_port() -> int:
    return USUAL_PORT if _is_free("0.0.0.0", USUAL_PORT) else 0


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
            trial.listen()
        except OSError:
            return False
    return True
