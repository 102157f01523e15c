"""What `route explain` shows people: tables that fit a terminal of 80 columns.

In: the view that `--json` prints. Out: text on stdout.
"""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from manyhands.tables import short

PIPE_COLUMNS = 160
MAX_OTHERS = 40
PARTS = (
    *("compute", "link", "carriage", "visit", "queue", "others", "prompt", "room", "price", "risk"),
)


def show_explanation(view: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_COLUMNS)
    meant = "ms of nodes' time per token" if is_batch(view) else "ms per token"
    console.print(
        f"{view['model']}: {view['n_blocks']} blocks, room for {view['positions']} tokens; "
        f"costs in {meant}"
    )
    if any(route["cost_ncr"] for route in view["routes"]):
        console.print(
            f"a nanocredit per token weighs {view['ms_per_ncr']:g} ms (--prefer {view['prefer']})"
        )
    for rank, route in enumerate(view["routes"], 1):
        console.print(_heading(rank, route, view))
        console.print(_hops(route, with_spares=rank == 1))
    if not view["routes"]:
        console.print(Text("no route", "red"))
    if view["others"]:
        console.print(Text("\nin none of these", "bold"))
        console.print(_others(view["others"]))


def _heading(rank: int, route: dict[str, Any], view: dict[str, Any]) -> Text:
    best_ms = view["routes"][0]["cost_ms"]
    told = Text(f"\nroute {rank}", "bold")
    told.append(f"  {route['cost_ms']:.1f} ms", "green" if route["near_best"] else "")
    if not is_batch(view) and route["cost_ms"]:
        told.append(f", {1000 / (route['cost_ms'] - _not_time_ms(route)):.3g} tokens/s", "")
    if route["cost_ncr"]:
        told.append(f", {route['cost_ncr']:,} ncr for all of them", "")
    if rank > 1:
        dearer = route["cost_ms"] / best_ms - 1 if best_ms else 0.0
        drawn = "drawn too" if route["near_best"] else "not drawn"
        told.append(f"  {dearer:.0%} dearer: {drawn}", "dim")
    return told


def _not_time_ms(route: dict[str, Any]) -> float:
    """Of its cost, what is no time but weighed as if it were."""
    return float(sum(hop["parts_ms"]["price"] for hop in route["hops"]))


def _hops(route: dict[str, Any], *, with_spares: bool) -> Table:
    names = [name for name in PARTS if any(hop["parts_ms"][name] for hop in route["hops"])]
    priced = ["NCR", "IN/MTL", "OUT/MTL"] if any(hop["price_ncr"] for hop in route["hops"]) else []
    heads = [*(name.upper() for name in names), "ALL", *priced]
    table = _table(["PEER", "BLOCKS", "SESS"], heads)
    if with_spares:
        table.add_column("SPARES", overflow="fold")
    for hop in route["hops"]:
        spares = " ".join(map(short, hop["spares"])) or Text("none", "yellow")
        table.add_row(
            short(hop["peer"]),
            _spell(hop["span"]),
            str(hop["sessions"]),
            *(f"{hop['parts_ms'][name]:.1f}" for name in names),
            f"{hop['ms']:.1f}",
            *(_asked(hop) if priced else []),
            *([spares] if with_spares else []),
        )
    return table


def _asked(hop: dict[str, Any]) -> list[str]:
    """For the session, and by how its offer counts prompts and answers."""
    rates = hop["ncr_per_mtl"]
    return [
        f"{math.ceil(hop['price_ncr']):,}",
        f"{rates['prefill']:,.0f}",
        f"{rates['decode']:,.0f}",
    ]


def is_batch(view: dict[str, Any]) -> bool:
    """Whether costs are nodes' time, not a token's."""
    return bool(view["prefer"] == "throughput")


def _others(others: Sequence[dict[str, Any]]) -> Table:
    table = _table(["PEER", "BLOCKS"], [])
    table.add_column("WHY", overflow="fold")
    for other in others[:MAX_OTHERS]:
        style = "yellow" if other["constraint"] else ""
        table.add_row(short(other["peer"]), _spell(other["span"]), Text(other["why"], style))
    if len(others) > MAX_OTHERS:
        table.add_row("…", "", f"and {len(others) - MAX_OTHERS} more: --json has all")
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _spell(span: Sequence[int]) -> str:
    return f"{span[0]}:{span[1]}"
