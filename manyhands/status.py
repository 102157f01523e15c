"""`manyhands status` and `manyhands peers`: how a swarm is, and who is in it.

In: peers to ask. Out: tables for people, or one JSON object whose fields docs/cli.md lists. What
is told of a peer was signed by that peer; whether it can be reached was tried from here. How all
that is judged is `condition.py`'s, how it looks `tables.py`'s.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from manyhands import __version__
from manyhands.governing.telling import judged, words
from manyhands.home import Home
from manyhands.loops import run
from manyhands.options import PeerType, home_option, join_option, json_option
from manyhands.own_words import carrying_view
from manyhands.running import found_running, join_addresses
from manyhands.whereabouts import peers_of, reach_view
from protocol.address import Address
from protocol.clock import wall_ms

if TYPE_CHECKING:
    from manyhands.condition import Condition, Seen
    from protocol.announcements import Announcement
    from protocol.membership.governance import Judgement

NOTHING_SAID: "Mapping[bytes, Judgement]" = {}


@click.command(short_help="Whether a swarm is complete, and how well it is.")
@join_option
@home_option
@json_option
def status(join: tuple[Address, ...], home: Path | None, as_json: bool) -> None:
    """Which models the swarm serves, how many hosts each block has, what is not well, and why."""
    from manyhands.looking import look
    from manyhands.tables import show_status

    place = Home.at(home)
    running = [(record, peers_of(record.addresses)) for record in found_running(place)]
    own = [peer for _, its_peers in running for peer in its_peers]
    seen = run(look(place, join_addresses(place, join), own))
    said, rows = judged(place, seen), peer_views(seen)
    view = {
        "schema": "manyhands/status/v1",
        "version": __version__,
        "home": str(place.root),
        "running": [
            {
                "command": record.command,
                "pid": record.pid,
                "model": record.model,
                "without": list(record.without),
                "signature": record.signature,
                "reach": [
                    {"peer": peer.peer_id, **reach_view(peer.reach, peer.addresses, saw.own.why)}
                    for peer, saw in seen.items()
                    if peer.peer_id in its_peers
                ],
                "carrying": [
                    {"peer": peer.peer_id, **view}
                    for peer, saw in seen.items()
                    if peer.peer_id in its_peers and (view := carrying_view(saw.own))
                ],
            }
            for record, its_peers in running
        ],
        "bans": ban_views(place),
        "models": model_views(seen, said),
        "peers_loading": [row for row in rows if row["state"] == "loading"],
        "peers_not_well": [row for row in rows if row["why"] and row["state"] != "loading"],
    }
    click.echo(json.dumps(view)) if as_json else show_status(view)


@click.group(invoke_without_command=True, short_help="The peers of a swarm, one per line.")
@join_option
@home_option
@json_option
@click.pass_context
def peers(
    context: click.Context, join: tuple[Address, ...], home: Path | None, as_json: bool
) -> None:
    """Who serves which blocks, how fast, how it is, and for whatever is not well, why; and whom
    the node of this home does not hear for a while."""
    if context.invoked_subcommand:
        return
    from manyhands.looking import look
    from manyhands.tables import show_peers

    place = Home.at(home)
    seen = run(look(place, join_addresses(place, join)))
    rows = peer_views(seen, judged(place, seen))
    bans = ban_views(place)
    view = {"schema": "manyhands/peers/v1", "peers": rows, "bans": bans}
    click.echo(json.dumps(view)) if as_json else show_peers(rows, bans)


@peers.command(short_help="Hear a banned peer again.")
@click.argument("peer")
@home_option
@json_option
@click.pass_context
def unban(context: click.Context, peer: str, home: Path | None, as_json: bool) -> None:
    """Let the node of this home hear PEER again, from a second later on, if it runs.

    PEER is a peer id, its end as the tables show it, or an address.
    """
    from manyhands.tables import ending_in
    from node.barring import read_bans, write_bans

    place = Home.at(home)
    held = read_bans(place.bans)
    meant = ending_in(peer, (ban.peer_id for ban in held))
    peer = meant[0] if len(meant) == 1 else PeerType().convert(peer, None, context)
    was_banned = any(ban.peer_id == peer for ban in held)
    if was_banned:
        write_bans(place.bans, [ban for ban in held if ban.peer_id != peer])
    view = {"schema": "manyhands/unban/v1", "peer": peer, "was_banned": was_banned}
    said = f"{peer} is heard again" if was_banned else f"{peer} was not banned here"
    click.echo(json.dumps(view) if as_json else said)


def ban_views(place: Home) -> list[dict[str, Any]]:
    """Whom the node of this home does not hear now."""
    from node.barring import read_bans

    now_ms = wall_ms()
    return [
        {"peer": ban.peer_id, "why": ban.why, "until_ms": ban.until_ms, "number": ban.number}
        for ban in read_bans(place.bans)
        if ban.until_ms > now_ms
    ]


def model_views(
    seen: "Mapping[Announcement, Seen]", said: "Mapping[bytes, Judgement]" = NOTHING_SAID
) -> list[dict[str, Any]]:
    """Of every model that anybody serves, or loads. said: of models, by their swarm."""
    from manyhands.condition import condition_of

    conditions = {peer: condition_of(peer, saw) for peer, saw in seen.items()}
    return [
        model_view(hosts, said.get(manifest)) for manifest, hosts in by_model(conditions).items()
    ]


def by_model(
    conditions: "Mapping[Announcement, Condition]",
) -> "dict[bytes, dict[Announcement, Condition]]":
    """The same by the digest of what each serves, in the order in which models come."""
    found: dict[bytes, dict[Announcement, Condition]] = {}
    for peer, condition in conditions.items():
        found.setdefault(peer.manifest, {})[peer] = condition
    return found


def model_view(
    hosts: "Mapping[Announcement, Condition]", said: "Judgement | None" = None
) -> dict[str, Any]:
    """Of one model, by those who announce it, one at least. said: of it, by its swarm."""
    from manyhands.condition import model_condition

    found, first = model_condition(hosts), next(iter(hosts))
    return {
        "model": first.model,
        "manifest": first.manifest.hex(),
        "n_blocks": found.n_blocks,
        "profile": found.profile,
        "complete": not found.missing,
        "missing": [list(blocks) for blocks in found.missing],
        "peers": sum(host.span is not None for host in hosts),
        "states": dict(Counter(condition.state for condition in hosts.values())),
        "coverage": [list(stretch) for stretch in found.coverage],
        "coming": [list(stretch) for stretch in found.coming],
        "least_hosts": found.least_hosts,
        "weakest": [list(blocks) for blocks in found.runs_with(found.least_hosts)],
        "tokens_per_s": round(found.tokens_per_s, 2),
        "limited_by": [list(blocks) for blocks in found.limits],
        "sessions": sum(host.n_sessions for host in hosts),
        "warnings": [*words(said), *found.warnings],
        "refused": said.refused if said else "",
        "advisories": [str(flag) for flag in said.flags] if said else [],
    }


def peer_views(
    seen: "Mapping[Announcement, Seen]", said: "Mapping[bytes, Judgement]" = NOTHING_SAID
) -> list[dict[str, Any]]:
    """Of every peer, in the table's order. said: of models, by their swarm."""
    return [_peer_view(peer, saw, words(said.get(peer.manifest))) for peer, saw in seen.items()]


def _peer_view(peer: "Announcement", saw: "Seen", said: "Sequence[str]") -> dict[str, Any]:
    from manyhands.condition import condition_of, positions_free
    from scheduler.capacity import blocks_per_s

    condition, measured = condition_of(peer, saw), peer.measured
    return {
        "peer": peer.peer_id,
        "state": condition.state,
        "why": [*condition.why, *said],
        "addresses": [str(address) for address in peer.addresses],
        "path": saw.path,
        "reach": peer.reach.verdict.value,
        "nat": peer.reach.nat.value,
        "n_confirmed": peer.reach.n_confirmed,
        "rtt_ms": None if saw.rtt_ms is None else round(saw.rtt_ms, 2),
        "age_s": round(saw.age_s, 1),
        "model": peer.model,
        "manifest": peer.manifest.hex(),
        "n_blocks": peer.n_blocks,
        "span": [peer.span.start, peer.span.stop] if peer.span else None,
        "loading": [peer.loading.start, peer.loading.stop] if peer.loading else None,
        "loading_s": None if saw.loading_s is None else round(saw.loading_s, 1),
        "capacity_blocks": measured.capacity_blocks or None,
        "profile": peer.profile,
        "decode_us": peer.decode_us,
        "decode_steps_us": [list(step) for step in measured.decode_steps_us],
        "prefill_us_per_row": peer.prefill_us_per_row,
        "blocks_per_s": round(blocks_per_s(peer), 1),
        "rows_per_s": measured.rows_per_s,
        "queue_us": measured.queue_us,
        "slowdown": None if saw.slowdown is None else round(saw.slowdown, 2),
        "kv_free_bytes": peer.kv_free_bytes,
        "kv_free_positions": positions_free(peer),
        "up_bytes_per_s": measured.up_bytes_per_s or None,
        "down_bytes_per_s": measured.down_bytes_per_s or None,
        "sessions": peer.n_sessions,
        "adapters": list(peer.adapters),
        "region": peer.region,
        "region_doubt": saw.doubt,
        "group": measured.group,
        "since_ms": measured.since_ms or None,
        "software": peer.software,
    }
