"""`manyhands swarm invite` and `swarm join`: one line of text, and what it is redeemed for.

In: an admin's key and a registrar's address; an invite. Out: the invite on stdout; a home that
belongs to the swarm. The registrar is asked at each of its addresses in turn.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from manyhands.home import Home, set_default
from manyhands.loops import run
from manyhands.membership import admin_key, load_state
from manyhands.options import AddressType, base_option, json_option
from manyhands.progress import say
from manyhands.redeeming import Redeemed, redeem
from manyhands.signals import interruptible
from manyhands.swarm import base_of, place_of, swarm, which_option
from manyhands.swarm_options import DurationType, RolesType
from manyhands.swarm_telling import candidates
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError
from protocol.identity import public_key_from_peer_id
from protocol.membership.invites import Grant, Invite
from protocol.membership.roles import MAX_GROUPS, Role, Roles, is_group, role_fields
from protocol.membership.state import SwarmState
from protocol.signing import SigningKey

TIMEOUT_S = 10.0


@swarm.command()
@click.option("--role", "roles", type=RolesType(), default="provide,use", help="provide,use")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="G",
    help="A trust group that nodes which join by it are in. Repeat for more.",
)
@click.option(
    "--uses",
    type=click.IntRange(min=0, max=10_000),
    default=1,
    metavar="N",
    help="How many homes may join by it; 0: all that have it, until it expires. Default: 1.",
)
@click.option("--expires", type=DurationType(), default="7d", help="Of the invite. Default: 7d.")
@click.option("--lasts", type=DurationType(), default="365d", help="Of memberships. Default: 365d.")
@click.option(
    "--via",
    type=AddressType(),
    multiple=True,
    help="Where to redeem it: an admin's node. Default: the one that runs on this home.",
)
@base_option
@which_option
@json_option
def invite(
    roles: Roles,
    groups: tuple[str, ...],
    uses: int,
    expires: int,
    lasts: int,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Print an invite: whoever has the line may join. Pass it on as you would a password."""
    place = place_of(home, name)
    state = load_state(place)
    _check_groups(groups, roles)
    signer, where = admin_key(place, state), _registrars(place, state, via, is_counted=bool(uses))
    token, now_ms = SigningKey.generate(), wall_ms()
    grant = Grant(
        token=token.public_key,
        roles=roles,
        n_uses=uses,
        issued_ms=now_ms,
        expires_ms=now_ms + expires,
        lifetime_ms=lasts,
        registrar=public_key_from_peer_id(where[0].peer_id) if uses else b"",
        groups=frozenset(groups),
    )
    made = Invite(
        name=state.policy.name,
        swarm_id=state.swarm_id,
        grant=grant.seal(state.swarm_id, signer),
        secret=token.seed,
        addresses=tuple(where),
    )
    if as_json:
        view = {
            "schema": "manyhands/swarm-invite/v1",
            "invite": str(made),
            "roles": list(role_fields(roles)),
            "groups": sorted(groups),
            "uses": uses,
            "expires_ms": grant.expires_ms,
            "addresses": [str(address) for address in where],
        }
        click.echo(json.dumps(view))
        return
    click.echo(str(made))
    often = f"{uses} home(s) may join" if uses else "any number of homes may join"
    say(f"{often} swarm {state.policy.name} to {', '.join(role_fields(roles))} by it")


def _check_groups(groups: Sequence[str], roles: Roles) -> None:
    """
    Raises:
        UsageError: no node could be in them.
    """
    if len(set(groups)) > MAX_GROUPS or not all(map(is_group, groups)):
        raise UsageError(
            f"a node is in up to {MAX_GROUPS} groups, each named in up to 64 printable characters"
        )
    if groups and Role.PROVIDE not in roles:
        raise UsageError("only who serves is in a trust group", hint="--role provide,use")


def _registrars(
    place: Home, state: SwarmState, via: Sequence[Address], *, is_counted: bool
) -> list[Address]:
    """Where it can be redeemed: at one admin's node when it is counted, else at several."""
    known = [
        address
        for address in candidates(place, via)
        if state.policy.may_admit(public_key_from_peer_id(address.peer_id))
    ]
    if via and not any(address in known for address in via):
        raise UsageError(
            f"{via[0].peer_id} is no admin of {state.policy.name}",
            hint="name an admin's node with --via, or first: manyhands swarm promote PEER",
        )
    if not known:
        raise ConfigError(
            "no admin's node is known where the invite could be redeemed",
            hint=f"manyhands serve MODEL --swarm {state.policy.name} on this home, or --via ADDR",
        )
    first = [address for address in known if address.peer_id == known[0].peer_id]
    return (first if is_counted else known)[:8]


@swarm.command()
@click.argument("text", metavar="INVITE")
@click.option("--as", "name", metavar="NAME", help="What to call it here. Default: its name.")
@click.option("--default", "is_default", is_flag=True, help="Use it where none is named.")
@base_option
@json_option
def join(text: str, name: str | None, is_default: bool, home: Path | None, as_json: bool) -> None:
    """Join a swarm by INVITE, the line that begins with mh://; again to renew a membership."""
    base = base_of(home)
    redeemed = run(_redeem(text, name, base))
    name, swarm_id = redeemed.name, redeemed.swarm_id.hex()
    if is_default:
        set_default(base, name)
    if as_json:
        view = {
            "schema": "manyhands/swarm-joined/v1",
            "name": name,
            "id": swarm_id,
            "home": str(redeemed.place.root),
            "peers": dict(redeemed.peers),
            "roles": {who: list(role_fields(roles)) for who, roles in redeemed.roles.items()},
        }
        click.echo(json.dumps(view))
        return
    click.echo(f"{name}  {swarm_id}")
    say(f"next: manyhands status --swarm {name}")


async def _redeem(text: str, name: str | None, base: Path) -> Redeemed:
    with interruptible():
        return await redeem(text, name, base)
