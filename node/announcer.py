"""What a node says of itself, and when: a record when something changed or it is old, else a beat.

In: a draft of what is so now, the table that it goes into, the time. Out: records and beats in that
table, from where gossip takes them to others. Nothing is sent from here.
"""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import fields

from node.pace import GossipTiming, Pace, pace_of
from protocol.announcement_table import TAKEN, AnnouncementTable
from protocol.announcements import Announcement, Link, seal_announcement
from protocol.anti_entropy import Record
from protocol.heartbeats import Beat, BeatChain, record_id
from protocol.identity import peer_id_from_public_key
from protocol.measured import Measured
from protocol.signing import SigningKey

log = logging.getLogger(__name__)

NOTABLE = 0.25  # a number that changed by more than this part of itself
UNTOLD = ("links", "heartbeats", "sequence", "issued_ms", "expires_ms", "measured")


class Announcer:
    """See the module. `now_s` is of one monotonic clock, `now_ms` the time of day."""

    def __init__(
        self,
        table: AnnouncementTable,
        key: SigningKey,
        draft: Callable[[], Announcement],
        links: Callable[[], Sequence[Link]],
        timing: GossipTiming,
    ) -> None:
        self._table, self._key, self._draft, self._links = table, key, draft, links
        self._timing = timing
        self._peer_id = peer_id_from_public_key(key.public_key)
        self._published_at_s: float | None = None
        self._published: Announcement | None = None
        self._record_id = b""
        self._chain: BeatChain | None = None
        self._n_beats = 0
        self._pace = self.pace

    @property
    def pace(self) -> Pace:
        return pace_of(len(self._table), self._timing)

    def hurry(self) -> None:
        """Publish a fresh draft next time, whatever the pace."""
        self._published_at_s = None

    def speak_when_due(self, *, now_s: float, now_ms: int) -> None:
        """Publish a record, or make a beat, if it is time for one."""
        if self._published_at_s is None or self._published is None:
            self.publish(self._draft(), now_s=now_s, now_ms=now_ms)
            return
        age_s = now_s - self._published_at_s
        n_due = int(age_s / self._pace.beat_s)
        n_promised = self._chain.promise.n_beats if self._chain else 0
        is_due = age_s >= self._pace.record_s or n_due > n_promised
        if not is_due and age_s >= self.pace.change_s:
            meets_more = len(self._links()) > len(self._published.links)
            is_due = meets_more or has_changed(self._published, self._draft())
        if is_due:
            self.publish(self._draft(), now_s=now_s, now_ms=now_ms)
        elif self._chain is not None and n_due > self._n_beats:
            self._n_beats = n_due
            beat = Beat(self._record_id, n_due, self._chain.link(n_due))
            self._table.expire(now_ms)
            merged = self._table.merge_beat(beat, sender=self._peer_id, now_ms=now_ms)
            if merged not in TAKEN:  # we were asleep, and even we take ourselves for dead
                self.publish(self._draft(), now_s=now_s, now_ms=now_ms)

    def publish(self, draft: Announcement, *, now_s: float, now_ms: int) -> Record:
        """Put a new record into the table, and begin another chain of beats."""
        self._pace = pace = self.pace if len(self._table) else self.pace.with_beats()
        # From the clock, so that a restart goes on; above what others remember, if the clock fell.
        sequence = max(now_ms, self._table.last_sequence(self._peer_id) + 1)
        lifetime_ms = round(pace.lifetime_s * 1000)
        self._chain = self._new_chain(pace) if not draft.is_leaving else None
        stamped = draft.stamped(
            sequence,
            now_ms,
            lifetime_ms,
            () if draft.is_leaving else self._links(),
            self._chain.promise if self._chain else None,
        )
        data = seal_announcement(stamped, self._table.swarm_id, self._key)
        record = Record(lifetime_ms, data)
        merged = self._table.merge(record, sender=self._peer_id, now_ms=now_ms)
        log.debug("announced", extra={"span": draft.span, "merged": merged.value})
        self._published_at_s, self._published = now_s, stamped
        self._record_id, self._n_beats = record_id(data), 0
        return record

    def _new_chain(self, pace: Pace) -> BeatChain | None:
        if not pace.n_beats:
            return None
        return BeatChain(
            secrets.token_bytes(32),
            self._key.public_key,
            n_beats=pace.n_beats,
            interval_ms=round(pace.beat_s * 1000),
        )


def has_changed(published: Announcement, draft: Announcement) -> bool:
    """Whether others would route differently: small moves of numbers are not told at once."""
    names = [field.name for field in fields(Announcement) if field.name not in UNTOLD]
    return any(
        _differ(getattr(one, name), getattr(other, name))
        for one, other, names_of in (
            (published, draft, names),
            (published.measured, draft.measured, [field.name for field in fields(Measured)]),
        )
        for name in names_of
    )


def _differ(one: object, other: object) -> bool:
    if isinstance(one, int) and isinstance(other, int):
        return abs(one - other) > NOTABLE * max(abs(one), abs(other))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) != len(other) or any(map(_differ, one, other))
    return one != other
