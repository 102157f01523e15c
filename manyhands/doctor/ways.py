"""Checks of the ways in, where nobody can dial this machine: its router, a port there, relays.

In: what the running node of this home says of itself, the router, who announces to relay. Out: what
of these would carry others to a node here. The router is asked for its address alone, in each of
the ways in which a node would ask it for a port: nothing is mapped, no place at a relay is taken.
"""

import asyncio
from collections.abc import Sequence

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, ok, skip, warn
from manyhands.doctor.meeting import DIAL_S
from manyhands.own_words import OwnWords, PortAsked
from manyhands.running import found_running
from manyhands.whereabouts import peers_of
from node.ports import PortMapping, RouterRefused
from node.ports.mapper import usual_ways
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.reachability import Nat, Scope, scope_of

MAX_RELAYS = 4  # that are dialled
BY_HAND = "forward the port to this machine in the router by hand (docs/network.md)"


async def _nat(case: Case) -> Finding:
    own = await case.own_words()
    return skip("no node runs on this home") if own is None else nat_finding(own.nat)


def nat_finding(nat: str) -> Finding:
    """About the router before a node that says this of it."""
    match nat:
        case Nat.NONE:
            return ok("peers see this machine's own address: no router translates it")
        case Nat.ENDPOINT_INDEPENDENT:
            return ok("the router maps a port alike towards all: holes can be punched through it")
        case Nat.SYMMETRIC:
            return warn(
                "the router maps a port anew towards each peer: no hole can be punched through it",
                "have a port forwarded: manyhands serve … --map-port; else relays carry the node",
            )
    return skip("peers have not told yet how the router maps this node")


async def _port_mapping(case: Case) -> Finding:
    own = await case.own_words()
    if own is not None and own.port is not None:
        return mapping_finding(own.port)
    return await router_finding(await usual_ways())


def mapping_finding(port: PortAsked) -> Finding:
    """About what the node of this home got of its router, which it asked for a port."""
    if port.problem:
        return warn(f"the node asked the router for a port: {port.problem}", BY_HAND)
    return ok(f"the router forwards {port.external} to the node, by {port.protocol}")


async def router_finding(ways: Sequence[PortMapping]) -> Finding:
    """About a router that no node has asked yet, by whether it answers in any of these ways."""
    told = dict(zip(ways, await asyncio.gather(*map(_told_by, ways)), strict=True))
    hosts = {way.name: host for way, host in told.items() if isinstance(host, str)}
    if not hosts:
        why = "; ".join(f"{way.name}: {refused}" for way, refused in told.items())
        return skip(f"no router takes wishes here: {why}" if why else "this machine has no router")
    outside, by = next(filter(None, hosts.values()), ""), ", ".join(hosts)
    if outside and scope_of(outside) is not Scope.WORLD:
        reason = f"the router's own address {outside} is private: a port of it leads to nobody"
        return warn(
            f"{reason} outside", "forward the port in the router before it, too, or rely on relays"
        )
    where = (
        f"the router is {outside} outside" if outside else "the router does not tell its address"
    )
    return ok(f"{where}, and takes wishes by {by}: manyhands serve … --map-port")


async def _told_by(way: PortMapping) -> str | RouterRefused:
    try:
        return await way.external_host()
    except RouterRefused as error:
        return error


async def _relays(case: Case) -> Finding:
    met, own = await case.met(), await case.own_words() or OwnWords()
    ours = {peer for each in found_running(case.home) for peer in peers_of(each.addresses)}
    relays = {
        peer.peer_id: (peer.measured.relay_slots, direct)
        for peer in met.directory.live()
        if peer.measured.relay_slots
        and peer.peer_id not in ours
        and (direct := [address for address in peer.addresses if not address.relay])
    }
    held = f"; {len(own.places)} carry this home's node" if own.places else ""
    if not relays:
        return skip(f"nobody who was met relays for others{held}")
    transport = (await case.party()).transport()

    async def answers(address: Address) -> bool:
        try:
            connection = await transport.dial(address, timeout_s=DIAL_S)
        except ManyhandsError:
            return False
        await connection.aclose()
        return True

    async def answers_somewhere(addresses: list[Address]) -> bool:
        return any(await asyncio.gather(*map(answers, addresses)))

    dialled = [addresses for _, addresses in relays.values()][:MAX_RELAYS]
    came = sum(await asyncio.gather(*map(answers_somewhere, dialled)))
    slots = sum(n_slots for n_slots, _ in relays.values())
    told = f"{len(relays)} peers relay, with room for {slots} more; {came} of {len(dialled)} answer"
    if not came:
        return warn(told + held, "let this machine dial out: manyhands doctor --only bootstrap")
    return ok(told + held)


CHECKS = (
    Check("nat", "how the router before this home's node maps it", _nat, 20.0),
    Check("port-mapping", "whether the router forwards a port here, or would", _port_mapping, 20.0),
    Check("relays", "whether peers relay, and can be dialled from here", _relays, 40.0),
)
