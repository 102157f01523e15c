"""`manyhands swarm`: found a swarm, invite to it, join one, and say who may stay.

In: names, invites, peers. Out: a home for each swarm, an invite as one line on stdout, tables or
one JSON object. What members sign and check is `protocol.membership`'s, what a home keeps of it
`membership.py`'s. An admin's word takes effect when one member has heard it: the rest is gossip.
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from manyhands.home import OPEN, SWARMS, Home, default_home, home_of, open_identity, set_default
from manyhands.home import default_swarm as name_of_default
from manyhands.loops import run
from manyhands.membership import (
    admin_key,
    enter,
    founder_key,
    keep_state,
    leave,
    load_state,
    make_founder,
)
from manyhands.options import AddressType, PeerType, base_option, json_option
from manyhands.progress import say
from manyhands.running import found_running
from manyhands.swarm_options import RolesType
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.membership.certificates import Certificate, Ruling, Verdict
from protocol.membership.invites import CLIENT_ROLES
from protocol.membership.policy import NONCE_BYTES, GuestLimits, Policy, is_name
from protocol.membership.roles import NONE, Role, Roles, role_fields
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
@click.option("--default", "is_default", is_flag=True, help="Use it where none is named.")
@base_option
@json_option
def create(
    name: str,
    is_private: bool,
    guests: Roles | None,
    guest_streams: int,
    newcomers_per_min: int,
    is_default: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Found the swarm NAME. This home's node becomes its first admin."""
    if is_private and (guests or guest_streams or newcomers_per_min):
        raise UsageError("a private swarm has no guests", hint="leave out --private, or the others")
    place = new_home(base_of(home), name)
    founder, node, client = make_founder(place), open_identity(place.node), place.client
    policy = Policy(
        name=name,
        nonce=secrets.token_bytes(NONCE_BYTES),
        founders=(founder.public_key,),
        is_private=is_private,
        admins=(node.public_key,),
        guests=NONE if is_private else (guests or GUESTS),
        limits=GuestLimits(newcomers_per_min, guest_streams),
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
        click.echo(json.dumps({**view, "id": state.swarm_id.hex(), "node": node.peer_id}))
        return
    click.echo(f"{name}  {state.swarm_id.hex()}")
    say(f"next: manyhands serve MODEL --swarm {name}, then: manyhands swarm invite --swarm {name}")
    say(f"keep a copy of {place.root / 'membership' / 'founder.key'}: nobody can replace it")


def new_home(base: Path, name: str) -> Home:
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
            f"{base} has a swarm {name} already", hint=f"manyhands swarm leave {name}, or --as NAME"
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


@swarm.command()
@click.argument("who", metavar="PEER|INVITE")
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def revoke(
    who: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """End the membership of PEER, everywhere, within seconds; a later invite may bring it back. Or
    make an invite worthless: those who joined by it stay."""
    from protocol.membership.invites import SCHEME, Invite

    place = place_of(home, name)
    if who.startswith(SCHEME):
        key = Invite.parse(who).token.public_key
    else:
        key = public_key_from_peer_id(PeerId(PeerType().convert(who, None, None)))
    _rule(place, key, Verdict.REVOKED, via, as_json)


@swarm.command()
@click.argument("peer", type=PeerType())
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def deny(
    peer: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """Keep PEER out, whatever certificate or invite it has, until it is allowed again."""
    key = public_key_from_peer_id(PeerId(peer))
    _rule(place_of(home, name), key, Verdict.DENIED, via, as_json)


@swarm.command()
@click.argument("peer", type=PeerType())
@click.option("--role", "roles", type=RolesType(), default="use", help="Default: use.")
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def allow(
    peer: str,
    roles: Roles,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Let PEER in by its id alone; what was denied or revoked before counts no more."""
    key = public_key_from_peer_id(PeerId(peer))
    roles = roles | {Role.OBSERVE}
    _rule(place_of(home, name), key, Verdict.ALLOWED, via, as_json, roles=roles)


def _rule(
    place: Home,
    key: bytes,
    verdict: Verdict,
    via: Sequence[Address],
    as_json: bool,
    *,
    roles: Roles = NONE,
) -> None:
    from manyhands.swarm_telling import learn_and_tell

    state = load_state(place)
    if state.policy.may_admit(key):
        raise UsageError(
            "an admin or founder is always a member", hint="manyhands swarm demote PEER"
        )
    signer = admin_key(place, state)
    # Later than what it replaces, also when that was signed by a clock ahead of ours.
    stamp_ms = max(wall_ms(), state.last_stamp_ms(key) + 1)
    ruling = Ruling(peer=key, verdict=verdict, stamp_ms=stamp_ms, roles=roles)
    state.learn(ruling.seal(state.swarm_id, signer))
    keep_state(place, state)
    told = run(learn_and_tell(place, via))
    _say_told(verdict.value, told, as_json, roles=list(role_fields(roles)))


def _say_told(what: str, told: Sequence[str], as_json: bool, **more: object) -> None:
    if as_json:
        view = {"schema": "manyhands/swarm-ruling/v1", "verdict": what, "told": list(told), **more}
        click.echo(json.dumps(view))
    elif told:
        say(f"{what}; told {len(told)} member(s), who pass it on")
    else:
        say(f"warning: {what}, but no member was reached: it counts once a node of this home runs")


@swarm.command()
@click.argument("peer", type=PeerType())
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def promote(
    peer: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """Make PEER, a node, an admin: it redeems invites, and its home may invite and revoke."""
    place = place_of(home, name)
    _change(place, load_state(place).policy.with_admin(public_key_from_peer_id(PeerId(peer))))
    from manyhands.swarm_telling import learn_and_tell

    _say_told("promoted", run(learn_and_tell(place, via)), as_json)


@swarm.command()
@click.argument("peer", type=PeerType())
@click.option("--via", type=AddressType(), multiple=True, help="Whom to tell. Repeat for more.")
@base_option
@which_option
@json_option
def demote(
    peer: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """Make PEER no admin any more. Certificates that it issued count no more, either."""
    place = place_of(home, name)
    key, state = public_key_from_peer_id(PeerId(peer)), load_state(place)
    _change(place, state.policy.without_admin(key), was=key)
    from manyhands.swarm_telling import learn_and_tell

    _say_told("demoted", run(learn_and_tell(place, via)), as_json)


def _change(place: Home, policy: Policy, was: bytes = b"") -> None:
    """A new policy; what `was`, an admin, has ruled is ruled by the founder from now on."""
    state, founder = load_state(place), founder_key(place)
    taken_over = [
        Ruling(
            peer=held.ruling.peer,
            verdict=held.ruling.verdict,
            stamp_ms=held.ruling.stamp_ms + 1,
            roles=held.ruling.roles,
        )
        for held in state.rulings.values()
        if held.envelope.signers[0] == was
    ]
    state.learn(policy.seal(state.swarm_id, founder))
    for ruling in taken_over:
        state.learn(ruling.seal(state.swarm_id, founder))
    keep_state(place, state)
