"""Which line of drafts a hop's rows are of, and what a new line makes void.

In: row groups of a higher branch, draws that were not as drafted. Out: where the rows of the old
line end, for the successor and for `hop_session.py`, which forgets the rest. Branches begin at the
last hop, or at a client that holds the ends, and travel the ring as rows do.

A last hop that drafts sends more ids than it has drawn; a draw that was not as drafted begins a
branch, so that the rollback travels the ring as any other. It has cut its own rows by then.
"""

from protocol.draws import Draws
from protocol.errors import PeerMisbehaved
from protocol.frames import RowGroup
from protocol.links import InLink, OutLink
from protocol.messages import Reserve

TOLD_BRANCHES = 32  # after so many a sender hears that it need not remember where they began


class Branches:
    """Of one session at one hop. The current one is that of the link from the predecessor."""

    __slots__ = ("_in", "_is_bare", "_is_last", "_n", "_out")

    def __init__(self, reserve: Reserve, into: InLink, out: OutLink) -> None:
        self._in, self._out, self._n = into, out, 0
        self._is_last, self._is_bare = reserve.is_last, reserve.client_ends

    def reset(self, n: int) -> None:
        """A new epoch, in which `n` ids are agreed on; both links begin anew."""
        self._n = n

    def begun(self, peer: str, group: RowGroup) -> bool:
        """Drafts were refused, or the client came back to an earlier row: those from `group.fork`
        on are void. The successor may have rows of the old line that this hop has not, so it is
        told in any case. Whether the predecessor is to hear how far we are: now and then.

        Raises:
            PeerMisbehaved: it may not begin one, or not there.
        """
        floor = 0 if self._is_bare else self._n - 1
        if group.fork < floor:
            raise PeerMisbehaved(peer, "it rolled back below the committed length")
        if self._is_last:
            raise PeerMisbehaved(peer, "it began a branch, which is for the last hop to do")
        self._out.fork(group.branch, group.fork)
        return group.branch // TOLD_BRANCHES != self._in.branch // TOLD_BRANCHES

    def refused(self, draws: Draws) -> bool:
        """At the last hop: whether rows behind the last id are void by what was drawn just now."""
        refused_at, draws.refused_at = draws.refused_at, None
        if refused_at is None and self._out.sent <= draws.available:
            return False
        self._in.branch += 1  # rows of older ones are dropped from now on
        if refused_at is not None:
            self._out.fork(self._in.branch, refused_at)
        return True
