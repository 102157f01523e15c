"""`manyhands route explain`: which chain an answer would get now, and why that one.

In: a model, peers to ask, what a client would ask for. Out: the best routes with the parts of their
costs, the spares of their hops, and who is in none of them and why; tables for people, or one JSON
object. Nothing is opened or reserved. What costs mean is said in `scheduler/route_cost.py`.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands.asking import Ask, open_client
from manyhands.home import Home
from manyhands.loops import run
from manyhands.models import Model
from manyhands.options import (
    channel_option,
    home_option,
    join_option,
    json_option,
    limits_options,
)
from manyhands.running import join_addresses
from manyhands.thin import find_client_model
from protocol.address import Address

if TYPE_CHECKING:
    from scheduler.client import Client
    from scheduler.explain import ExplainedHop, Explanation
    from scheduler.wanted import Wanted


@click.group(short_help="Which peers would carry an answer, and why.")
def route() -> None:
    """Look at routes without taking one."""


@route.command()
@click.argument("model", metavar="MODEL")
@join_option
@click.option("--profile", metavar="P", help="Ask for one execution profile. Default: any.")
@click.option(
    "--tokens",
    "n_positions",
    type=click.IntRange(min=1),
    default=1024,
    metavar="N",
    help="Room for so many, prompt and answer. Default: 1024.",
)
@limits_options
@channel_option
@home_option
@json_option
def explain(
    model: str,
    join: tuple[Address, ...],
    n_positions: int,
    home: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show the routes that an answer of MODEL would choose among now, what each part of them
    costs, and what keeps other hosts out."""
    from manyhands.route_table import show_explanation

    ask, place = Ask(**choices), Home.at(home)
    found = find_client_model(model, place, join, ask.channel)
    wanted = _wanted(ask, found, n_positions)
    explained = run(_explain(place, join_addresses(place, join), wanted, found, ask.channel))
    view = view_of(explained, wanted, model)
    click.echo(json.dumps(view)) if as_json else show_explanation(view)
    if explained.refusal is not None:
        raise explained.refusal


def _wanted(ask: Ask, model: Model, n_positions: int) -> "Wanted":
    from scheduler.wanted import Goal, Wanted

    return Wanted(
        manifest=model.manifest.digest,
        n_blocks=model.manifest.n_blocks,
        n_positions=n_positions,
        n_prompt=n_positions // 2,
        hidden_size=model.manifest.hidden_size,
        profile=ask.spelled_profile(),
        adapter=model.adapter,
        limits=ask.limits(),
        goal=Goal(ask.prefer),
    )


async def _explain(
    home: Home, join: Sequence[Address], wanted: "Wanted", model: Model, channel: str
) -> "Explanation":
    async with open_client(home, join, channel) as client:
        return await explained_by(client, wanted, model.asked)


async def explained_by(client: "Client", wanted: "Wanted", model: str) -> "Explanation":
    """What this client would choose among now."""
    from dataclasses import replace

    from scheduler.explain import explain

    directory = await client.directory()
    client.permission.judge(wanted.manifest, model).require(model)
    peers, now_s = directory.live(), time.time()
    pinned = directory.pin_adapter(wanted.manifest, wanted.adapter)
    return explain(
        peers,
        replace(wanted, adapter=pinned, shunned=client.records.trust.shunned),
        rtt_ms=directory.rtt_ms,
        slowdown=client.records.believed(peers, now_s),
        extra_ms=client.records.risk_ms(peers, now_s),
        model=model,
        groups_of=directory.groups_of,
    )


def view_of(explained: "Explanation", wanted: "Wanted", model: str) -> dict[str, Any]:
    """What `--json` prints."""
    refusal = explained.refusal
    return {
        "schema": "manyhands/route-explain/v1",
        "model": model,
        "n_blocks": wanted.n_blocks,
        "positions": wanted.n_positions,
        "prefer": wanted.goal.value,
        "ms_per_ncr": wanted.goal.ms_per_ncr,
        "routes": [
            {
                "cost_ms": round(each.cost_ms, 3),
                "near_best": each.is_near,
                "cost_ncr": each.cost_ncr,
                "hops": [_hop_view(hop, wanted) for hop in each.hops],
            }
            for each in explained.routes
        ],
        "others": [
            {
                "peer": other.announcement.peer_id,
                "span": _pair(other.announcement.span),
                "constraint": other.constraint.value if other.constraint else None,
                "why": other.why,
            }
            for other in explained.others
        ],
        "missing": [list(run) for run in refusal.missing] if refusal else [],
        "constraint": refusal.constraint if refusal else "",
    }


def _hop_view(hop: "ExplainedHop", wanted: "Wanted") -> dict[str, Any]:
    cost, n = hop.cost, len(hop.span)
    parts = {
        "compute": cost.compute_ms * n,
        "visit": cost.hop_ms,
        "queue": cost.queue_ms,
        "others": cost.others_ms,
        "prompt": cost.prompt_ms * n + cost.backlog_ms,
        "link": hop.link_ms,
        "carriage": hop.carriage_ms,
        "room": cost.room_ms,
        "price": (cost.price_ms + cost.prompt_price_ms) * n + cost.fee_ms + cost.head_ms,
        "risk": cost.extra_ms,
    }
    return {
        "peer": hop.announcement.peer_id,
        "span": _pair(hop.span),
        "announced_span": _pair(hop.announcement.span),
        "sessions": hop.announcement.n_sessions,
        "ms": round(hop.ms, 3),
        "parts_ms": {name: round(float(ms), 3) for name, ms in parts.items()},
        "price_ncr": round(hop.price.of(n, wanted.n_prompt, wanted.n_answer), 3),
        "ncr_per_mtl": {
            "prefill": round(hop.price.prefill, 3),
            "decode": round(hop.price.decode, 3),
        },
        "spares": list(hop.spares),
    }


def _pair(span: Any) -> list[int]:
    return [span.start, span.stop]
