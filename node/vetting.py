"""Whether a peer may be next to this node in a session, by what the session's client asks for.

In: what the client signed, a route, the table of announcements. Out: nothing, or a refusal that
names the constraint and the peer. This node itself is judged when a session is admitted, its
neighbours each time a commit names them, before a row goes to them, whoever takes rows over or
copies them when it does, and all of them again while the session runs, since announcements change.
Of whom nothing is known here, nothing is believed: clients send what they know of the neighbours
along with a commit.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from protocol.announcement_table import AnnouncementTable
from protocol.announcements import Announcement
from protocol.clock import wall_ms
from protocol.constraints import Constraints
from protocol.errors import ConstraintBroken, PeerBusy
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.membership.gate import Membership
from protocol.messages import MAX_RECORDS_BYTES, Reserve
from protocol.record_pages import take
from protocol.regions import Doubt, doubts

if TYPE_CHECKING:
    from node.hop import Hop

log = logging.getLogger(__name__)

HINT = "manyhands route explain shows who is outside, and why"
AGAIN_S = 2.0  # between looks at what measurements say of regions


class Vetting:
    """Of one node. `own`: what it announces. `membership`: None where nobody has certificates."""

    def __init__(
        self,
        peer_id: PeerId,
        swarm_id: bytes,
        table: AnnouncementTable,
        own: Callable[[], Announcement],
        membership: Membership | None = None,
    ) -> None:
        self._peer_id, self._swarm_id = peer_id, swarm_id
        self._table, self._own, self._membership = table, own, membership
        self._doubted: Mapping[PeerId, Doubt] = {}
        self._seen: tuple[Announcement, ...] = ()
        self._seen_s = self._looked_s = float("-inf")

    def opened(self, reserve: Reserve, client: str) -> Constraints:
        """What the client asks for, which this node keeps to itself.

        Raises:
            IntegrityError, PeerMisbehaved: the client has not signed it for this session.
            VersionMismatch: it asks for what this version does not know.
            ConstraintBroken: this node is outside.
        """
        constraints = Constraints.open(
            reserve.constraints,
            reserve.session,
            self._swarm_id,
            public_key_from_peer_id(client),
        )
        if constraints:
            self._check(constraints, self._own())
        return constraints

    def route(
        self,
        constraints: Constraints,
        route: Sequence[PeerId],
        around: Iterable[str],
        records: bytes,
        client: str,
    ) -> None:
        """Return if this route is within the constraints, and so are the peers `around` us.

        Raises:
            ConstraintBroken: one is outside, or a required one is missing.
            PeerBusy: nothing is known here of a neighbour.
        """
        if not constraints:
            return
        if records:
            take(self._table, records, sender=client, now_ms=wall_ms(), max_bytes=MAX_RECORDS_BYTES)
        for peer in route:
            if (broken := constraints.broken_by_id(peer)) is not None:
                raise _broken(peer, *broken)
        if (absent := constraints.missing_from(route)) is not None:
            raise _broken(absent, "require", "it is required, and in no hop of the route")
        self._around(constraints, around, client)

    def peer(self, constraints: Constraints, peer: PeerId) -> None:
        """Return if `peer` may have, or give, rows of the session.

        Raises:
            ConstraintBroken: it is outside.
            PeerBusy: nothing is known of it here.
        """
        if not constraints:
            return
        announced = self._table.get(peer, wall_ms())
        if announced is None:
            raise PeerBusy(
                "", f"nothing is known here of {peer}, whom the session's constraints are about"
            )
        self._check(constraints, announced)

    def look_again(self, hops: Iterable["Hop"], now_s: float) -> None:
        """End what has got a neighbour outside its constraints, or is outside itself, by now."""
        if now_s - self._looked_s < AGAIN_S:
            return
        self._looked_s = now_s
        for hop in [hop for hop in hops if hop.constraints]:
            commit = hop.session.commitment
            around = (commit.previous, commit.next) if commit is not None else ()
            try:
                self._check(hop.constraints, self._own())
                self._around(hop.constraints, around, hop.client)
            except ConstraintBroken as error:
                log.warning("a neighbour is outside", extra={"error": str(error)})
                hop.refuse(error)
            except PeerBusy:  # it is silent now: others see to that
                continue

    def _around(self, constraints: Constraints, around: Iterable[str], client: str) -> None:
        for peer in around:
            if peer not in (self._peer_id, client):
                self.peer(constraints, PeerId(peer))

    def _check(self, constraints: Constraints, announced: Announcement) -> None:
        certified = self._membership.groups_of(announced) if self._membership else None
        doubt = self._doubt(announced.peer_id) if constraints.regions else None
        found = constraints.broken_by(announced, certified=certified, doubt=str(doubt or ""))
        if found is not None:
            raise _broken(announced.peer_id, *found)

    def _doubt(self, peer: PeerId) -> Doubt | None:
        live, now_s = self._table.live(wall_ms()), time.monotonic()
        if live is not self._seen and now_s - self._seen_s >= AGAIN_S:
            self._doubted, self._seen, self._seen_s = doubts(live), live, now_s
        return self._doubted.get(peer)


def _broken(peer: str, constraint: str, why: str) -> ConstraintBroken:
    reason = f"it is outside the session's constraint {constraint}: {why}"
    return ConstraintBroken(peer, reason, constraint=constraint, hint=HINT)
