"""What a node says of itself: to the whole swarm, and to whoever asks how it is.

In: a node as it is now. Out: the draft of its announcement, and public counters. While nothing is
loaded, for moments of a move, it announces what it served last.
"""

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from node.serving import Serving, summary
from protocol.announcements import Announcement

if TYPE_CHECKING:
    from node.node import Node


class OwnWords:
    """One node's."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._last: Announcement | None = None

    def remember(self, serving: Serving) -> None:
        """Go on announcing this, which ends, until something else is served."""
        self._last = replace(self._draft(serving), n_sessions=0, kv_free_bytes=0)

    def draft(self) -> Announcement:
        """What to announce now; while nothing is loaded, what it was."""
        node = self._node
        said = self._draft(node.loaded) if node.loaded is not None else self._last
        assert said is not None, "it ended what it had"
        relayed = node.gossip.links.relayed(time.monotonic())
        measured = replace(
            said.measured,
            state=node.state,
            relayed=relayed,
            **node.pausing.said(),
            up_bytes_per_s=node.bandwidth.up_bytes_per_s,
            down_bytes_per_s=node.bandwidth.down_bytes_per_s,
            relay_slots=node.carrying.n_slots,
        )
        return replace(said, measured=measured)

    def _draft(self, serving: Serving) -> Announcement:
        node = self._node
        return Announcement(
            peer_id=node.peer_id,
            addresses=node.addresses,
            model=serving.model.name,
            manifest=serving.model.digest,
            n_blocks=serving.engine.n_blocks,
            span=serving.span,
            profile=str(serving.profile),
            decode_us=serving.vitals.decode_us,
            prefill_us_per_row=serving.vitals.prefill_us_per_row,
            kv_free_bytes=serving.sessions.open_bytes,
            max_positions=serving.engine.max_positions,
            n_sessions=len(serving.sessions),
            region=node.settings.region,
            software=node.standing.software,
            offer=serving.offer().encode(),
            adapters=serving.engine.adapters.names,
            membership=node.belonging.credential if node.belonging else b"",
            reach=node.whereabouts.reach,
            measured=replace(
                serving.measured(),
                since_ms=node.standing.since_ms,
                group=node.settings.group,
            ),
        )

    def status(self) -> dict[str, object]:
        """Public counters; `manyhands status` and the tests read them."""
        node = self._node
        return {
            "schema": "manyhands/node-status/v1",
            "peer": node.peer_id,
            "addresses": [str(address) for address in node.addresses],
            "reach": node.whereabouts.status(),
            "software": node.standing.software,
            "state": node.state.value,
            **node.compliance.status(),
            **node.pausing.status(),
            "tasks": len(asyncio.all_tasks()),
            "guard": node.guard.status(),
            "moving": node.mover.status() if node.mover else None,
            "weights_shared_bytes": node.shared.bytes_shared,
            "libp2p": node.discovery.status() if node.discovery else None,
            **node.carrying.status(),
            **(node.loaded.status() if node.loaded else summary(self.draft())),
        }
