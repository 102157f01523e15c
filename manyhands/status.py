"""`manyhands status` and `manyhands peers`: what a swarm says of itself.

In: peers to ask. Out: tables for people, or one JSON object. Everything shown was signed by the
peer it is about; whether it can be reached now is only known of the one that answered.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands import __version__
from manyhands.home import Home, open_identity
from manyhands.loops import run
from manyhands.options import home_option, join_option, json_option
from manyhands.running import found_running, join_addresses
from manyhands.signals import interruptible
from protocol.address import Address
from protocol.signing import OPEN_SWARM_ID

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from scheduler.directory import Directory


@click.command(short_help="Whether a swarm is complete, and who serves.")
@join_option
@home_option
@json_option
def status(join: tuple[Address, ...], home: Path | None, as_json: bool) -> None:
    """Which models the swarm serves, whether every block has a host, and what runs here."""
    place = Home.at(home)
    directory = run(_look(place, join_addresses(place, join)))
    view = {
        "schema": "manyhands/status/v1",
        "version": __version__,
        "home": str(place.root),
        "running": [
            {"command": record.command, "pid": record.pid, "model": record.model}
            for record in found_running(place)
        ],
        "models": [_model_view(hosts) for hosts in directory.models().values()],
    }
    if as_json:
        click.echo(json.dumps(view))
    else:
        _show_status(view)


@click.command(short_help="The peers of a swarm, one per line.")
@join_option
@home_option
@json_option
def peers(join: tuple[Address, ...], home: Path | None, as_json: bool) -> None:
    """Who serves which blocks, how fast, and where."""
    place = Home.at(home)
    directory = run(_look(place, join_addresses(place, join)))
    mine = open_identity(place.client).peer_id
    rows = [
        _peer_view(peer, directory.rtt_ms.get((mine, peer.peer_id))) for peer in directory.live()
    ]
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/peers/v1", "peers": rows}))
    else:
        _show_peers(rows)


async def _look(home: Home, join: Sequence[Address]) -> "Directory":
    from protocol.announcement_table import AnnouncementTable
    from protocol.transport.grpc import GrpcTransport
    from scheduler.directory import Directory, fetch_directory

    directory = Directory(AnnouncementTable(OPEN_SWARM_ID))
    transport = GrpcTransport(open_identity(home.client), OPEN_SWARM_ID)
    with interruptible():
        await fetch_directory(transport, join, directory)
    return directory


def _model_view(hosts: Sequence["Announcement"]) -> dict[str, Any]:
    n_blocks = max(host.n_blocks for host in hosts)
    n_hosts = [0] * n_blocks
    for host in hosts:
        if host.span is not None:
            for block in range(host.span.start, min(host.span.stop, n_blocks)):
                n_hosts[block] += 1
    return {
        "model": hosts[0].model,
        "manifest": hosts[0].manifest.hex(),
        "n_blocks": n_blocks,
        "complete": all(n_hosts),
        "missing": _runs(n_hosts, 0),
        "peers": len(hosts),
        "least_hosts": min(n_hosts),
        "weakest": _runs(n_hosts, min(n_hosts)),
        "sessions": sum(host.n_sessions for host in hosts),
    }


def _runs(n_hosts: Sequence[int], wanted: int) -> list[list[int]]:
    """The runs of blocks that have exactly `wanted` hosts, half open."""
    runs: list[list[int]] = []
    for block, count in enumerate(n_hosts):
        if count != wanted:
            continue
        if runs and runs[-1][1] == block:
            runs[-1][1] = block + 1
        else:
            runs.append([block, block + 1])
    return runs


def _peer_view(peer: "Announcement", rtt_ms: float | None) -> dict[str, Any]:
    return {
        "peer": peer.peer_id,
        "addresses": [str(address) for address in peer.addresses],
        "model": peer.model,
        "manifest": peer.manifest.hex(),
        "n_blocks": peer.n_blocks,
        "span": [peer.span.start, peer.span.stop] if peer.span else None,
        "profile": peer.profile,
        "decode_us": peer.decode_us,
        "kv_free_bytes": peer.kv_free_bytes,
        "sessions": peer.n_sessions,
        "adapters": list(peer.adapters),
        "region": peer.region,
        "software": peer.software,
        "rtt_ms": None if rtt_ms is None else round(rtt_ms, 2),
    }


def _show_status(view: dict[str, Any]) -> None:
    click.echo(f"manyhands {view['version']}   home {view['home']}")
    for record in view["running"]:
        click.echo(f"running  {record['command']} {record['model']}, pid {record['pid']}")
    for model in view["models"]:
        state = click.style("READY", fg="green") if model["complete"] else _incomplete(model)
        click.echo(
            f"swarm    {model['model']}: {state}, {model['n_blocks']} blocks on "
            f"{model['peers']} peers, {model['sessions']} open sessions"
        )
        if model["complete"] and model["least_hosts"] == 1 and model["peers"] > 1:
            click.echo(f"         blocks {_spell(model['weakest'])} have one host only")
    if not view["models"]:
        click.echo("swarm    nobody serves anything")


def _incomplete(model: dict[str, Any]) -> str:
    return click.style(f"INCOMPLETE, nobody serves blocks {_spell(model['missing'])}", fg="red")


def _spell(runs: Sequence[Sequence[int]]) -> str:
    return ", ".join(f"{start}:{stop}" for start, stop in runs)


def _show_peers(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("PEER", "MODEL", "BLOCKS", "PROFILE", "STEP MS", "SESSIONS", "ADDRESS"):
        table.add_column(name, no_wrap=name != "ADDRESS", overflow="fold")
    for row in rows:
        span = row["span"] or ("-", "-")
        table.add_row(
            f"{row['peer'][:8]}…{row['peer'][-6:]}",
            row["model"],
            f"{span[0]}:{span[1]} of {row['n_blocks']}",
            row["profile"],
            f"{row['decode_us'] / 1000:.1f}",
            str(row["sessions"]),
            row["addresses"][0].split("/p2p/")[0] if row["addresses"] else "-",
        )
    Console(width=None if Console().is_terminal else 160).print(table)
