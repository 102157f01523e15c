"""The announcements a peer believes, and the rules by which it comes to believe them.

In: records and heartbeats from anybody, with the time. Out: who serves now. Pure: no sockets, no
clock. Every peer applies the same rules, so peers that have seen the same records hold the same
table, in whatever order and however often the records came:

* of one peer's records the highest (sequence, digest, beat) wins; only that peer can have made it;
* a record is kept for its lifetime, less the time it has already spent with others. It travels with
  what is left, so peers whose clocks differ by up to `MAX_SKEW_MS` understand each other. A
  heartbeat counts like a record of the same content, issued when the beat was due;
* what has expired vanishes, but its version is remembered, so that no replay brings it back. The
  same goes for a ghost, which whoever keeps the table has found to be one: see `ghosts.py`;
* a tombstone is a record like any other: a leave stands until it expires.

Junk is dropped, cheapest check first, and counted for whoever sent it. What two tables say to each
other to become one is in `gossip_rules.py`.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import NamedTuple

from protocol.announcements import Announcement, read_announcement, verify_announcement
from protocol.anti_entropy import KEY_BYTES, Record, Version
from protocol.errors import IntegrityError, PeerError
from protocol.heartbeats import Beat, follows, record_id
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.key_ranges import KeyRanges
from protocol.signing import Envelope

MAX_RECORDS = 10_000
MAX_SKEW_MS = 600_000
PLAUSIBLE_SKEW_MS = 5_000  # a stamp this far ahead of our clock is read by it
MAX_COUNTED_SENDERS = 1_000
MAX_REPLY_BYTES = 256 * 1024


class Merged(Enum):
    """What became of a record, a beat, or a whole message."""

    NEW = "new"  # the first of its peer, or it moved, changes its state, leaves: news for all
    NEWER = "newer"  # a refresh, or a beat
    STALE = "stale"  # we hold this one or a newer one, or saw it expire
    UNKNOWN = "unknown"  # a beat of a record that we do not hold
    EXPIRED = "expired"
    FUTURE = "future"  # its clock is too far ahead of ours
    FORGED = "forged"  # malformed, not made by its peer, or of another swarm
    OUTSIDER = "outsider"  # of a peer that may not announce in this swarm
    FULL = "full"
    LIMITED = "limited"  # a message of a sender that sends too much: not looked at


DROPPED = (
    Merged.EXPIRED,
    Merged.FUTURE,
    Merged.FORGED,
    Merged.OUTSIDER,
    Merged.FULL,
    Merged.LIMITED,
)
TAKEN = (Merged.NEW, Merged.NEWER)


class Dropped(NamedTuple):
    """A key of the counters."""

    sender: str
    why: Merged


@dataclass(slots=True)
class Entry:
    """What is held of one peer. For this room's eyes."""

    announcement: Announcement
    data: bytes  # empty once expired: only the version is remembered
    version: Version
    link: bytes  # of the last beat; the chain's anchor before the first
    learned_ms: int
    deadline_ms: int
    forget_ms: int
    tag: int  # a hash of peer and version
    former_tag: int  # of the version before
    by_beat: bool  # the last thing learned was a beat: others need no more than that
    record_id: bytes


class AnnouncementTable:
    """See the module. `now_ms` is wall-clock time in milliseconds everywhere."""

    def __init__(
        self,
        swarm_id: bytes,
        *,
        capacity: int = MAX_RECORDS,
        reply_bytes: int = MAX_REPLY_BYTES,
        may_announce: Callable[[PeerId, bytes], bool] = lambda peer_id, membership: True,
    ) -> None:
        """may_announce: whether a peer that shows this certificate may provide."""
        self.swarm_id = swarm_id
        self._may_announce = may_announce
        self.reply_bytes = reply_bytes  # of records, in one message
        self.dropped: Counter[Dropped] = Counter()
        self.ranges = KeyRanges()  # the versions held, without their beats
        self.entries: dict[bytes, Entry] = {}
        self._capacity = capacity
        self._recent: OrderedDict[bytes, None] = OrderedDict()  # keys held, last learned last
        self._by_id: dict[bytes, bytes] = {}  # keys, by the ids of the records held
        self._serving: tuple[Announcement, ...] | None = None
        self._next_ms = 0  # nothing expires or is forgotten before that

    def __len__(self) -> int:
        """Records held, live ones and tombstones."""
        return len(self.ranges)

    def live(self, now_ms: int) -> tuple[Announcement, ...]:
        """Who serves now, in the order of their peer ids."""
        self.expire(now_ms)
        if self._serving is None:
            held = (self.entries[key].announcement for key in self._recent)
            serving = (announcement for announcement in held if not announcement.is_leaving)
            self._serving = tuple(sorted(serving, key=lambda announcement: announcement.peer_id))
        return self._serving

    def loading(self, now_ms: int) -> tuple[Announcement, ...]:
        """Who will serve, once it has loaded: no host of anything yet."""
        self.expire(now_ms)
        held = (self.entries[key].announcement for key in self._recent)
        return tuple(one for one in held if one.is_leaving and one.loading is not None)

    def get(self, peer_id: PeerId, now_ms: int) -> Announcement | None:
        """What `peer_id` says about itself, unless it left or fell silent."""
        entry = self.entries.get(key_of(peer_id))
        if entry is None or not entry.data or entry.deadline_ms <= now_ms:
            return None
        return None if entry.announcement.is_leaving else entry.announcement

    def heard_ms(self, peer_id: PeerId, now_ms: int) -> int:
        """How long ago, by its own word, `peer_id` was alive; 0 if it is not known."""
        entry = self.entries.get(key_of(peer_id))
        if entry is None or not entry.data:
            return 0
        return max(0, entry.announcement.lifetime_ms - (entry.deadline_ms - now_ms))

    def skew_ms(self, peer_id: PeerId, now_ms: int) -> int:
        """How far the clock of `peer_id` seems to be ahead of ours; 0 if it is not known."""
        entry = self.entries.get(key_of(peer_id))
        if entry is None or not entry.data:
            return 0
        claimed = entry.announcement
        spoke_ms = claimed.issued_ms + _beaten_ms(claimed, entry.version.beat)
        return spoke_ms + self.heard_ms(peer_id, now_ms) - now_ms

    def last_sequence(self, peer_id: PeerId) -> int:
        """The highest sequence seen of `peer_id`, expired ones included."""
        entry = self.entries.get(key_of(peer_id))
        return entry.version.sequence if entry else 0

    def merge(self, record: Record, *, sender: str, now_ms: int) -> Merged:
        """Take a record in, or drop it and count that for `sender`."""
        return self.count(self._merge(record, now_ms), sender)

    def merge_beat(self, beat: Beat, *, sender: str, now_ms: int) -> Merged:
        """Take a sign of life in, or drop it and count that for `sender`."""
        return self.count(self._merge_beat(beat, now_ms), sender)

    def count(self, result: Merged, sender: str) -> Merged:
        """Count what was dropped, in bounded memory."""
        if result in DROPPED:
            key = Dropped(sender, result)
            full = len(self.dropped) >= MAX_COUNTED_SENDERS and key not in self.dropped
            self.dropped[Dropped("", result) if full else key] += 1
        return result

    def evict(self, ghost: Announcement, now_ms: int) -> None:
        """Drop the record of a peer that is known to be gone; a later one of it counts again."""
        entry = self.entries.get(key_of(ghost.peer_id))
        if entry is not None and entry.announcement == ghost:
            entry.deadline_ms = self._next_ms = min(entry.deadline_ms, now_ms)
            self.expire(now_ms)

    def judge_again(self) -> None:
        """Who may announce has changed: whoever may not any more vanishes at the next look."""
        for entry in self.entries.values():
            announcer = entry.announcement
            if entry.data and not self._may_announce(announcer.peer_id, announcer.membership):
                entry.deadline_ms = self._next_ms = 0

    def learned_since(self, since_ms: int) -> Iterator[Entry]:
        """What is held and was learned later than that, newest first."""
        for key in reversed(self._recent):
            entry = self.entries[key]
            if entry.learned_ms <= since_ms:
                return
            yield entry

    def held(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and entry.data else None

    def held_by_id(self, id: bytes) -> Entry | None:
        key = self._by_id.get(id)
        return None if key is None else self.entries[key]

    def has_room(self) -> bool:
        return len(self.entries) < self._capacity

    def expire(self, now_ms: int) -> None:
        if now_ms < self._next_ms:
            return
        for key, entry in list(self.entries.items()):
            if entry.forget_ms <= now_ms:
                self._drop(key, entry)
                del self.entries[key]
            elif entry.data and entry.deadline_ms <= now_ms:
                self._drop(key, entry)
        self._next_ms = min(
            (each.deadline_ms if each.data else each.forget_ms for each in self.entries.values()),
            default=now_ms + 1,
        )

    def _merge(self, record: Record, now_ms: int) -> Merged:
        id = record_id(record.data)
        if id in self._by_id:  # these very bytes are held: most of what arrives twice
            return self._merge_beat(Beat(id, record.beat, record.link), now_ms)
        try:
            claimed, envelope = read_announcement(record.data)
        except (IntegrityError, PeerError):
            return Merged.FORGED
        key = key_of(claimed.peer_id)
        version = Version.of(claimed.sequence, record.data, record.beat)
        known = self.entries.get(key)
        if known is not None and version <= known.version:
            return Merged.STALE
        issued_ms = claimed.issued_ms + _beaten_ms(claimed, record.beat)
        if issued_ms > now_ms + MAX_SKEW_MS:
            return Merged.FUTURE
        ttl_ms = _ttl_ms(claimed, issued_ms, record.ttl_ms, now_ms)
        if ttl_ms <= 0 or issued_ms + claimed.lifetime_ms + MAX_SKEW_MS <= now_ms:
            return Merged.EXPIRED
        if not self._may_announce(claimed.peer_id, claimed.membership):
            return Merged.OUTSIDER
        if known is None and not self._make_room(now_ms):
            return Merged.FULL
        if not _is_genuine(record, claimed, envelope, self.swarm_id):  # last: it costs the most
            return Merged.FORGED
        anchor = claimed.heartbeats.anchor if claimed.heartbeats else b""
        entry = Entry(
            announcement=claimed,
            data=record.data,
            version=version,
            link=record.link or anchor,
            learned_ms=now_ms,
            deadline_ms=now_ms + ttl_ms,
            forget_ms=0,
            tag=0,
            former_tag=known.tag if known is not None else 0,
            by_beat=False,
            record_id=id,
        )
        is_news = known is None or not known.data or _is_news(known.announcement, claimed)
        if known is not None:
            self._drop(key, known)
        self._keep(key, entry, now_ms)
        return Merged.NEW if is_news else Merged.NEWER

    def _merge_beat(self, beat: Beat, now_ms: int) -> Merged:
        entry = self.held_by_id(beat.record_id)
        if entry is None:
            return Merged.UNKNOWN
        claimed, n_known = entry.announcement, entry.version.beat
        if beat.number <= n_known:
            return Merged.STALE
        if claimed.heartbeats is None or beat.number > claimed.heartbeats.n_beats:
            return Merged.FORGED
        # The record's own deadline shows how its clock and ours differ.
        gained_ms = (beat.number - n_known) * claimed.heartbeats.interval_ms
        deadline_ms = entry.deadline_ms + gained_ms
        if deadline_ms - claimed.lifetime_ms > now_ms + MAX_SKEW_MS:
            return Merged.FUTURE
        if deadline_ms <= now_ms:
            return Merged.EXPIRED
        public_key = public_key_from_peer_id(claimed.peer_id)
        if not follows(
            beat.link, beat.number, known=entry.link, known_number=n_known, public_key=public_key
        ):
            return Merged.FORGED
        entry.version = entry.version._replace(beat=beat.number)
        entry.link, entry.by_beat, entry.learned_ms = beat.link, True, now_ms
        entry.deadline_ms = min(deadline_ms, now_ms + claimed.lifetime_ms)
        entry.former_tag = entry.tag
        self._keep(key_of(claimed.peer_id), entry, now_ms)
        return Merged.NEWER

    def _keep(self, key: bytes, entry: Entry, now_ms: int) -> None:
        """File an entry whose version or deadline is new."""
        claimed, version = entry.announcement, entry.version
        expires_ms = claimed.expires_ms + _beaten_ms(claimed, version.beat)
        # After that the absolute check in `_merge` refuses a replay, and no version is needed.
        entry.forget_ms = max(entry.deadline_ms, expires_ms + MAX_SKEW_MS)
        content = key + version.sequence.to_bytes(8, "big") + version.digest
        mark = sha256(content).digest()
        entry.tag = int.from_bytes(mark[-8:], "big") ^ _spread(version.beat)
        self._next_ms = min(self._next_ms, entry.deadline_ms)
        self._recent[key] = None
        self._recent.move_to_end(key)
        if not entry.by_beat:
            self.entries[key] = entry
            self.ranges.set(key, mark)
            self._by_id[entry.record_id] = key
            self._serving = None

    def _drop(self, key: bytes, entry: Entry) -> None:
        """Let go of what an entry holds, but not of its version."""
        if entry.data:
            self._by_id.pop(entry.record_id, None)
            self.ranges.remove(key)
            self._recent.pop(key, None)
            self._serving = None
            entry.data = b""

    def _make_room(self, now_ms: int) -> bool:
        """Whether a newcomer fits. Those we know are never pushed out by those we do not."""
        if self.has_room():
            return True
        self.expire(now_ms)
        expired = [key for key, entry in self.entries.items() if not entry.data]
        if expired:
            del self.entries[min(expired, key=lambda key: self.entries[key].forget_ms)]
        return self.has_room()


def key_of(peer_id: PeerId) -> bytes:
    return sha256(public_key_from_peer_id(peer_id)).digest()[:KEY_BYTES]


def _beaten_ms(claimed: Announcement, beat: int) -> int:
    """How much later than the record itself its beat is."""
    return beat * claimed.heartbeats.interval_ms if claimed.heartbeats else 0


def _is_genuine(record: Record, claimed: Announcement, envelope: Envelope, swarm_id: bytes) -> bool:
    """Whether the peer made this record, for this swarm, and the beat that comes with it."""
    beats = claimed.heartbeats
    if record.beat and (
        beats is None
        or record.beat > beats.n_beats
        or not follows(
            record.link,
            record.beat,
            known=beats.anchor,
            known_number=0,
            public_key=public_key_from_peer_id(claimed.peer_id),
        )
    ):
        return False
    try:
        verify_announcement(claimed, envelope, swarm_id)
    except IntegrityError:
        return False
    return True


def _is_news(known: Announcement, claimed: Announcement) -> bool:
    """Whether others should know at once: what it serves, where, or whether it takes sessions."""
    return _known_by(known) != _known_by(claimed)


def _known_by(one: Announcement) -> tuple[object, ...]:
    return one.manifest, one.span, one.loading, one.addresses, one.measured.state


def _ttl_ms(claimed: Announcement, issued_ms: int, told_ms: int, now_ms: int) -> int:
    """How long we shall keep a record of which the sender says that `told_ms` are left.

    Its word alone would let a sender hide a live peer by telling too little; our clock alone would
    hide every peer whose clock is behind. So the longer of the two counts, never above a lifetime.
    """
    by_our_clock = issued_ms + claimed.lifetime_ms - now_ms
    if issued_ms > now_ms + PLAUSIBLE_SKEW_MS:
        by_our_clock = 0
    return min(max(told_ms, by_our_clock), claimed.lifetime_ms)


def _spread(beat: int) -> int:
    """Bits that tell one beat from another, anywhere in 64."""
    return beat * 0x9E3779B97F4A7C15 % 2**64
