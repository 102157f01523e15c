"""`manyhands swarm`: found a swarm, list those of a home, choose one, leave it, see its members.

In: names. Out: a home for each swarm, tables or one JSON object. What members sign and check is
`protocol.membership`'s, what a home keeps of it `membership.py`'s. Invites are
`swarm_inviting.py`'s and who may stay `swarm_ruling.py`'s: their commands are of the same group.
"""

import json
import secrets
from pathlib import Path
from typing import Any

import click

from ledger.policy import BILATERAL
from manyhands.home import OPEN, SWARMS, Home, default_home, home_of, open_identity, set_default
from manyhands.home import default_swarm as name_of_default
from manyhands.membership import (
    enter,
    leave,
    make_founder,
)
from manyhands.options import base_option, json_option
from manyhands.progress import say
from manyhands.running import found_running
from manyhands.swarm_funding import (
    NamedWitness,
    Pace,
    check_funding,
    found_funding,
    funding_options,
    pace_options,
)
from manyhands.swarm_options import RolesType
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError
from protocol.membership.certificates import Certificate
from protocol.membership.invites import CLIENT_ROLES
from protocol.membership.policy import NONCE_BYTES, GuestLimits, Policy, is_name
from protocol.membership.roles import NONE, Role, Roles
from protocol.membership.state import SwarmState

GUESTS = frozenset({Role.PROVIDE, Role.USE, Role.OBSERVE})
FOUNDERS_CLIENT_MS = 20 * 365 * 86_400_000


@click.group(short_help="Private swarms: create, invite, join, revoke.")
def swarm() -> None:
    """Found a swarm, invite others to it, join one, and say who may stay."""


def base_of(home: Path | None) -> Path:
    return (home or default_home()).expanduser().absolute()


def which_option(command: Any) -> Any:
    return click.option("--swarm", "name", metavar="NAME", help="Which. Default: the default one.")(
        command
    )


def place_of(home: Path | None, name: str | None) -> Home:
    """The home of a swarm that has members.

    Raises:
        UsageError: none was named, and none is the default.
    """
    base = base_of(home)
    root = home_of(base, name)
    if root == base and not (base / "membership").exists():
        if not (base / "swarms").is_dir():
            why = "this home has joined no swarm that has members"
            raise UsageError(
                why, hint="ask an admin for an invite, then: manyhands swarm join INVITE"
            )
        raise UsageError("which swarm?", hint="--swarm NAME, or once: manyhands swarm use NAME")
    return Home.at(root)


@swarm.command()
@click.argument("name")
@click.option("--private", "is_private", is_flag=True, help="Members alone see anything of it.")
@click.option(
    "--guests",
    type=RolesType(),
    help="Of an open swarm: what anybody may do. Default: provide,use,observe.",
)
@click.option(
    "--guest-streams",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Streams (of sessions) that a guest may have open at a node. Default: no limit.",
)
@click.option(
    "--newcomers-per-min",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Unknown guests that a node hears. Default: no limit.",
)
@funding_options
@pace_options
@click.option("--default", "is_default", is_flag=True, help="Use it where none is named.")
@base_option
@json_option
def create(
    name: str,
    is_private: bool,
    guests: Roles | None,
    guest_streams: int,
    newcomers_per_min: int,
    funding: str | None,
    issuers: tuple[bytes, ...],
    witnesses: tuple[NamedWitness, ...],
    is_default: bool,
    home: Path | None,
    credit_is: tuple[int, str] | None,
    as_json: bool,
    **paces: int | None,
) -> None:
    """Found the swarm NAME. This home's node becomes its first admin."""
    pace = Pace(**paces)
    check_funding(funding, issuers, witnesses, credit_is, pace)
    if is_private and (guests or guest_streams or newcomers_per_min):
        raise UsageError("a private swarm has no guests", hint="leave out --private, or the others")
    place = new_home(base_of(home), name)
    paid = found_funding(place, name, funding, issuers, witnesses, credit_is, pace)
    founder, node, client = make_founder(place), open_identity(place.node), place.client
    policy = Policy(
        name=name,
        nonce=secrets.token_bytes(NONCE_BYTES),
        founders=(founder.public_key,),
        is_private=is_private,
        admins=(node.public_key,),
        guests=NONE if is_private else (guests or GUESTS),
        limits=GuestLimits(newcomers_per_min, guest_streams),
        funding=paid.encoded,
        witnesses=paid.witnesses,
    )
    state, now_ms = SwarmState(policy.seal(b"", founder.key)), wall_ms()
    own = Certificate(
        peer=open_identity(client).public_key,
        roles=CLIENT_ROLES,
        issued_ms=now_ms,
        expires_ms=now_ms + FOUNDERS_CLIENT_MS,
    )
    enter(place, state, {"client": own.seal(state.swarm_id, founder.key).encode()})
    if is_default:
        set_default(base_of(home), name)
    if as_json:
        view = {"schema": "manyhands/swarm-created/v1", "name": name, "home": str(place.root)}
        view |= {"id": state.swarm_id.hex(), "node": node.peer_id, "funding": funding or BILATERAL}
        click.echo(json.dumps(view))
        return
    click.echo(f"{name}  {state.swarm_id.hex()}")
    if paid.told:
        say(paid.told)
    say(f"next: manyhands serve MODEL --swarm {name}, then: manyhands swarm invite --swarm {name}")
    say(f"keep a copy of {place.root / 'membership' / 'founder.key'}: nobody can replace it")


def new_home(base: Path, name: str, *, again: str = "choose another name") -> Home:
    """again: what to do where the name is taken."""
    if not is_name(name) or name == OPEN:
        raise UsageError(
            f"not a name for a swarm: {name[:64]!r}",
            hint="1 to 64 letters, digits and ._-, beginning with a letter or digit; not `open`",
        )
    if (base / "membership").exists():
        raise UsageError(f"{base} is the home of one swarm", hint="name the home around it: --home")
    Home.at(base)
    root = base / SWARMS / name
    if (root / "membership").exists():
        raise UsageError(
            f"{base} has a swarm {name} already", hint=f"{again}, or manyhands swarm leave {name}"
        )
    return Home.at(root)


@swarm.command("list")
@base_option
@json_option
def list_(home: Path | None, as_json: bool) -> None:
    """The swarms of this home."""
    from manyhands.swarm_views import swarm_views

    base = base_of(home)
    views = swarm_views(base)
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/swarms/v1", "swarms": views}))
        return
    default = name_of_default(base) or OPEN
    for view in [{"name": OPEN, "id": "", "is_private": False, "you": "everybody"}, *views]:
        mark = "*" if view["name"] == default else " "
        kind = "private" if view["is_private"] else "open"
        click.echo(f"{mark} {view['name']:<20} {kind:<8} {view['id'][:12]:<12}  {view['you']}")


@swarm.command()
@click.argument("name")
@base_option
def use(name: str, home: Path | None) -> None:
    """Make NAME the swarm of all commands that name none; `open` goes back."""
    base = base_of(home)
    if name != OPEN:
        home_of(base, name)
    Home.at(base)
    set_default(base, name)
    say(f"commands on {base} now mean swarm {name} unless --swarm says otherwise")


@swarm.command("leave")
@click.argument("name")
@click.option("--forget-founder", is_flag=True, help="Also when that loses the founder's key.")
@base_option
def leave_(name: str, forget_founder: bool, home: Path | None) -> None:
    """Belong to NAME no more. Its keys and ledgers in this home stay."""
    base = base_of(home)
    place = Home.at(home_of(base, name))
    if place.root == base:
        raise UsageError(f"{base} is not in swarm {name}", hint="manyhands swarm list")
    if running := found_running(place):
        pids = ", ".join(str(record.pid) for record in running)
        raise ConfigError(f"the home of swarm {name} is in use", hint=f"stop the process {pids}")
    if (place.root / "membership" / "founder.key").exists() and not forget_founder:
        raise UsageError(
            f"this home founded {name}: without its key nobody changes its policy again",
            hint="save membership/founder.key, then add --forget-founder",
        )
    leave(place)
    if name_of_default(base) == name:
        set_default(base, OPEN)
    say(f"left {name}; keys and ledgers stay in {place.root}")


@swarm.command()
@base_option
@which_option
@json_option
def members(home: Path | None, name: str | None, as_json: bool) -> None:
    """Who belongs, as far as this home knows: who joined here, who serves now, who was ruled on."""
    from manyhands.swarm_views import member_rows, show_members

    rows = member_rows(place_of(home, name))
    if as_json:
        click.echo(json.dumps({"schema": "manyhands/swarm-members/v1", "members": rows}))
    else:
        show_members(rows)
