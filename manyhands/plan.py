"""`manyhands plan`: what a span would take of this machine, before it is fetched or loaded.

In: a model, a span, how its weights are to be kept. Out: a few lines or one JSON object; code 7
when it does not fit, with the span that would. Of a model on the hub only headers are read.
"""

import json
from pathlib import Path

import click

from manyhands.devices import choose_device, look
from manyhands.home import Home
from manyhands.licences import require_accepted
from manyhands.loops import run
from manyhands.manners import memory_options, share_of
from manyhands.models import HubAway, Model, NotHere, find_model
from manyhands.options import SizeType, SpanType, home_option, join_option, json_option
from manyhands.party import open_party
from manyhands.progress import say, shown
from manyhands.signals import ending_at_once
from manyhands.thin import from_swarm
from node.share import Share
from protocol.address import Address
from protocol.errors import LicenceNotAccepted
from protocol.messages import Span


@click.command(short_help="What a span would take of this machine.")
@click.argument("model", metavar="MODEL")
@click.option("--span", type=SpanType(), default="auto", help="Blocks. Default: all.")
@join_option
@home_option
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"
)
@click.option("--quantize", type=click.Choice(["none", "int8", "4bit"]), default="none")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--kv-cache", type=SizeType(), default="1GiB", help="For sessions. Default: 1GiB.")
@memory_options
@json_option
def plan(
    model: str,
    span: Span | None,
    join: tuple[Address, ...],
    home: Path | None,
    dtype: str,
    quantize: str,
    device: str,
    kv_cache: int,
    max_vram: Share | None,
    max_memory: Share | None,
    as_json: bool,
) -> None:
    """Say what serving a span of MODEL would take: memory, disk, and how many tokens of context.

    Nothing large is fetched or loaded. Ends with code 7 when it does not fit.
    """
    place = Home.at(home)
    with ending_at_once():
        found = _find(model, place, join)
        from manyhands.planning import forecast

        chosen = choose_device(device, look()).device
        told, _ = forecast(
            found,
            span or Span(0, found.manifest.n_blocks),
            dtype=dtype,
            device=chosen,
            quantize=quantize,
            kv_cache_bytes=kv_cache,
            share=share_of(chosen, max_vram=max_vram, max_memory=max_memory),
        )
    if as_json:
        click.echo(json.dumps(told.to_json()))
    else:
        try:
            require_accepted(place, found.manifest, accepts=False)
        except LicenceNotAccepted as error:
            say(f"note: {error}; {error.hint}")
        for line in told.lines():
            click.echo(line)
    told.require()


def _find(text: str, home: Home, join: tuple[Address, ...]) -> Model:
    try:
        with shown(text) as progress:
            return find_model(text, progress=progress)
    except (NotHere, HubAway):
        if not join:
            raise
    return run(from_swarm(text, open_party(home, "client"), join))[0]
