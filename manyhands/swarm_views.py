"""What `swarm list` and `swarm members` show, as rows for tables and JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from manyhands.home import SWARMS, Home, default_swarm, open_identity, swarms_of
from manyhands.loops import run
from manyhands.membership import load_state, register_path
from manyhands.party import open_party
from manyhands.progress import say
from manyhands.swarm_telling import candidates
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerRefused
from protocol.identity import PeerId, peer_id_from_public_key
from protocol.membership.roles import role_fields
from protocol.membership.state import SwarmState

Row = dict[str, Any]


def swarm_views(base: Path) -> list[Row]:
    return [_swarm_view(base, name) for name in swarms_of(base)]


def _swarm_view(base: Path, name: str) -> Row:
    home = Home(base / SWARMS / name)
    state = load_state(home)
    roles = {who: _own_roles(home, state, who) for who in ("node", "client")}
    founds = (home.root / "membership" / "founder.key").exists()
    may = sorted({role for named in roles.values() for role in named})
    return {
        "name": name,
        "id": state.swarm_id.hex(),
        "is_private": state.policy.is_private,
        "is_default": default_swarm(base) == name,
        "is_founder": founds,
        "home": str(home.root),
        "roles": roles,
        "you": ("founder; " if founds else "") + (", ".join(may) or "no member any more"),
    }


def _own_roles(home: Home, state: SwarmState, who: str) -> list[str]:
    peer_id = open_identity(home.node if who == "node" else home.client).peer_id
    path = home.root / "membership" / f"{who}.member"
    shown = path.read_bytes() if path.exists() else b""
    try:
        return list(role_fields(state.roles(peer_id, shown, wall_ms())))
    except PeerRefused:
        return []


def member_rows(home: Home) -> list[Row]:
    """By peer id: who joined by invites redeemed here, who serves now, who was ruled about."""
    from node.registrar import Register

    state, rows = load_state(home), dict[PeerId, Row]()
    for key in (*state.policy.founders, *state.policy.admins):
        rows[peer_id_from_public_key(key)] = {"standing": "admin", "roles": [], "until_ms": None}
    for entry in Register(register_path(home)):
        one = entry.certificate
        standing = "member" if one.expires_ms > wall_ms() else "expired"
        rows[peer_id_from_public_key(one.peer)] = {
            "standing": standing,
            "roles": list(role_fields(one.roles, one.groups)),
            "until_ms": one.expires_ms,
            "issued_ms": one.issued_ms,
        }
    for peer_id in _serving(home):
        rows.setdefault(peer_id, {"standing": "member", "roles": ["provide"], "until_ms": None})
        rows[peer_id]["serves"] = True
    for key, held in state.rulings.items():
        peer_id = peer_id_from_public_key(key)
        row = rows.setdefault(peer_id, {"roles": [], "until_ms": None})
        if row.get("issued_ms", 0) <= held.ruling.stamp_ms:
            row |= {
                "standing": held.ruling.verdict.value,
                "roles": list(role_fields(held.ruling.roles)),
            }
    return [
        {"peer": peer, "serves": False, **{k: v for k, v in row.items() if k != "issued_ms"}}
        for peer, row in sorted(rows.items())
    ]


def _serving(home: Home) -> list[PeerId]:
    from scheduler.directory import fetch_directory

    addresses = candidates(home, ())
    if not addresses:
        return []
    try:
        party = open_party(home, "client")
        directory = party.directory()
        run(fetch_directory(party.transport(), addresses, directory))
        return [peer.peer_id for peer in directory.live()]
    except ManyhandsError as error:
        say(f"warning: who serves now is not known: {error}")
        return []


def show_members(rows: Sequence[Row]) -> None:
    for row in rows:
        serves = "serves" if row["serves"] else ""
        click.echo(
            f"{row['peer']}  {row['standing']:<8} {','.join(row['roles']):<24} {serves}".rstrip()
        )
