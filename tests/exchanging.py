"""Tables that exchange without sockets, for tests: every message goes through its bytes."""

from collections.abc import Sequence

from protocol.announcement_table import AnnouncementTable
from protocol.anti_entropy import Record
from protocol.gossip_rules import MAX_STEPS, Exchange, answer
from protocol.heartbeats import Beat, BeatChain, record_id
from protocol.signing import OPEN_SWARM_ID
from tests.announcing import NOW_MS, key_of, record

BEAT_MS = 10_000


def table_of(*records: Record, now_ms: int = NOW_MS, **limits: int) -> AnnouncementTable:
    table = AnnouncementTable(OPEN_SWARM_ID, **limits)
    for each in records:
        table.merge(each, sender="a friend", now_ms=now_ms)
    return table


def content(table: AnnouncementTable, now_ms: int = NOW_MS) -> set[tuple[bytes, int]]:
    """The records held, and the last beat of each."""
    table.expire(now_ms)
    return {(entry.data, entry.version.beat) for entry in table.learned_since(0)}


def exchange(
    ours: AnnouncementTable,
    theirs: AnnouncementTable,
    now_ms: int = NOW_MS,
    *,
    compare: bool = True,
) -> list[int]:
    """One exchange that we begin; the sizes of its messages, ours first."""
    conversation = Exchange(ours, compare=compare)
    message, sizes = conversation.question(now_ms), []
    for _ in range(MAX_STEPS):
        told = answer(theirs, message, sender="us", now_ms=now_ms).reply
        sizes += [len(message), len(told)]
        message = conversation.take(told, sender="them", now_ms=now_ms).reply
        if not message:
            return sizes
    raise AssertionError("an exchange without end")


def beating(n: int, *, n_beats: int = 20, issued_ms: int = NOW_MS) -> tuple[Record, Sequence[Beat]]:
    """Peer `n`'s record with a promise of heartbeats, and those heartbeats, the first for now."""
    chain = BeatChain(
        n.to_bytes(32, "big"), key_of(n).public_key, n_beats=n_beats, interval_ms=BEAT_MS
    )
    told = record(
        n,
        heartbeats=chain.promise,
        sequence=issued_ms,
        issued_ms=issued_ms,
        expires_ms=issued_ms + 3 * BEAT_MS,
    )
    id = record_id(told.data)
    return told, [Beat(id, number, chain.link(number)) for number in range(n_beats + 1)]
