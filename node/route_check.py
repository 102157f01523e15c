"""Whether a commit says of its chain what the client signed (DESIGN 5a.18).

In: a commit, the reserve it follows, who is who. Out: its hops, or the rule that was broken.
"""

from ledger.objects import Route
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.messages import Commit, Reserve, require
from protocol.signing import Envelope


def check_route(
    commit: Commit, reserve: Reserve, client: str, ours: str, swarm_id: bytes
) -> list[PeerId]:
    """All hops of the signed route, if it names us, our span and our neighbours.

    Raises:
        PeerMisbehaved: it does not.
        IntegrityError: it is not the client's.
    """
    client_key, our_key = public_key_from_peer_id(client), public_key_from_peer_id(ours)
    route = Route.open(Envelope.decode(commit.route), swarm_id, client_key)
    place = (our_key, reserve.span.start, reserve.span.stop)
    keys = [hop[0] for hop in route.hops]
    require(place in route.hops, "the route does not name this hop")
    at = route.hops.index(place)
    if reserve.client_ends:
        around = [client_key, *keys, client_key]
        neighbours = (around[at], around[at + 2])
    else:
        neighbours = (keys[at - 1], keys[(at + 1) % len(keys)])
    named = tuple(map(public_key_from_peer_id, (commit.previous, commit.next)))
    require(neighbours == named, "the route names other neighbours than the commit")
    agreed = (route.session, route.epoch) == (reserve.session, commit.epoch)
    require(agreed, "the route is of another session or epoch")
    return [peer_id_from_public_key(key) for key in keys]
