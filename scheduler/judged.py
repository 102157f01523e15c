"""What a client saw of peers itself, as the route search takes it.

In: announcements, the directory's round trips, the client's own records. Out: milliseconds and
factors by which what peers say of themselves is corrected.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

from protocol.announcements import Announcement
from protocol.identity import PeerId
from scheduler.directory import Directory
from scheduler.latency import Pair
from scheduler.peer_record import PeerRecords

BROKEN_RTT_MS = 10_000.0  # of a link that does not stand, or whose ends contradict each other


class Judged(TypedDict):
    """Arguments of `find_routes` and `find_replacement`."""

    rtt_ms: Mapping[Pair, float]
    slowdown: Mapping[PeerId, float]
    extra_ms: Mapping[PeerId, float]


def judged(peers: Sequence[Announcement], directory: Directory, records: PeerRecords) -> Judged:
    now_s = time.time()
    avoided = [*records.broken_links(now_s), *records.disputed_links(now_s)]
    return {
        "rtt_ms": directory.rtt_ms | dict.fromkeys(avoided, BROKEN_RTT_MS),
        "slowdown": records.believed(peers, now_s),
        "extra_ms": records.risk_ms(peers, now_s),
    }
