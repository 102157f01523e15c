"""The announcements a peer believes, and the rules by which it comes to believe them.

In: records from anybody, with the time. Out: who serves now, what to tell others, what to ask them
for. Pure: no sockets, no clock. Every peer applies the same rules, so peers that have seen the same
records hold the same table, in whatever order and however often the records came:

* of one peer's records the highest (sequence, digest) wins; only that peer can have signed it;
* a record is kept for its lifetime, less the time it has already spent with others. It travels with
  what is left, so peers whose clocks differ by up to `MAX_SKEW_MS` understand each other;
* what has expired vanishes, but its version is remembered, so that no replay brings it back;
* a tombstone is a record like any other: a leave stands until it expires.

Junk is dropped, cheapest check first, and counted for whoever sent it.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import NamedTuple

from protocol.announcements import Announcement, read_announcement, verify_announcement
from protocol.anti_entropy import KEY_BYTES, Record, Summary, Version
from protocol.errors import IntegrityError, PeerError
from protocol.identity import PeerId, public_key_from_peer_id

MAX_RECORDS = 10_000
MAX_SKEW_MS = 600_000
PLAUSIBLE_SKEW_MS = 5_000  # a stamp this far ahead of our clock is read by it
MAX_COUNTED_SENDERS = 1_000
MAX_SUMMARY_ENTRIES = 2_048
MAX_REPLY_BYTES = 256 * 1024


class Merged(Enum):
    """What became of a record."""

    NEW = "new"  # the first of its peer, another span, or a leave: worth telling others at once
    NEWER = "newer"  # a refresh
    STALE = "stale"  # we hold this one or a newer one, or saw it expire
    EXPIRED = "expired"
    FUTURE = "future"  # its clock is too far ahead of ours
    FORGED = "forged"  # malformed, not signed by its peer, or of another swarm
    FULL = "full"


DROPPED = (Merged.EXPIRED, Merged.FUTURE, Merged.FORGED, Merged.FULL)


class Dropped(NamedTuple):
    """A key of the counters."""

    sender: str
    why: Merged


class Difference(NamedTuple):
    """What one summary calls for."""

    lacked: tuple[Record, ...]  # they do not hold these yet
    wanted: tuple[bytes, ...]  # keys of records that we do not hold yet


@dataclass(slots=True)
class _Entry:
    announcement: Announcement
    data: bytes  # empty once expired: only the version is remembered
    version: Version
    learned_ms: int
    deadline_ms: int
    forget_ms: int


class AnnouncementTable:
    """See the module. `now_ms` is wall-clock time in milliseconds everywhere."""

    def __init__(
        self,
        swarm_id: bytes,
        *,
        capacity: int = MAX_RECORDS,
        window: int = MAX_SUMMARY_ENTRIES,
        reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.swarm_id = swarm_id
        self.dropped: Counter[Dropped] = Counter()
        self._capacity, self._window, self._reply_bytes = capacity, window, reply_bytes
        self._entries: dict[bytes, _Entry] = {}
        self._cursor = b""  # where the next summary's window starts, in a table larger than one

    def __len__(self) -> int:
        """Records held, live ones and tombstones."""
        return sum(1 for entry in self._entries.values() if entry.data)

    def live(self, now_ms: int) -> tuple[Announcement, ...]:
        """Who serves now, in the order of their peer ids."""
        self._expire(now_ms)
        serving = (
            entry.announcement
            for entry in self._entries.values()
            if entry.data and not entry.announcement.is_leaving
        )
        return tuple(sorted(serving, key=lambda announcement: announcement.peer_id))

    def get(self, peer_id: PeerId, now_ms: int) -> Announcement | None:
        """What `peer_id` says about itself, unless it left or fell silent."""
        entry = self._entries.get(_key(peer_id))
        if entry is None or not entry.data or entry.deadline_ms <= now_ms:
            return None
        return None if entry.announcement.is_leaving else entry.announcement

    def heard_ms(self, peer_id: PeerId, now_ms: int) -> int:
        """How long ago, by its own word, `peer_id` was alive; 0 if it is not known."""
        entry = self._entries.get(_key(peer_id))
        if entry is None or not entry.data:
            return 0
        return max(0, entry.announcement.lifetime_ms - (entry.deadline_ms - now_ms))

    def last_sequence(self, peer_id: PeerId) -> int:
        """The highest sequence seen of `peer_id`, expired ones included."""
        entry = self._entries.get(_key(peer_id))
        return entry.version.sequence if entry else 0

    def merge(self, record: Record, *, sender: str, now_ms: int) -> Merged:
        """Take a record in, or drop it and count that for `sender`."""
        result = self._merge(record, now_ms)
        if result in DROPPED:
            key = Dropped(sender, result)
            full = len(self.dropped) >= MAX_COUNTED_SENDERS and key not in self.dropped
            self.dropped[Dropped("", result) if full else key] += 1
        return result

    def summary(self, now_ms: int) -> Summary:
        """What we hold, for another peer to compare with.

        A table larger than a summary is compared window by window, one per call; what was learned
        last rides along outside the window, so that news still spreads in O(log n) rounds.
        """
        self._expire(now_ms)
        held = sorted((key, entry) for key, entry in self._held())
        if len(held) <= self._window:
            return Summary(b"", b"", {key: entry.version for key, entry in held})
        first = bisect_left(held, self._cursor, key=lambda pair: pair[0])
        window = held[first : first + self._window]
        behind = held[first + self._window :]
        start, self._cursor = self._cursor, behind[0][0] if behind else b""
        fresh = sorted(held, key=lambda pair: pair[1].learned_ms)[-(self._window // 4) :]
        versions = {key: entry.version for key, entry in (*fresh, *window)}
        return Summary(start, self._cursor, versions)

    def compare(self, summary: Summary, now_ms: int) -> Difference:
        """What the peer that sent `summary` lacks, newest first and bounded, and what we lack."""
        self._expire(now_ms)
        wanted: list[bytes] = []
        for key, theirs in summary.versions.items():
            entry = self._entries.get(key)
            room = len(self._entries) < self._capacity
            if room if entry is None else entry.version < theirs:
                wanted.append(key)
        lacked = []
        for key, entry in self._held():
            known = summary.versions.get(key)
            if summary.covers(key) if known is None else known < entry.version:
                lacked.append(entry)
        return Difference(self._newest(lacked, now_ms), tuple(wanted[:MAX_SUMMARY_ENTRIES]))

    def records(self, keys: tuple[bytes, ...], now_ms: int) -> tuple[Record, ...]:
        """Those of the records somebody asked for that we hold, bounded."""
        self._expire(now_ms)
        asked = [self._entries[key] for key in dict.fromkeys(keys) if key in self._entries]
        return self._newest([entry for entry in asked if entry.data], now_ms)

    def _newest(self, entries: list[_Entry], now_ms: int) -> tuple[Record, ...]:
        """As records, newest first, as many as fit in a reply."""
        chosen, n_bytes = [], 0
        for entry in sorted(entries, key=lambda entry: (-entry.learned_ms, entry.version)):
            n_bytes += len(entry.data)
            if n_bytes > self._reply_bytes:
                break
            chosen.append(Record(entry.deadline_ms - now_ms, entry.data))
        return tuple(chosen)

    def _held(self) -> list[tuple[bytes, _Entry]]:
        return [(key, entry) for key, entry in self._entries.items() if entry.data]

    def _merge(self, record: Record, now_ms: int) -> Merged:
        try:
            claimed, envelope = read_announcement(record.data)
        except (IntegrityError, PeerError):
            return Merged.FORGED
        key = _key(claimed.peer_id)
        version = Version.of(claimed.sequence, record.data)
        held = self._entries.get(key)
        if held is not None and version <= held.version:
            return Merged.STALE
        if claimed.issued_ms > now_ms + MAX_SKEW_MS:
            return Merged.FUTURE
        ttl_ms = _ttl_ms(claimed, record.ttl_ms, now_ms)
        if ttl_ms <= 0 or claimed.expires_ms + MAX_SKEW_MS <= now_ms:
            return Merged.EXPIRED
        if held is None and not self._make_room(now_ms):
            return Merged.FULL
        try:  # last, for it costs the most
            verify_announcement(claimed, envelope, self.swarm_id)
        except IntegrityError:
            return Merged.FORGED
        self._entries[key] = _Entry(
            announcement=claimed,
            data=record.data,
            version=version,
            learned_ms=now_ms,
            deadline_ms=now_ms + ttl_ms,
            # After that the absolute check above refuses a replay, and no version is needed.
            forget_ms=max(now_ms + ttl_ms, claimed.expires_ms + MAX_SKEW_MS),
        )
        news = held is None or not held.data or held.announcement.span != claimed.span
        return Merged.NEW if news else Merged.NEWER

    def _make_room(self, now_ms: int) -> bool:
        """Whether a newcomer fits. Those we know are never pushed out by those we do not."""
        if len(self._entries) < self._capacity:
            return True
        self._expire(now_ms)
        expired = [key for key, entry in self._entries.items() if not entry.data]
        if expired:
            del self._entries[min(expired, key=lambda key: self._entries[key].forget_ms)]
        return len(self._entries) < self._capacity

    def _expire(self, now_ms: int) -> None:
        for key, entry in list(self._entries.items()):
            if entry.forget_ms <= now_ms:
                del self._entries[key]
            elif entry.deadline_ms <= now_ms:
                entry.data = b""


def _key(peer_id: PeerId) -> bytes:
    return sha256(public_key_from_peer_id(peer_id)).digest()[:KEY_BYTES]


def _ttl_ms(claimed: Announcement, told_ms: int, now_ms: int) -> int:
    """How long we shall keep a record of which the sender says that `told_ms` are left.

    Its word alone would let a sender hide a live peer by telling too little; our clock alone would
    hide every peer whose clock is behind. So the longer of the two counts, never above a lifetime.
    """
    by_our_clock = claimed.expires_ms - now_ms
    if claimed.issued_ms > now_ms + PLAUSIBLE_SKEW_MS:
        by_our_clock = 0
    return min(max(told_ms, by_our_clock), claimed.lifetime_ms)
