"""Whether a commit says of its chain what the client signed (DESIGN 5a.18).

In: a commit, the reserve it follows, who is who. Out: its hops, or the rule that was broken.
"""

import hashlib
from typing import TYPE_CHECKING

from ledger.objects import Route
from node.keeping import require_begun
from protocol.constraints import Constraints
from protocol.identity import PeerId, peer_id_from_public_key, public_key_from_peer_id
from protocol.messages import Commit, Reserve, require
from protocol.signing import Envelope

if TYPE_CHECKING:
    from node.surroundings import Surroundings


def check_commit(
    commit: Commit,
    reserve: Reserve,
    client: str,
    around: "Surroundings",
    constraints: Constraints,
    n_taken: int | None,
) -> None:
    """All that is asked of a commit before anything is run for it.

    n_taken: rows that a hop which leaves has handed over; None: nobody asks whether it had begun.

    Raises:
        PeerMisbehaved, IntegrityError, ManyhandsError: why it is not agreed to.
    """
    require(hashlib.sha256(commit.salt).digest() == reserve.salt_commit, "another salt")
    route = check_route(commit, reserve, client, around.peer_id, around.swarm_id)
    if n_taken is not None:
        require_begun(commit, reserve, n_taken)
    neighbours = (commit.previous, commit.next)
    around.vetting.route(constraints, route, neighbours, commit.records, client)


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
    require(reserve.client_ends or not route.hops[0][1], "a route of ids begins at block 0")
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
