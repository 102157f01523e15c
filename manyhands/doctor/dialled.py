"""Having peers dial the port of a machine on which no node runs: what serving there would meet.

In: peers that were met, and where a node would listen. Out: what those say who dialled, by the
rules that a running node goes by (`node.reaching`). For some seconds something listens at that port
that answers no call; a node that runs asks peers by itself, and `reachability` has its verdict.
"""

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, Verdict, ok, skip, warn
from manyhands.doctor.network import port_finding
from manyhands.home import KEY_NAME
from manyhands.party import Party, open_party
from manyhands.running import found_running
from manyhands.whereabouts import advice
from node.reachability import Finding as Found
from node.reaching import Reaching
from protocol.reachability import Reach, Scope, scope_of
from protocol.transport import Service
from protocol.transport.one_port import OnePort


async def _dialled_back(case: Case) -> Finding:
    if any(each.command == "serve" for each in found_running(case.home)):
        return skip("the node that runs here asks peers itself: see reachability")
    port, met = await port_finding(case), await case.met()
    if port.verdict not in (Verdict.OK, Verdict.SKIP):
        return skip(f"nothing can listen there: {port.reason}")
    others = met.directory.live()
    if not met.n_answered or not others:
        return skip("nobody was met who could dial this machine: doctor --join ADDR")
    transport = (await _party(case)).transport()
    listener = await transport.listen(*case.endpoint, Service())
    try:
        bound = listener.addresses[0].port
        reaching = Reaching(
            transport,
            lambda: others,
            lambda: listener.addresses,
            lambda: (bound,),
            lambda: None,
            one_port=OnePort,
        )
        await reaching.round()
    finally:
        await listener.aclose(grace_s=0)
    return dialled_finding(reaching.finding, bound)


async def _party(case: Case) -> Party:
    """A node is dialled back, where a swarm has members: clients are no business of others."""
    if (case.home.node / KEY_NAME).exists():
        return open_party(case.home, "node")
    return await case.party()


def dialled_finding(found: Found, port: int) -> Finding:
    """About a port that peers were asked to dial, by what came of it."""
    if not found.witnesses:
        return skip("nobody who was met dialled back: each is older, declines, or cannot be asked")
    reach = Reach(verdict=found.verdict, nat=found.nat)
    if not reach.is_dialable:
        return warn(found.why, advice(reach, port))
    if not found.confirmed:
        return skip(found.why)
    best = found.confirmed[0]
    n_peers = sum(each.reached and each.endpoint == best for each in found.witnesses)
    is_local = scope_of(best.host) is not Scope.WORLD
    limits = "; they are of this network, and say nothing of strangers" if is_local else ""
    return ok(f"{n_peers} peer(s) dialled {best} and got through{limits}")


CHECKS = (Check("dial-back", "whether peers can dial this machine's port", _dialled_back, 60.0),)
