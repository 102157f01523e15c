"""How far other peers are from this one: round trips as exchanges measured them.

In: measurements. Out: the least of each peer's recent ones, since queues and a busy event loop only
ever add to a link's latency, and the first measurement, on a cold connection, is the worst.
"""

from collections import deque

from protocol.announcements import Link
from protocol.identity import PeerId
from protocol.told_links import told_links

MAX_SAMPLES = 16
MAX_AGE_S = 300.0
MAX_PEERS = 1_000


class LinkTimes:
    """See the module. `at_s` and `now_s` are of one monotonic clock."""

    def __init__(self) -> None:
        self._samples: dict[PeerId, deque[tuple[float, float]]] = {}

    def learn(self, peer_id: PeerId, rtt_s: float, *, at_s: float) -> None:
        self._samples.setdefault(peer_id, deque(maxlen=MAX_SAMPLES)).append((at_s, rtt_s))
        if len(self._samples) > MAX_PEERS:
            oldest = min(self._samples, key=lambda peer: self._samples[peer][-1][0])
            del self._samples[oldest]

    def rtt_s(self, peer_id: PeerId, now_s: float) -> float | None:
        """The least round trip measured lately."""
        samples = self._samples.get(peer_id, ())
        return min((rtt_s for at_s, rtt_s in samples if now_s - at_s < MAX_AGE_S), default=None)

    def best(self, now_s: float) -> tuple[Link, ...]:
        """The links worth telling, as many as an announcement holds."""
        measured = ((peer_id, self.rtt_s(peer_id, now_s)) for peer_id in self._samples)
        links = [Link(peer, round(rtt_s * 1e6)) for peer, rtt_s in measured if rtt_s is not None]
        return told_links(links)
