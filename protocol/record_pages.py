"""Announcements as values of a distributed hash table: sixteen pages, each a set of signed records.

In: a table of announcements; keys and values from strangers. Out: the value of a page, and what
became of the records of another's. Pure: no sockets, no clock.

A key names a swarm and a page, `/mh/<swarm>/<page>`; a peer's record belongs to the page that its
key hashes to. A value is a gossip message that holds records and nothing else. A page is not a
thing that one writer replaces: whoever keeps it merges what it is sent into its own table and
answers from there. So what decides is the table's rules (signature, swarm, sequence, expiry, room),
record by record, and no writer can take from a page what another put there.
"""

from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from protocol.announcement_table import (
    DROPPED,
    TAKEN,
    AnnouncementTable,
    Entry,
    Merged,
    key_of,
)
from protocol.anti_entropy import GossipMessage, Record
from protocol.errors import PeerMisbehaved
from protocol.identity import PeerId

NAMESPACE = "mh"
N_PAGES = 16  # of 10,000 records a page holds 625, some 400 KB
MAX_VALUE_BYTES = 256 * 1024
MAX_PUT_BYTES = 64 * 1024  # what one peer puts at once: its own record, as a rule
_SWARM_CHARS = 16


class Put(NamedTuple):
    """What came of a value."""

    n_taken: int  # records that we did not hold
    n_checked: int  # signatures that had to be checked, roughly
    is_clean: bool  # nothing in it was dropped


def key_of_page(swarm_id: bytes, page: int) -> bytes:
    return f"/{NAMESPACE}/{_name_of(swarm_id)}/{page:02x}".encode()


def keys_of(swarm_id: bytes) -> tuple[bytes, ...]:
    """Of all pages of a swarm."""
    return tuple(key_of_page(swarm_id, page) for page in range(N_PAGES))


def page_of(peer_id: PeerId) -> int:
    """Where the record of `peer_id` belongs."""
    return _page_of_entry(key_of(peer_id))


def read_key(swarm_id: bytes, key: bytes, *, sender: str) -> int:
    """The page that a key names.

    Raises:
        PeerMisbehaved: it is of another namespace, another swarm, or no page.
    """
    for page in range(N_PAGES):
        if key == key_of_page(swarm_id, page):
            return page
    raise PeerMisbehaved(sender, f"no key of ours: {key[:60]!r}")


def write_page(table: AnnouncementTable, page: int, now_ms: int) -> bytes:
    """What we hold of a page, newest first, as much as fits; empty when that is nothing."""
    table.expire(now_ms)
    held = (entry for entry in table.learned_since(0) if _is_on(entry, page))
    return write_records(_told(held, now_ms))


def record_of(table: AnnouncementTable, peer_id: PeerId, now_ms: int) -> Record | None:
    """What a peer last said of itself, with its last sign of life, unless that has expired."""
    table.expire(now_ms)
    entry = table.held(key_of(peer_id))
    return None if entry is None else next(iter(_told([entry], now_ms)), None)


def write_records(records: Iterable[Record]) -> bytes:
    """A value; empty when there are none."""
    told = tuple(records)
    return GossipMessage(records=told).encode() if told else b""


def take(
    table: AnnouncementTable,
    value: bytes,
    *,
    sender: str,
    now_ms: int,
    max_bytes: int = MAX_VALUE_BYTES,
) -> Put:
    """Merge the records of a value, up to the first that does not hold.

    Raises:
        PeerMisbehaved: it is larger than allowed, or holds anything else than records.
    """
    try:
        if len(value) > max_bytes:
            raise PeerMisbehaved(sender, f"a value of {len(value)} bytes is too large")
        message = GossipMessage.decode(value, sender=sender)
        if message != GossipMessage(records=message.records) or not message.records:
            raise PeerMisbehaved(sender, "a value holds records, and nothing else")
    except PeerMisbehaved:
        table.count(Merged.FORGED, sender)
        raise
    n_taken = n_checked = 0
    for record in message.records:
        merged = table.merge(record, sender=sender, now_ms=now_ms)
        n_taken += merged in TAKEN
        n_checked += merged in TAKEN or merged in DROPPED
        if merged in DROPPED:
            return Put(n_taken, n_checked, is_clean=False)
    return Put(n_taken, n_checked, is_clean=True)


def _told(entries: Iterable[Entry], now_ms: int) -> Iterable[Record]:
    n_bytes = 0
    for entry in entries:
        n_bytes += len(entry.data) + 64  # the fields around it
        if n_bytes > MAX_VALUE_BYTES:
            return
        beat, ttl_ms = entry.version.beat, entry.deadline_ms - now_ms
        if ttl_ms > 0:
            yield Record(ttl_ms, entry.data, beat, entry.link if beat else b"")


def _is_on(entry: Entry, page: int) -> bool:
    return _page_of_entry(key_of(entry.announcement.peer_id)) == page


def _page_of_entry(key: bytes) -> int:
    return key[0] % N_PAGES


def _name_of(swarm_id: bytes) -> str:
    """Who reads a key learns which swarm it is of only if it knows the swarm."""
    return sha256(b"manyhands-dht-v1\x00" + swarm_id).hexdigest()[:_SWARM_CHARS]
