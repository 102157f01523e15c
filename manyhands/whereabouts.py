"""How a node can be reached, in words: for its own people, and with what mends it.

In: what a node found out of itself, or announces. Out: lines for `serve`, `status`, `peers` and the
doctor, that all say the same.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from manyhands.progress import say
from protocol.address import Address
from protocol.errors import UsageError
from protocol.identity import PeerId
from protocol.reachability import Nat, Reach, Scope, Verdict, scope_of

if TYPE_CHECKING:
    from manyhands.preparing import Wanted
    from node.node import Node
    from node.whereabouts import Ways

ANY = ("0.0.0.0", "::")
ROUTER_S = 5.0  # that a ready line waits for a router's answer, at most


def check_mapping(wanted: "Wanted") -> None:
    """
    Raises:
        UsageError: a router cannot forward a port to a node that listens for this machine alone.
    """
    host = wanted.listen[0] if wanted.listen else ANY[0]
    if wanted.map_port and host not in ANY and scope_of(host) is Scope.MACHINE:
        raise UsageError(
            f"no router forwards a port to {host}",
            hint="listen on 0.0.0.0, which is the default, or leave out --map-port",
        )


def ways_of(wanted: "Wanted") -> "Ways":
    """How a node that was asked for in this way may be reached."""
    from node.ports import PortMapper
    from node.whereabouts import Ways
    from protocol.transport.one_port import OnePort

    return Ways(
        announce=wanted.announce,
        mapper=PortMapper() if wanted.map_port else None,
        one_port=OnePort,
    )


async def ready_fields(node: "Node") -> dict[str, object]:
    """What the ready line says of it; waits for the router, if that was asked for a port."""
    mapper = node.whereabouts.mapper
    fields: dict[str, object] = {"reach": node.whereabouts.reach.verdict.value}
    if mapper is None:
        return fields
    with suppress(TimeoutError):
        async with asyncio.timeout(ROUTER_S):
            await mapper.tried()
    if mapper.problem:
        say(f"no port at the router: {mapper.problem}")
    return {**fields, "port_mapping": mapper.status()}


def spoken(reach: Reach) -> str:
    """The verdict as the end of a sentence about a node."""
    match reach.verdict:
        case Verdict.UNKNOWN:
            return "too few peers have tried to dial it yet"
        case Verdict.DIRECT:
            return "peers reach it directly"
        case Verdict.MAPPED:
            return "peers reach it through a port of its router"
        case Verdict.FIREWALLED:
            return "nothing from outside gets through to it: a firewall"
        case Verdict.NAT:
            kind = "" if reach.nat in (Nat.UNKNOWN, Nat.NONE) else f", whose mapping is {reach.nat}"
            return f"it is behind a router that forwards nothing to it{kind}"


def advice(reach: Reach, port: int) -> str:
    """What its people can do, so that strangers reach it at `port`; "" where nothing is to do."""
    match reach.verdict:
        case Verdict.FIREWALLED:
            return (
                f"open TCP port {port} in its firewall (manyhands doctor --only firewall); "
                "until then relays carry it, where the swarm has some"
            )
        case Verdict.NAT:
            return (
                f"forward TCP port {port} to this machine in the router, or let the node ask it: "
                "manyhands serve … --map-port; until then relays carry it, where the swarm has some"
            )
    return ""


def reach_view(reach: Reach, addresses: Sequence[Address], why: str) -> dict[str, object]:
    """Of a node that announces this of itself; `why` is what it says when it is asked."""
    port = addresses[0].port if addresses else 0
    return {
        "verdict": reach.verdict.value,
        "nat": reach.nat.value,
        "confirmed": [str(address) for address in addresses[: reach.n_confirmed]],
        "told": spoken(reach),
        "why": why,
        "fix": advice(reach, port),
    }


def peers_of(addresses: Iterable[str]) -> set[PeerId]:
    """Whose addresses these are, as far as they are any."""
    found = set()
    for text in addresses:
        with suppress(UsageError):
            found.add(Address.parse(text).peer_id)
    return found
