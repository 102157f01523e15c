"""Whom a hop's word of a failure costs its place: itself, or another hop that it accuses.

In: what it said. Out: peers to go on without, each with the reason.
"""

from collections.abc import Container

from protocol.errors import (
    ConstraintBroken,
    ManyhandsError,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
)


def lost_by(
    error: ManyhandsError, peer: str, hops: Container[str], *, is_resumed: bool
) -> list[tuple[str, ManyhandsError]]:
    """`peer` said `error`. is_resumed: on a control stream that continues a lost one."""
    if is_resumed and isinstance(error, PeerRefused):
        error = PeerUnreachable(peer, error.reason)  # the session is gone there, not the peer
    accused = error.peer_id if isinstance(error, PeerMisbehaved | ConstraintBroken) else peer
    if accused != peer and accused in hops:
        # One of the two lies; neither's word is worth a second try in this session.
        return [(accused, error), (peer, PeerError(peer, f"it could not go on: {error}"))]
    return [(peer, error)]
