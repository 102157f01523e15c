"""`manyhands swarm revoke | deny | allow | promote | demote`: an admin's word on who may stay.

In: a peer or an invite, this home's keys. Out: a ruling or a policy in the home's state, told to a
few members. It takes effect when one member has heard it: the rest is gossip.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from manyhands.home import Home
from manyhands.loops import run
from manyhands.membership import admin_key, founder_key, keep_state, load_state
from manyhands.options import PeerType, base_option, json_option
from manyhands.progress import say
from manyhands.swarm import place_of, swarm, which_option
from manyhands.swarm_options import PlaceType, RolesType, via_option
from manyhands.swarm_telling import learn_and_tell
from protocol.address import Address
from protocol.clock import wall_ms
from protocol.errors import UsageError
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.membership.certificates import Ruling, Verdict
from protocol.membership.invites import SCHEME, Invite
from protocol.membership.policy import Policy
from protocol.membership.roles import NONE, Role, Roles, role_fields


@swarm.command()
@click.argument("who", metavar="PEER|INVITE")
@via_option
@base_option
@which_option
@json_option
def revoke(
    who: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """End the membership of PEER, everywhere, within seconds; a later invite may bring it back. Or
    make an invite worthless: those who joined by it stay."""
    place = place_of(home, name)
    if who.startswith(SCHEME):
        key = Invite.parse(who).token.public_key
    else:
        key = public_key_from_peer_id(PeerId(PeerType().convert(who, None, None)))
    _rule(place, key, Verdict.REVOKED, via, as_json)


@swarm.command()
@click.argument("peer", type=PeerType())
@via_option
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
@via_option
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
@via_option
@base_option
@which_option
@json_option
def promote(
    peer: str, via: tuple[Address, ...], home: Path | None, name: str | None, as_json: bool
) -> None:
    """Make PEER, a node, an admin: it redeems invites, and its home may invite and revoke."""
    place = place_of(home, name)
    _change(place, load_state(place).policy.with_admin(public_key_from_peer_id(PeerId(peer))))
    _say_told("promoted", run(learn_and_tell(place, via)), as_json)


@swarm.command()
@click.argument("peer", type=PeerType())
@via_option
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
    _say_told("demoted", run(learn_and_tell(place, via)), as_json)


@swarm.command("witness")
@click.argument("witness", metavar="NAME")
@click.argument("where", metavar="PEER|ADDR|URL", type=PlaceType())
@via_option
@base_option
@which_option
@json_option
def witness_(
    witness: str,
    where: str,
    via: tuple[Address, ...],
    home: Path | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Say where the witness NAME is found, where credit is granted: it moved, or joined since."""
    place = place_of(home, name)
    policy = load_state(place).policy
    known = dict(policy.witnesses)
    if witness not in known:
        named = ", ".join(known) or "none"
        raise UsageError(
            f"swarm {policy.name} has no witness {witness[:64]!r}",
            hint=f"it was founded with: {named}",
        )
    _change(place, policy.with_witnesses(tuple({**known, witness: where}.items())))
    _say_told("witness", run(learn_and_tell(place, via)), as_json, name=witness, where=where)


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
