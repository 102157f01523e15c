"""What two peers say to each other to make their tables of announcements one, in bytes.

An exchange, started by either of two peers, every second or so:

    →  marks of what I learned lately                    (2 bytes each)
    ←  what you lack of what I learned lately; marks of what I lack
    →  what you asked for; a sum over my whole table
    ←  nothing, if the sums agree; else sums of parts, and so on down to lists

What is new travels first and without comparison, push and pull, and so reaches n peers in O(log n)
rounds (Demers et al., 1987; Karp et al., 2000). The sums (`key_ranges.py`) find whatever that
missed. A peer of the first version sends a `Summary` of all it holds and is answered in kind.

A message is one CBOR array, bounded, unsigned: the transport proves who sent it, records and beats
prove themselves. What they mean and who wins is left to `announcement_table.py`, who says what when
to `gossip_rules.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Self

import cbor2

from protocol.errors import PeerMisbehaved
from protocol.heartbeats import LINK_BYTES, MAX_BEATS, RECORD_ID_BYTES, Beat, encode_beats
from protocol.key_ranges import SUM_BYTES, Range

SUMMARIES, SUMS = 1, 2  # the versions
MAX_MESSAGE_BYTES = 512 * 1024
MAX_RECORDS_PER_MESSAGE = 4_096
MAX_RANGES_PER_MESSAGE = 2_048
KEY_BYTES = 16  # of the hash of a public key: spreads evenly, so that ranges are of one size
SALT_BYTES = 8
MARK_BYTES = 2
_SEQUENCE_BYTES, _DIGEST_BYTES, _BEAT_BYTES = 8, 4, 2
_MAX_UINT = 2**63 - 1


class Version(NamedTuple):
    """Orders the records of one peer. The digest decides if a peer used a sequence twice; `beat`
    is the last heartbeat of that record."""

    sequence: int
    digest: bytes
    beat: int = 0

    @classmethod
    def of(cls, sequence: int, data: bytes, beat: int = 0) -> Self:
        return cls(sequence, sha256(data).digest()[:_DIGEST_BYTES], beat)


class Record(NamedTuple):
    """A signed announcement on its way, how much of its lifetime is left, and its last beat."""

    ttl_ms: int
    data: bytes
    beat: int = 0
    link: bytes = b""


@dataclass(frozen=True, slots=True)
class Summary:
    """Versions by key: all there are in `[start, stop)`, and some outside. Empty `stop`: no end."""

    start: bytes
    stop: bytes
    versions: Mapping[bytes, Version]

    def covers(self, key: bytes) -> bool:
        """Whether a key that is not listed is thereby known to be missing."""
        return self.start <= key and (not self.stop or key < self.stop)

    @classmethod
    def of_nothing(cls) -> Self:
        """What somebody says who holds nothing and wants everything."""
        return cls(b"", b"", {})


class Lately(NamedTuple):
    """What the sender learned lately, each by a mark that only this salt gives it."""

    salt: bytes
    marks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipMessage:
    """Any of them; most parts are empty in most messages."""

    version: int = SUMS
    records: tuple[Record, ...] = ()
    wanted: tuple[bytes, ...] = ()  # keys whose records the sender lacks
    beats: tuple[Beat, ...] = ()
    lately: Lately | None = None
    lacking: tuple[bytes, ...] = ()  # marks of the receiver's that the sender does not know
    overdue: tuple[bytes, ...] = ()  # ids of records whose last beats the sender missed
    ranges: tuple[Range | Summary, ...] = ()  # ascending, without overlap

    @property
    def is_empty(self) -> bool:
        return self == GossipMessage(version=self.version)

    def encode(self) -> bytes:
        wanted = b"".join(self.wanted)
        if self.version == SUMMARIES:
            ranges = [_write_summary(each, 0) for each in self.ranges if isinstance(each, Summary)]
            plain = [[record.ttl_ms, record.data] for record in self.records]
            return cbor2.dumps([SUMMARIES, ranges[0] if ranges else [], plain, wanted])
        return cbor2.dumps(
            [
                SUMS,
                [_write_range(each) for each in self.ranges],
                [list(record) if record.beat else [*record[:2]] for record in self.records],
                wanted,
                encode_beats(self.beats),
                [] if self.lately is None else [self.lately.salt, b"".join(self.lately.marks)],
                b"".join(self.lacking),
                b"".join(self.overdue),
            ]
        )

    @classmethod
    def decode(cls, data: bytes, *, sender: str) -> Self:
        """Read what `sender` sent.

        Raises:
            PeerMisbehaved: it is no gossip.
        """
        if len(data) > MAX_MESSAGE_BYTES:
            raise PeerMisbehaved(sender, f"gossip of {len(data)} bytes is too large")
        try:
            fields = cbor2.loads(data, max_depth=3, allow_indefinite=False)
        except Exception as error:  # a stranger's bytes: whatever the decoder says, they are bad
            raise PeerMisbehaved(sender, f"gossip that is not CBOR: {error}") from error
        try:
            return cls._from_fields(fields)
        except ValueError as error:
            raise PeerMisbehaved(sender, f"malformed gossip: {error}") from error

    @classmethod
    def _from_fields(cls, fields: Any) -> Self:
        match fields:
            case [1, [*summary], [*records], bytes() as wanted]:
                return cls(
                    version=SUMMARIES,
                    records=_read_records(records),
                    wanted=_chunks(wanted, KEY_BYTES),
                    ranges=(_read_summary(summary, 0),) if summary else (),
                )
            case [
                2, [*ranges], [*records], bytes() as wanted, bytes() as beats, [*lately],
                bytes() as lacking, bytes() as overdue, *_,
            ]:  # fmt: skip
                return cls(
                    records=_read_records(records),
                    wanted=_chunks(wanted, KEY_BYTES),
                    beats=Beat.decode_all(beats),
                    lately=_read_lately(lately),
                    lacking=_chunks(lacking, MARK_BYTES),
                    overdue=_chunks(overdue, RECORD_ID_BYTES),
                    ranges=_read_ranges(ranges),
                )
            case [int() as version, *_] if version not in (SUMMARIES, SUMS):
                raise ValueError(f"version {version}")
            case _:
                raise ValueError("other fields")


def _read_records(records: list[Any]) -> tuple[Record, ...]:
    if len(records) > MAX_RECORDS_PER_MESSAGE:
        raise ValueError(f"{len(records)} records")
    return tuple(map(_read_record, records))


def _read_record(record: object) -> Record:
    match record:
        case [int() as ttl_ms, bytes() as data] if 0 <= ttl_ms <= _MAX_UINT:
            return Record(ttl_ms, data)
        case [int() as ttl_ms, bytes() as data, int() as beat, bytes() as link] if (
            0 <= ttl_ms <= _MAX_UINT and 0 < beat <= MAX_BEATS and len(link) == LINK_BYTES
        ):
            return Record(ttl_ms, data, beat, link)
        case _:
            raise ValueError("a record is a time to live and bytes, and perhaps a beat")


def _read_lately(fields: list[Any]) -> Lately | None:
    match fields:
        case []:
            return None
        case [bytes() as salt, bytes() as marks] if len(salt) == SALT_BYTES:
            return Lately(salt, _chunks(marks, MARK_BYTES))
        case _:
            raise ValueError("what was learned lately is a salt and marks")


def _read_ranges(fields: list[Any]) -> tuple[Range | Summary, ...]:
    """Those without overlap only: comparing them then costs no more than one pass of a table."""
    if len(fields) > MAX_RANGES_PER_MESSAGE:
        raise ValueError(f"{len(fields)} ranges")
    ranges = tuple(map(_read_range, fields))
    for i, each in enumerate(ranges):
        is_last = i == len(ranges) - 1
        if (each.stop or not is_last) and not each.start < each.stop:
            raise ValueError("a range runs forward")
        if i and each.start < ranges[i - 1].stop:
            raise ValueError("ranges overlap")
    return ranges


def _read_range(fields: object) -> Range | Summary:
    match fields:
        case [bytes() as start, bytes() as stop, int() as n_keys, bytes() as total] if (
            0 <= n_keys <= _MAX_UINT and len(total) == SUM_BYTES
        ):
            _check_borders(start, stop)
            return Range(start, stop, n_keys, total)
        case [start, stop, packed]:
            return _read_summary([start, stop, packed], _BEAT_BYTES)
        case _:
            raise ValueError("a range has other fields")


def _read_summary(fields: list[Any], beat_bytes: int) -> Summary:
    match fields:
        case [bytes() as start, bytes() as stop, bytes() as packed]:
            _check_borders(start, stop)
            return Summary(start, stop, _unpack(packed, beat_bytes))
        case _:
            raise ValueError("a summary has other fields")


def _check_borders(start: bytes, stop: bytes) -> None:
    if len(start) > KEY_BYTES or len(stop) > KEY_BYTES:
        raise ValueError("a border is too long")


def _write_range(each: Range | Summary) -> list[Any]:
    return list(each) if isinstance(each, Range) else _write_summary(each, _BEAT_BYTES)


def _write_summary(summary: Summary, beat_bytes: int) -> list[Any]:
    packed = b"".join(
        key
        + version.sequence.to_bytes(_SEQUENCE_BYTES, "big")
        + version.digest
        + (version.beat.to_bytes(beat_bytes, "big") if beat_bytes else b"")
        for key, version in summary.versions.items()
    )
    return [summary.start, summary.stop, packed]


def _unpack(packed: bytes, beat_bytes: int) -> dict[bytes, Version]:
    versions = {}
    after_sequence = KEY_BYTES + _SEQUENCE_BYTES
    after_digest = after_sequence + _DIGEST_BYTES
    for entry in _chunks(packed, after_digest + beat_bytes):
        versions[entry[:KEY_BYTES]] = Version(
            int.from_bytes(entry[KEY_BYTES:after_sequence], "big"),
            entry[after_sequence:after_digest],
            int.from_bytes(entry[after_digest:], "big"),
        )
    return versions


def _chunks(data: bytes, size: int) -> tuple[bytes, ...]:
    if len(data) % size:
        raise ValueError("a list ends in the middle of an entry")
    return tuple(data[i : i + size] for i in range(0, len(data), size))
