"""`manyhands price suggest | set | show`: what this machine's work costs, and what it asks for it.

In: a model to try, or a node that runs; watts and the price of electricity. Out: the electricity
floor, a suggestion, and what others in the swarm ask. Prices are the owner's own affair: nothing
here is enforced, and offers are made and signed by the node.
"""

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.costing.command import AMOUNT
from manyhands.costing.floor import Power, floor_ncr, with_margin
from manyhands.costing.floor_file import Floor, write_floor
from manyhands.costing.own_price import Price, price_file, read_price, write_price
from manyhands.costing.power import find_counters
from manyhands.gateway.spending import today
from manyhands.home import Home
from manyhands.options import SpanType, home_option, join_option, json_option
from manyhands.progress import say
from protocol.address import Address
from protocol.errors import ConfigError, PeerError, UsageError
from protocol.identity import PeerId
from protocol.messages import Span

if TYPE_CHECKING:
    from manyhands.costing.speed import Speed
    from protocol.announcements import Announcement

TYPICAL_POSITIONS = 1024  # of a session, where an offer's price depends on that


@click.group(short_help="What this machine's work costs, and what it asks.")
def price() -> None:
    """What this machine's work costs in electricity, and what its node asks for it."""


@price.command()
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--kwh", type=AMOUNT, metavar="X", help="Price of a kilowatt-hour. Else: asked for.")
@click.option(
    "--watts", type=AMOUNT, metavar="W", help="Drawn by the work. Else: measured, or asked."
)
@click.option("--pue", type=AMOUNT, default="1.0", metavar="X", help="Of the building. Default: 1.")
@click.option("--margin", type=AMOUNT, default="0.2", metavar="SHARE", help="Default: 0.2.")
@click.option("--span", type=SpanType(), default="auto", help="Blocks to try. Default: all.")
@click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto"
)
@click.option("--quantize", type=click.Choice(["none", "int8", "4bit"]), default="none")
@join_option
@home_option
@json_option
def suggest(
    model: str | None,
    kwh: Decimal | None,
    watts: Decimal | None,
    pue: Decimal,
    margin: Decimal,
    span: Span | None,
    device: str,
    dtype: str,
    quantize: str,
    join: tuple[Address, ...],
    home: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine, and say what its electricity costs per million token-layers.

    With MODEL it is loaded and tried for a few seconds; without, the node that runs on this home
    is asked what it measured of its span, and --watts says what it draws. A credit is taken to be
    worth one of the money that --kwh is in.
    """
    if kwh is None:
        why = "what a kilowatt-hour costs is not known here"
        kwh = _ask("Price of a kilowatt-hour", why, hint="it is on the bill: --kwh 0.30")
    Power(watts=watts or Decimal(0), kwh=kwh, pue=pue)  # before anything is loaded
    with_margin(0, margin)
    if watts is None and (model is None or not find_counters()):
        why = (
            "nothing on this machine tells what the work draws"
            if model
            else "what a running node's work draws cannot be told apart from here"
        )
        how = "measure it at the plug, at work and at rest, and say the difference: --watts W"
        watts = _ask("Watts at the plug, at work, less those at rest", why, hint=how)
        Power(watts=watts, kwh=kwh, pue=pue)  # what was typed, too
    place = Home.at(home)
    seen = _swarm(place, join)
    if model is None:
        speed, about = _of_running(place, seen)
    else:
        speed, about = _of_model(model, span, device, dtype, quantize, with_power=watts is None)
    drawn = speed.watts if watts is None else watts
    power = Power(watts=drawn, kwh=kwh, pue=pue)
    floor = Price(floor_ncr(power, speed.prefill), floor_ncr(power, speed.decode))
    suggested = Price(with_margin(floor.prefill, margin), with_margin(floor.decode, margin))
    write_floor(place, Floor(str(about["model"]), today(), floor))
    others = _asked(place, seen, about["manifest"])
    view = {
        "schema": "manyhands/price-suggest/v1",
        **about,
        "source": speed.source,
        "sessions": speed.sessions,
        "prefill_tl_per_s": float(speed.prefill),
        "decode_tl_per_s": float(speed.decode),
        "watts": float(drawn),
        "watts_from": "--watts" if watts is not None else speed.power_from,
        "per_hour": str(power.per_hour.normalize() + 0),
        "floor": floor.to_json(),
        "suggested": suggested.to_json(),
        "asked_by_others": others,
        "against_the_cheapest": _against(others, floor, suggested),
    }
    click.echo(json.dumps(view)) if as_json else _show_suggestion(view)


def _ask(what: str, why: str, *, hint: str) -> Decimal:
    """From the person at the terminal.

    Raises:
        UsageError: there is none.
    """
    if not sys.stdin.isatty():
        raise UsageError(why, hint=hint)
    say(f"{why}; {hint}")
    answer: Decimal = click.prompt(what, type=AMOUNT, err=True)
    return answer


@price.command("set")
@click.argument("ncr", type=click.IntRange(min=0), required=False)
@click.option("--prefill", type=click.IntRange(min=0), metavar="NCR", help="For prompts.")
@click.option("--decode", type=click.IntRange(min=0), metavar="NCR", help="For answers.")
@click.option("--forget", is_flag=True, help="Ask nothing again, unless `serve` is told a price.")
@home_option
@json_option
def set_price(
    ncr: int | None,
    prefill: int | None,
    decode: int | None,
    forget: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Ask NCR nanocredits for a million tokens through one block, from the next `serve` on.

    What `serve --price-per-mtl` says comes before it; a node that runs goes on with its price.
    """
    given = [value for value in (ncr, prefill, decode) if value is not None]
    if forget == bool(given) or (ncr is not None and len(given) > 1):
        raise UsageError("a price: NCR, or --prefill and --decode, or --forget")
    if ncr is None and len(given) == 1:
        raise UsageError("--prefill and --decode go together", hint="or one NCR for both")
    place = Home.at(home)
    try:
        wanted = None if forget else Price(prefill or ncr or 0, decode or ncr or 0)
    except ValueError as error:
        raise UsageError(str(error)) from error
    write_price(place, wanted)
    _say_price(place, wanted, as_json)


@price.command()
@home_option
@json_option
def show(home: Path | None, as_json: bool) -> None:
    """What `serve` on this home asks when it is told no price."""
    place = Home.at(home)
    _say_price(place, read_price(place), as_json)


def _say_price(home: Home, wanted: Price | None, as_json: bool) -> None:
    view = {
        "schema": "manyhands/price/v1",
        "file": str(price_file(home)),
        "set": wanted is not None,
        **(wanted or Price()).to_json(),
    }
    if as_json:
        click.echo(json.dumps(view))
    elif wanted is None:
        click.echo("no price is set: the node of this home serves for free")
    else:
        click.echo(f"prompts {wanted.prefill:,}, answers {wanted.decode:,} {UNIT}")


UNIT = "nanocredits per million tokens through one block"


def _of_model(
    text: str, span: Span | None, device: str, dtype: str, quantize: str, *, with_power: bool
) -> "tuple[Speed, dict[str, Any]]":
    """Load it, and try it."""
    from manyhands.costing.speed import tried
    from manyhands.devices import choose_device, look
    from manyhands.models import find_model
    from manyhands.planning import forecast
    from manyhands.progress import say, shown
    from manyhands.signals import ending_at_once
    from node.engine import load_shard

    with ending_at_once():
        with shown(text) as progress:
            found = find_model(text, progress=progress)
        chosen = choose_device(device, look()).device
        whole = span or Span(0, found.manifest.n_blocks)
        plan, _ = forecast(
            found, whole, dtype=dtype, device=chosen, quantize=quantize, kv_cache_bytes=0
        )
        plan.require()
        if plan.fetch_bytes:
            raise ConfigError(
                f"the weights of {found.name} are not here",
                hint=f"serve it once, which fetches them: manyhands serve {found.name}",
            )
        engine = load_shard(found.directory, whole, dtype=dtype, device=chosen, quantize=quantize)
        say(f"trying {found.name} {whole} on {chosen}")
        speed = tried(engine, with_power=with_power)
    return speed, _about(found.name, found.manifest.digest, whole)


def _of_running(home: Home, seen: "Sequence[Announcement]") -> "tuple[Speed, dict[str, Any]]":
    """What the node of this home says of its span."""
    from manyhands.costing.speed import told

    own = _own_peers(home)
    for announcement in seen:
        if announcement.peer_id in own and announcement.span and (speed := told(announcement)):
            about = _about(announcement.model, announcement.manifest, announcement.span)
            return speed, about
    raise UsageError(
        "no node of this home has measured itself yet", hint="name a model to try instead"
    )


def _about(model: str, manifest: bytes, span: Span) -> dict[str, Any]:
    return {"model": model, "manifest": manifest.hex(), "span": [span.start, span.stop]}


def _swarm(home: Home, join: tuple[Address, ...]) -> "list[Announcement]":
    """Who is in the swarm, where one runs here or is named; its prices are worth a look."""
    from manyhands.looking import look
    from manyhands.loops import run
    from manyhands.running import join_addresses

    try:
        return list(run(look(home, join_addresses(home, join))))
    except PeerError:
        if join:
            raise
        return []


def _own_peers(home: Home) -> set[PeerId]:
    """Of the nodes that run on this home."""
    from manyhands.running import found_running
    from manyhands.whereabouts import peers_of

    return {peer for record in found_running(home) for peer in peers_of(record.addresses)}


def _asked(home: Home, seen: "Sequence[Announcement]", manifest: str) -> list[dict[str, Any]]:
    """What the others who serve this model ask, the cheapest first."""
    from scheduler.prices import asked

    rows, own = [], _own_peers(home)
    for peer in seen:
        if peer.span is None or peer.manifest.hex() != manifest or peer.peer_id in own:
            continue
        ncr = asked(peer.offer, peer.span, peer.n_blocks, TYPICAL_POSITIONS).over(len(peer.span))
        rows.append({"peer": peer.peer_id, "ncr_per_mtl": round(ncr, 3)})
    return sorted(rows, key=lambda row: (row["ncr_per_mtl"], row["peer"]))


def _against(
    others: Sequence[dict[str, Any]], floor: Price, suggested: Price
) -> dict[str, Any] | None:
    """Where this node would stand: its prices as others' are told, the dearer of the two rates."""
    if not others:
        return None
    cheapest = others[0]["ncr_per_mtl"]
    own_floor, own = (max(each.prefill, each.decode) for each in (floor, suggested))
    return {
        "cheapest_ncr_per_mtl": cheapest,
        "cheapest_times_floor": round(cheapest / own_floor, 3) if own_floor else None,
        "suggested_times_cheapest": round(own / cheapest, 3) if cheapest else None,
        "cheaper_than_suggested": sum(row["ncr_per_mtl"] < own for row in others),
        "others": len(others),
    }


def _say_against(view: dict[str, Any]) -> None:
    against, others = view["against_the_cheapest"], view["asked_by_others"]
    cheapest, dearest = others[0]["ncr_per_mtl"], others[-1]["ncr_per_mtl"]
    who = (
        "1 other who serves this model asks"
        if len(others) == 1
        else (f"{len(others)} others who serve this model ask")
    )
    range_ = f"{cheapest:,g}" if cheapest == dearest else f"{cheapest:,g} to {dearest:,g}"
    click.echo(f"{who} {range_}")
    if (times := against["cheapest_times_floor"]) is not None:
        click.echo(f"the cheapest asks {times:.2g} times the floor of this machine", nl=False)
        if (own := against["suggested_times_cheapest"]) is not None:
            click.echo(f", the suggestion is {own:.2g} times that", nl=False)
        click.echo()
    click.echo(
        f"{against['cheaper_than_suggested']} of {len(others)} would be cheaper than this node"
    )


def _show_suggestion(view: dict[str, Any]) -> None:
    floor, suggested = view["floor"], view["suggested"]
    blocks = "{}:{}".format(*view["span"])
    click.echo(f"{view['model']}, blocks {blocks}, {view['source']}, {view['sessions']} at once")
    click.echo(f"{view['watts']:g} W ({view['watts_from']}), {view['per_hour']} an hour\n")
    click.echo(f"{'':<10}{'token-layers/s':>16}{'floor':>14}{'suggested':>14}")
    for kind, name in (("prefill", "prompts"), ("decode", "answers")):
        key = f"{kind}_ncr_per_mtl"
        speed = view[f"{kind}_tl_per_s"]
        click.echo(f"{name:<10}{speed:>16,.0f}{floor[key]:>14,}{suggested[key]:>14,}")
    click.echo(f"\nin {UNIT}; one credit being worth 1 of what --kwh is in")
    if view["asked_by_others"]:
        _say_against(view)
    prefill, decode = suggested["prefill_ncr_per_mtl"], suggested["decode_ncr_per_mtl"]
    click.echo(f"to ask that: manyhands price set --prefill {prefill} --decode {decode}")
