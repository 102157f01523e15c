"""An invite, redeemed: a home that belongs to the swarm.

In: the line that begins with mh://, where homes are. Out: the swarm's name there, its home, and as
whom it was joined. The registrar is asked at each of the invite's addresses in turn.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from manyhands.home import SWARMS, Home, open_identity
from manyhands.membership import enter, load_state
from manyhands.swarm import new_home
from protocol.clock import wall_ms
from protocol.errors import (
    ConfigError,
    IntegrityError,
    ManyhandsError,
    NotAMember,
    PeerUnreachable,
    UsageError,
)
from protocol.identity import Identity
from protocol.membership.invites import METHOD, Grant, Invite, Redemption, roles_of_home
from protocol.membership.joining import Joined, accept
from protocol.membership.roles import Roles

TIMEOUT_S = 10.0
ANOTHER_NAME = "call this one --as NAME"


@dataclass(frozen=True, slots=True)
class Redeemed:
    """peers, roles: by who they are of this home, `node` and `client`."""

    name: str
    swarm_id: bytes
    place: Home
    peers: Mapping[str, str]
    roles: Mapping[str, Roles]


async def redeem(text: str, name: str | None, base: Path) -> Redeemed:
    """Join by it, or renew a membership. name: what to call the swarm here; None: as it does.

    Raises:
        UsageError: that is no invite, or another swarm has the name here.
        ManyhandsError: no registrar can be reached, or it refuses.
    """
    if not all(isinstance(each, str) for each in (text, name or "")):  # programs join too
        raise UsageError("an invite and a name are text", hint="the line that begins with mh://")
    invited = Invite.parse(text)
    name = name or invited.name
    place = await asyncio.to_thread(_home_for, base, name, invited)
    granted = Grant.open(invited.grant, invited.swarm_id)
    parties = {"node": open_identity(place.node), "client": open_identity(place.client)}
    roles = dict(zip(parties, roles_of_home(granted.roles), strict=True))
    joining = {who: identity for who, identity in parties.items() if roles[who]}
    joined = await _ask(invited, {joining[who]: roles[who] for who in joining})
    shown = {who: joined.credentials[identity.peer_id] for who, identity in joining.items()}
    enter(place, joined.state, shown, invited.addresses)
    return Redeemed(
        name,
        joined.state.swarm_id,
        place,
        {who: identity.peer_id for who, identity in joining.items()},
        {who: roles[who] for who in joining},
    )


def _home_for(base: Path, name: str, invited: Invite) -> Home:
    root = base / SWARMS / name
    if (root / "membership").exists():
        if load_state(Home(root)).swarm_id != invited.swarm_id:
            raise UsageError(f"{base} knows another swarm by the name {name}", hint=ANOTHER_NAME)
        return Home.at(root)
    return new_home(base, name, again=ANOTHER_NAME)


async def _ask(invited: Invite, members: dict[Identity, Roles]) -> Joined:
    from protocol.transport.grpc import GrpcTransport

    keys = {identity.key: roles for identity, roles in members.items()}
    request = Redemption.request(invited.grant, invited.swarm_id, invited.token, keys)
    transport = GrpcTransport(next(iter(members)), invited.swarm_id)
    in_order = sorted(identity.public_key for identity in members)
    failure: ManyhandsError = ConfigError("the invite names no address")
    refused: NotAMember | None = None  # tells more than that another address does not answer
    for address in invited.addresses:
        try:
            answer = await transport.ask_openly(address, METHOD, request, timeout_s=TIMEOUT_S)
            return accept(answer, invited, in_order, wall_ms())
        except NotAMember as error:
            hint = "ask for another one: manyhands swarm invite"
            refused = NotAMember(error.peer_id, _why_refused(invited), hint=hint)
        except IntegrityError:
            raise
        except PeerUnreachable as error:
            reason = f"the node that redeems this invite does not answer: {error.reason}"
            hint = "ask whoever invited you to run it: manyhands serve MODEL, in that swarm"
            failure = PeerUnreachable(error.peer_id, reason, hint=hint)
        except ManyhandsError as error:
            failure = error
    raise refused or failure


def _why_refused(invited: Invite) -> str:
    """The registrar tells nobody; when it ends stands in the invite itself."""
    ends_ms = Grant.open(invited.grant, invited.swarm_id).expires_ms
    if ends_ms < wall_ms():
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(ends_ms / 1000))
        return f"the invite ended on {ended}"
    return "the invite is worth nothing there: used up, revoked or not for you"
