"""How often a node speaks: a small swarm hears news of everything, a large one costs no more.

In: how many records the table holds. Out: the intervals. Every node pays for the records and beats
of all, so their intervals grow with the table beyond a few hundred peers, and its share of bytes
stays the same: at 1,000 records about 15 beats and half a record a second, each received and passed
on once. What this costs is told in DECISIONS.md, what it measured to in benchmarks/RESULTS.md.
"""

from dataclasses import dataclass, replace

from protocol.announcements import MAX_LIFETIME_MS
from protocol.heartbeats import MAX_BEATS

N_QUICK = 150  # up to so many records a beat follows every `refresh_s`
RECORD_EVERY = 0.18  # times `refresh_s` and the number of records: what a full record waits
CHANGE_EVERY = 0.03  # the same, of a peer whose load or room has changed
FIRST_BEATS = 12  # of a newcomer that knows nobody yet
N_PROMPT = 330  # up to so many records exchanges keep their first interval
SLOWEST = 3.0  # times that


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipTiming:
    """How often, and for how long, while the swarm is small."""

    interval_s: float = 1.0  # between exchanges; news does not wait for it
    news_gap_s: float = 0.1  # but waits this long for other news
    refresh_s: float = 10.0
    lifetime_s: float = 30.0
    timeout_s: float = 3.0
    shun_s: float = 5.0  # a peer that just failed us is asked last
    warn_every_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What follows for a table of some size."""

    interval_s: float
    record_s: float  # between a peer's records while nothing changes
    change_s: float  # the least between two of them while its load does
    beat_s: float
    lifetime_s: float  # after the last sign of life
    n_beats: int  # between two records; 0: records come as often as beats would

    def with_beats(self) -> "Pace":
        """For who knows nobody yet, and so does not know how many will hear its first record.

        Without beats all of a swarm would have to check a second one after ten seconds.
        """
        if self.n_beats:
            return self
        return replace(self, n_beats=FIRST_BEATS, record_s=self.beat_s * FIRST_BEATS)

    @property
    def window_s(self) -> float:
        """News is about after that many exchanges what everybody has heard."""
        return 10 * self.interval_s


def pace_of(n_records: int, timing: GossipTiming) -> Pace:
    """The pace for a table of `n_records`."""
    refresh_s, lives = timing.refresh_s, timing.lifetime_s / timing.refresh_s
    beat_s = min(refresh_s * max(1.0, n_records / N_QUICK), MAX_LIFETIME_MS / 1000 / lives)
    n_beats = min(int(n_records * RECORD_EVERY * refresh_s / beat_s), MAX_BEATS)
    if n_beats < 2:
        n_beats = 0
    return Pace(
        interval_s=timing.interval_s * min(max(1.0, n_records / N_PROMPT), SLOWEST),
        record_s=beat_s * max(1, n_beats),
        change_s=refresh_s * max(1.0, n_records * CHANGE_EVERY),
        beat_s=beat_s,
        lifetime_s=beat_s * lives,
        n_beats=n_beats,
    )
