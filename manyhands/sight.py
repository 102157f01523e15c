"""What this machine sees of peers: whether they answer, and all that is known of them just then.

In: a directory of announcements, pings, what earlier clients saw. Out: every peer with what was
seen of it. `looking.py` looks once, `dashboard/watch.py` again and again; both judge by this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manyhands.condition import NOTHING_SAID, Seen
from manyhands.own_words import OwnWords
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.path import Path
from protocol.regions import doubts

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from scheduler.directory import Directory
    from scheduler.peer_record import PeerRecords


@dataclass(slots=True)
class Ping:
    """The newest of one peer. n_missed: those in a row that nobody answered."""

    at_s: float = 0.0
    rtt_ms: float | None = None
    way: Path = Path.DIRECT
    why_not: str = ""
    n_missed: int = 0

    def answered(self, rtt_ms: float, way: Path) -> None:
        self.rtt_ms, self.way, self.why_not, self.n_missed = rtt_ms, way, "", 0

    def missed(self, error: ManyhandsError) -> None:
        self.why_not = error.reason if isinstance(error, PeerError) else str(error)
        self.n_missed += 1


NEVER = Ping()


def seen_in(
    directory: "Directory",
    pings: Mapping[PeerId, Ping],
    records: "PeerRecords",
    own: Mapping[PeerId, OwnWords] | None = None,
    *,
    misses: int = 1,
) -> "dict[Announcement, Seen]":
    """Who serves, in the table's order, then who loads.

    Args:
        own: what nodes of this home said when they were asked.
        misses: so many pings in a row must fail before a peer counts as out of reach.
    """
    now_ms, table = directory.now_ms(), directory.table
    peers, loading = directory.live(), directory.loading()
    slowdowns = records.believed(peers, now_ms / 1000)
    doubted = doubts(peers)

    def seen(peer: "Announcement") -> Seen:
        ping = pings.get(peer.peer_id, NEVER)
        skew_ms, since_ms = table.skew_ms(peer.peer_id, now_ms), peer.measured.since_ms
        is_loading = peer.loading is not None and since_ms > 0
        return Seen(
            rtt_ms=ping.rtt_ms,
            way=ping.way,
            why_not=ping.why_not if ping.n_missed >= misses else "",
            age_s=table.heard_ms(peer.peer_id, now_ms) / 1000,
            slowdown=slowdowns.get(peer.peer_id),
            doubt=str(doubted.get(peer.peer_id, "")),
            own=(own or {}).get(peer.peer_id, NOTHING_SAID),
            skew_s=skew_ms / 1000,
            loading_s=max(0, now_ms - (since_ms - skew_ms)) / 1000 if is_loading else None,
        )

    return {peer: seen(peer) for peer in (*peers, *loading)}
