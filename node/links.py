"""How far other peers are from this one: round trips as exchanges measured them.

In: measurements, and whether a relay carried them. Out: the least of each peer's recent ones, since
queues and a busy event loop only ever add to a link's latency, and the first measurement, on a cold
connection, is the worst. None is trusted for ever: a sample ages, and goes. What a relay carried
says nothing about the direct way, so the two are kept apart, and the direct way counts as soon as
it has been measured.
"""

from collections import deque
from collections.abc import Callable

from protocol.announcements import Link
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.path import Path
from protocol.told_links import told_links

MAX_SAMPLES = 16
MAX_AGE_S = 300.0
MAX_PEERS = 1_000


class LinkTimes:
    """See the module. `at_s` and `now_s` are of one monotonic clock."""

    def __init__(self) -> None:
        self._samples: dict[PeerId, dict[Path, deque[tuple[float, float]]]] = {}
        self.heard: Callable[[float, Path], None] = lambda rtt_s, path: None  # may be set

    def learn(
        self, peer_id: PeerId, rtt_s: float, *, at_s: float, path: Path = Path.DIRECT
    ) -> None:
        self.heard(rtt_s, path)
        paths = self._samples.pop(peer_id, {})  # who was measured last stands last
        self._samples[peer_id] = paths
        paths.setdefault(path, deque(maxlen=MAX_SAMPLES)).append((at_s, rtt_s))
        if len(self._samples) > MAX_PEERS:
            del self._samples[next(iter(self._samples))]

    def rtt_s(self, peer_id: PeerId, now_s: float) -> float | None:
        """The least round trip measured lately: directly, or else as best can be."""
        for path in Path:
            if (rtt_s := self._least(peer_id, path, now_s)) is not None:
                return rtt_s
        return None

    def is_relayed(self, peer_id: PeerId, now_s: float) -> bool:
        """Whether it has been measured lately, and not directly."""
        direct = self._least(peer_id, Path.DIRECT, now_s)
        return direct is None and self.rtt_s(peer_id, now_s) is not None

    def best(self, now_s: float) -> tuple[Link, ...]:
        """The links worth telling, as many as an announcement holds."""
        measured = ((peer_id, self.rtt_s(peer_id, now_s)) for peer_id in self._samples)
        links = [Link(peer, round(rtt_s * 1e6)) for peer, rtt_s in measured if rtt_s is not None]
        return told_links(links)

    def relayed(self, now_s: float) -> tuple[bytes, ...]:
        """Of the links worth telling, the public keys of those that a relay carried."""
        told = (link.peer_id for link in self.best(now_s))
        return tuple(public_key_from_peer_id(p) for p in told if self.is_relayed(p, now_s))

    def _least(self, peer_id: PeerId, path: Path, now_s: float) -> float | None:
        samples = self._samples.get(peer_id, {}).get(path, ())
        return min((rtt_s for at_s, rtt_s in samples if now_s - at_s < MAX_AGE_S), default=None)
