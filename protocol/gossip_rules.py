"""The two sides of a gossip exchange, without sockets: bytes in, bytes out.

The side that begins is an `Exchange`: it sends `question`, gives each answer to `take` and sends
what that replies, until there is nothing to reply. The side that was asked gives whatever arrives
to `answer` and keeps nothing. Both use the method `METHOD` of their transport; `anti_entropy.py`
draws the exchange and has its messages.

What was learned lately is passed on first: whoever begins lists its marks, the other side sends
what is not among them and names those it does not know. Only then, and not every time, are whole
tables compared, since before that two tables of a busy swarm never agree.
"""

import itertools
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from protocol.announcement_table import DROPPED, TAKEN, AnnouncementTable, Entry, Merged
from protocol.anti_entropy import (
    MARK_BYTES,
    SALT_BYTES,
    SUMMARIES,
    GossipMessage,
    Lately,
    Record,
    Summary,
)
from protocol.errors import PeerMisbehaved
from protocol.heartbeats import Beat
from protocol.key_ranges import LISTED, Range

METHOD = "gossip"
WINDOW_MS = 10_000  # what was learned since is offered to others
MAX_JUNK_PER_MESSAGE = 8  # after that the rest of a message is not looked at
MAX_RANGES_SENT = 1_024
MAX_OVERDUE = 64
MOST_TOLD = 32  # unasked, of one storm of news; who learned more at once came late, and is no news
MAX_STEPS = 12  # calls of one exchange; enough to compare tables of 8^10 records


class Taken(NamedTuple):
    """What came of a message."""

    reply: bytes  # empty when there is nothing to send
    n_taken: int  # records and beats that we did not hold
    has_news: bool  # somebody came, left or moved: worth telling others at once
    n_checked: int = 0  # signatures that had to be checked, roughly: what the message cost us
    n_forged: int = 0  # of the records and beats in it


class Exchange:
    """The side that begins one exchange."""

    def __init__(
        self,
        table: AnnouncementTable,
        *,
        compare: bool = True,
        gives: bool = True,
        tells_since_ms: int | None = None,
        window_ms: int = WINDOW_MS,
        salt: bytes = b"",
    ) -> None:
        """
        Args:
            compare: whether to compare whole tables when what is new has been exchanged.
            gives: False for a client, which only wants to know: it compares at once.
            tells_since_ms: in a storm of news. Records learned since then go with the question,
                and what the other side lacks beside them is left to whom it asks: one call
                instead of two.
        """
        self._table, self._gives, self._window_ms = table, gives, window_ms
        self._tells_since_ms = tells_since_ms
        self._compares_later = compare and gives
        self._salt = salt or secrets.token_bytes(SALT_BYTES)
        self._listed: dict[bytes, Entry] = {}

    def question(self, now_ms: int) -> bytes:
        """The message that begins the exchange."""
        table = self._table
        table.expire(now_ms)
        if not self._gives or len(table) <= 1:  # a client; a node that joins, and shows itself
            self._compares_later = False
            own = _records(table, table.learned_since(0), now_ms) if self._gives else ()
            return GossipMessage(records=own, ranges=_whole(table)).encode()
        # Half a window more than others offer: what we learned just before is not sent again.
        since_ms = now_ms - self._window_ms * 3 // 2
        salt = int.from_bytes(self._salt, "big")
        recent = list(table.learned_since(since_ms))
        marks = _marks([each.tag for each in recent], salt)
        self._listed = dict(zip(marks, recent, strict=True))
        lately = Lately(self._salt, tuple(self._listed))
        told = _records(table, self._fresh(recent), now_ms)
        return GossipMessage(records=told, lately=lately, overdue=_overdue(table, now_ms)).encode()

    def take(self, message: bytes, *, sender: str, now_ms: int) -> Taken:
        """Take an answer in; `reply` is the next question, if any.

        Raises:
            PeerMisbehaved: it is no gossip.
        """
        told = _decode(self._table, message, sender)
        merged = _merge(self._table, told, sender, now_ms)
        if self._gives:
            lacking = told.lacking if self._tells_since_ms is None else ()
            lacked = [self._listed[mark] for mark in lacking if mark in self._listed]
            reply = _reply(self._table, told, lacked, merged.is_behind, now_ms)
            if self._compares_later and not reply.ranges:
                reply = replace(reply, ranges=_whole(self._table))
            self._compares_later = False
        else:
            found = _reconcile(self._table, told)
            reply = GossipMessage(ranges=found.ranges, wanted=found.wanted, overdue=found.overdue)
        return merged.taken(b"" if reply.is_empty else reply.encode())

    def _fresh(self, recent: Iterable[Entry]) -> list[Entry]:
        """What to tell unasked (rumor mongering: Demers et al., 1987)."""
        since_ms = self._tells_since_ms
        if since_ms is None:
            return []
        told = [each for each in recent if each.learned_ms >= since_ms and not each.by_beat]
        return told if len(told) <= MOST_TOLD else []


def answer(
    table: AnnouncementTable,
    message: bytes,
    *,
    sender: str,
    now_ms: int,
    window_ms: int = WINDOW_MS,
) -> Taken:
    """Take a message in; `reply` is always the answer to send.

    Raises:
        PeerMisbehaved: it is no gossip.
    """
    asked = _decode(table, message, sender)
    merged = _merge(table, asked, sender, now_ms)
    lacked: list[Entry] = []
    lacking: tuple[bytes, ...] = ()
    if asked.lately is not None:
        salt, marks = int.from_bytes(asked.lately.salt, "big"), set(asked.lately.marks)
        recent = list(table.learned_since(now_ms - window_ms))
        ours = _marks([each.tag for each in recent], salt)
        lacked = [each for each, mark in zip(recent, ours, strict=True) if mark not in marks]
        lacking = tuple(marks - _known_marks(table, salt)) if marks else ()
    reply = _reply(table, asked, lacked, merged.is_behind, now_ms)
    return merged.taken(replace(reply, lacking=lacking).encode())


def tell(*records: Record) -> bytes:
    """A message that asks nothing."""
    return GossipMessage(records=records).encode()


class _Found(NamedTuple):
    """What a comparison of ranges calls for."""

    lacked: tuple[Entry, ...] = ()  # they hold none of these, or an older record
    beaten: tuple[Entry, ...] = ()  # they hold the record, and not its last beat
    wanted: tuple[bytes, ...] = ()
    overdue: tuple[bytes, ...] = ()
    ranges: tuple[Range | Summary, ...] = ()


class _Merge(NamedTuple):
    n_taken: int
    has_news: bool
    n_checked: int
    is_behind: bool  # there were beats of records that we do not hold
    n_forged: int

    def taken(self, reply: bytes) -> Taken:
        return Taken(reply, self.n_taken, self.has_news, self.n_checked, self.n_forged)


def _decode(table: AnnouncementTable, message: bytes, sender: str) -> GossipMessage:
    try:
        return GossipMessage.decode(message, sender=sender)
    except PeerMisbehaved:
        table.count(Merged.FORGED, sender)
        raise


def _merge(table: AnnouncementTable, told: GossipMessage, sender: str, now_ms: int) -> _Merge:
    results: list[Merged] = []
    n_junk = 0
    merging = itertools.chain(
        (table.merge(record, sender=sender, now_ms=now_ms) for record in told.records),
        (table.merge_beat(beat, sender=sender, now_ms=now_ms) for beat in told.beats),
    )
    for result in merging:
        results.append(result)
        n_junk += result in DROPPED
        if n_junk > MAX_JUNK_PER_MESSAGE:
            break
    n_taken = sum(result in TAKEN for result in results)
    has_news, is_behind = Merged.NEW in results, Merged.UNKNOWN in results
    return _Merge(n_taken, has_news, n_taken + n_junk, is_behind, results.count(Merged.FORGED))


def _reply(
    table: AnnouncementTable,
    told: GossipMessage,
    lacked: Iterable[Entry],
    is_behind: bool,
    now_ms: int,
) -> GossipMessage:
    """What the other side lacks, of what it asked for and of what a comparison found."""
    table.expire(now_ms)
    found = _reconcile(table, told)
    asked = [entry for key in told.wanted if (entry := table.held(key)) is not None]
    beaten = [entry for id in told.overdue if (entry := table.held_by_id(id)) is not None]
    lacked = [entry for entry in lacked if entry.data]
    whole = [each for each in lacked if not each.by_beat]
    records = _records(table, [*whole, *asked, *found.lacked], now_ms)
    told_by_beat = [each for each in lacked if each.by_beat]
    beats = [_beat(each) for each in (*told_by_beat, *beaten, *found.beaten) if each.version.beat]
    is_old = told.version == SUMMARIES
    return GossipMessage(
        version=told.version,
        records=records,
        wanted=found.wanted,
        beats=() if is_old else tuple(dict.fromkeys(beats)),
        overdue=found.overdue,
        ranges=found.ranges or (_whole(table) if is_behind and not is_old else ()),
    )


def _reconcile(table: AnnouncementTable, told: GossipMessage) -> _Found:
    found = [
        _compare_sums(table, each)
        if isinstance(each, Range)
        else _compare_lists(table, each, with_beats=told.version != SUMMARIES)
        for each in told.ranges
    ]
    return _Found(
        lacked=tuple(each for one in found for each in one.lacked),
        beaten=tuple(each for one in found for each in one.beaten),
        wanted=tuple(key for one in found for key in one.wanted),
        overdue=tuple(id for one in found for id in one.overdue),
        ranges=tuple(each for one in found for each in one.ranges)[:MAX_RANGES_SENT],
    )


def _compare_sums(table: AnnouncementTable, theirs: Range) -> _Found:
    start, stop = theirs.start, theirs.stop
    ours = table.ranges.describe(start, stop)
    if ours == theirs:
        return _Found()
    if theirs.n_keys == 0:
        return _Found(lacked=tuple(table.entries[key] for key in table.ranges.keys(start, stop)))
    if ours.n_keys <= LISTED:
        return _Found(ranges=(_list(table, start, stop),))
    return _Found(ranges=tuple(table.ranges.parts(start, stop)))


def _compare_lists(table: AnnouncementTable, theirs: Summary, *, with_beats: bool) -> _Found:
    lacked, beaten, wanted, overdue = [], [], [], []
    keys = dict.fromkeys((*table.ranges.keys(theirs.start, theirs.stop), *theirs.versions))
    for key in keys:
        entry, version = table.entries.get(key), theirs.versions.get(key)
        if version is None or entry is None:
            if entry is not None:
                lacked.append(entry)
            elif table.has_room():
                wanted.append(key)
            continue
        ours = entry.version if with_beats else entry.version._replace(beat=0)
        is_same = bool(entry.data) and ours[:2] == version[:2]
        if ours < version and is_same:
            overdue.append(entry.record_id)
        elif ours < version:
            wanted.append(key)
        elif version < ours and is_same:
            beaten.append(entry)
        elif version < ours and entry.data:
            lacked.append(entry)
    return _Found(tuple(lacked), tuple(beaten), tuple(wanted), tuple(overdue))


def _whole(table: AnnouncementTable) -> tuple[Range | Summary, ...]:
    return (table.ranges.describe() if len(table) > LISTED else _list(table, b"", b""),)


def _list(table: AnnouncementTable, start: bytes, stop: bytes) -> Summary:
    keys = table.ranges.keys(start, stop)
    return Summary(start, stop, {key: table.entries[key].version for key in keys})


def _records(table: AnnouncementTable, entries: Iterable[Entry], now_ms: int) -> tuple[Record, ...]:
    """As records, newest first, as many as fit in a message."""
    chosen, n_bytes = [], 0
    unique = {id(entry): entry for entry in entries}.values()
    for entry in sorted(unique, key=lambda entry: (-entry.learned_ms, entry.version)):
        n_bytes += len(entry.data)
        if n_bytes > table.reply_bytes:
            break
        beat = entry.version.beat
        ttl_ms = entry.deadline_ms - now_ms
        chosen.append(Record(ttl_ms, entry.data, beat, entry.link if beat else b""))
    return tuple(chosen)


def _beat(entry: Entry) -> Beat:
    return Beat(entry.record_id, entry.version.beat, entry.link)


def _overdue(table: AnnouncementTable, now_ms: int) -> tuple[bytes, ...]:
    """Records whose last two beats we missed: somebody may have them, or the peer is gone."""
    ids: list[bytes] = []
    for entry in table.learned_since(0):
        beats = entry.announcement.heartbeats
        if beats is not None and entry.deadline_ms - now_ms < beats.interval_ms:
            ids.append(entry.record_id)
    return tuple(ids[:MAX_OVERDUE])


def _known_marks(table: AnnouncementTable, salt: int) -> set[bytes]:
    """Of all that is held, and of the version before: whoever still has that is behind."""
    held = list(table.learned_since(0))
    return set(_marks([each.tag for each in held] + [each.former_tag for each in held], salt))


def _marks(tags: Sequence[int], salt: int) -> list[bytes]:
    """Two bytes for each version. Another salt makes others of them collide.

    In arrays: thousands of them are made for every message, and one by one they cost the most.
    """
    mixed = (np.array(tags, np.uint64) ^ np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    packed = (mixed >> np.uint64(64 - 8 * MARK_BYTES)).astype(">u2").tobytes()
    return [packed[i : i + MARK_BYTES] for i in range(0, len(packed), MARK_BYTES)]
