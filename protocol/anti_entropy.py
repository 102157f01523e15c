"""How two tables of announcements become one: the messages of a push-pull exchange, in bytes.

One exchange, started by either of two peers, every second or so with a partner drawn at random:

    →  summary of all I hold
    ←  records you lack, keys of those I lack
    →  the records you asked for                    (only when any were asked for)

A message is one CBOR array, bounded, unsigned: the transport proves who sent it, the records prove
themselves. News reaches n peers in O(log n) rounds (Demers et al., 1987). What a record means and
who wins is left to `announcement_table.py`; dialling to the rooms above.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Self

import cbor2

from protocol.errors import PeerMisbehaved

MESSAGE_VERSION = 1
MAX_MESSAGE_BYTES = 512 * 1024
MAX_RECORDS_PER_MESSAGE = 4_096
KEY_BYTES = 16  # of the hash of a public key: spreads evenly, so that windows are of one size
_SEQUENCE_BYTES, _DIGEST_BYTES = 8, 4
_ENTRY_BYTES = KEY_BYTES + _SEQUENCE_BYTES + _DIGEST_BYTES
_MAX_UINT = 2**63 - 1


class Version(NamedTuple):
    """Orders the records of one peer. The digest decides if a peer used a sequence twice."""

    sequence: int
    digest: bytes

    @classmethod
    def of(cls, sequence: int, data: bytes) -> Self:
        return cls(sequence, sha256(data).digest()[:_DIGEST_BYTES])


class Record(NamedTuple):
    """A signed announcement on its way, and how much of its lifetime is left."""

    ttl_ms: int
    data: bytes


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


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipMessage:
    """Any of the three; `summary` is there in the first only."""

    summary: Summary | None = None
    records: tuple[Record, ...] = ()
    wanted: tuple[bytes, ...] = field(default=())

    def encode(self) -> bytes:
        summary = self.summary
        return cbor2.dumps(
            [
                MESSAGE_VERSION,
                [] if summary is None else [summary.start, summary.stop, _pack(summary.versions)],
                [list(record) for record in self.records],
                b"".join(self.wanted),
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
            case [int() as version, [*summary], [*records], bytes() as wanted]:
                if version != MESSAGE_VERSION:
                    raise ValueError(f"version {version}")
                if len(records) > MAX_RECORDS_PER_MESSAGE:
                    raise ValueError(f"{len(records)} records")
            case _:
                raise ValueError("other fields")
        return cls(
            summary=_read_summary(summary),
            records=tuple(_read_record(record) for record in records),
            wanted=tuple(_chunks(wanted, KEY_BYTES)),
        )


def _read_summary(fields: list[Any]) -> Summary | None:
    match fields:
        case []:
            return None
        case [bytes() as start, bytes() as stop, bytes() as packed]:
            if len(start) > KEY_BYTES or len(stop) > KEY_BYTES:
                raise ValueError("a border of a summary is too long")
            return Summary(start, stop, _unpack(packed))
        case _:
            raise ValueError("a summary has other fields")


def _read_record(record: object) -> Record:
    match record:
        case [int() as ttl_ms, bytes() as data] if 0 <= ttl_ms <= _MAX_UINT:
            return Record(ttl_ms, data)
        case _:
            raise ValueError("a record is a time to live and bytes")


def _pack(versions: Mapping[bytes, Version]) -> bytes:
    return b"".join(
        key + version.sequence.to_bytes(_SEQUENCE_BYTES, "big") + version.digest
        for key, version in versions.items()
    )


def _unpack(packed: bytes) -> dict[bytes, Version]:
    versions = {}
    for entry in _chunks(packed, _ENTRY_BYTES):
        sequence = int.from_bytes(entry[KEY_BYTES:-_DIGEST_BYTES], "big")
        versions[entry[:KEY_BYTES]] = Version(sequence, entry[-_DIGEST_BYTES:])
    return versions


def _chunks(data: bytes, size: int) -> list[bytes]:
    if len(data) % size:
        raise ValueError("a list ends in the middle of an entry")
    return [data[i : i + size] for i in range(0, len(data), size)]
