"""A hop takes the place of one that leaves, and with it what that one has run (DESIGN 5a.19).

In: a reserve that names the leaver and carries the client's note. Out: an empty lease and journal
filled from the leaver. What cannot be had is run again, so every failure here costs time and
nothing else.
"""

import logging
import time
from typing import TYPE_CHECKING

from node.batching import Batcher
from node.engine import Lease
from node.pulling import Pull
from node.served import Served
from protocol.constraints import Constraints
from protocol.errors import ManyhandsError, PeerUnreachable
from protocol.handover import Note
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.journal import Journal
from protocol.messages import Reserve, require
from protocol.patience import HANDOVER_S
from protocol.transport import Transport

if TYPE_CHECKING:
    import torch

    from node.surroundings import Surroundings

log = logging.getLogger(__name__)

TAKING_S = HANDOVER_S / 2  # in all; what is there by then is what the hop begins with
CLOSE_ROWS = 4  # are run again sooner than they are caught up with


class Taking:
    """Of one session."""

    def __init__(
        self,
        transport: Transport,
        reserve: Reserve,
        client: str,
        swarm_id: bytes,
        *,
        profile: str,
        row_bytes: int,
        dtype: "torch.dtype",
    ) -> None:
        """Raises PeerMisbehaved, IntegrityError: the client has not signed that we take it."""
        note = Note.open(reserve.handover.note, swarm_id, public_key_from_peer_id(client))
        agreed = Note(
            session=reserve.session,
            epoch=reserve.epoch,
            giver=public_key_from_peer_id(reserve.handover.peer),
            taker=public_key_from_peer_id(transport.peer_id),
            span=reserve.span,
            most_drafts=note.most_drafts,
        )
        require(note == agreed, "the note is about another handover")
        self._pull = Pull(
            transport,
            reserve,
            limit=reserve.capacity,
            profile=profile,
            row_bytes=row_bytes,
            dtype=dtype,
        )

    async def copied_to(self, lease: Lease, journal: Journal, batcher: Batcher) -> int:
        """Begin an empty lease and journal with the leaver's rows; how many they are now."""
        began_s = time.monotonic()
        try:
            until_s = began_s + TAKING_S
            await self._pull.into(lease, journal, batcher, until_s=until_s, close_rows=CLOSE_ROWS)
            length = lease.length
        except (ManyhandsError, ValueError, RuntimeError) as error:  # torch's own, the last one
            log.warning("a handover ended early", extra={"error": str(error)})
            length = lease.length if isinstance(error, PeerUnreachable) else 0
        if not max(lease.floor, journal.length, 1) <= length <= lease.length:
            length = 0
            lease.cut(0)
            journal.cut(0)
        spent_s = round(time.monotonic() - began_s, 3)
        log.info("took over rows", extra={"rows": length, "seconds": spent_s})
        return length


def taking_of(
    reserve: Reserve, client: str, constraints: Constraints, served: Served, around: "Surroundings"
) -> Taking | None:
    """What a hop that leaves hands over to this session here.

    Raises:
        ManyhandsError: that hop may not, or the client has not signed it.
    """
    if not reserve.handover.peer:
        return None
    around.vetting.peer(constraints, PeerId(reserve.handover.peer))
    return Taking(
        around.transport,
        reserve,
        client,
        around.swarm_id,
        profile=str(served.profile),
        row_bytes=served.row_bytes,
        dtype=served.engine.dtype,
    )
