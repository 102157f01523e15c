"""The two sides of a gossip exchange as plain functions: bytes in, bytes out, no sockets.

The side that begins sends `question`, gives the answer to `take_answer` and sends the follow-up it
returns, if any. The side that was asked gives whatever arrives to `answer`. Both use the method
`METHOD` of their transport; `anti_entropy.py` draws the exchange.
"""

from collections.abc import Iterable
from typing import NamedTuple

from protocol.announcement_table import DROPPED, AnnouncementTable, Merged
from protocol.anti_entropy import GossipMessage, Record

METHOD = "gossip"
MAX_JUNK_PER_MESSAGE = 8  # after that the rest of a message is not looked at


class Taken(NamedTuple):
    """What came of a message."""

    reply: bytes  # empty when there is nothing to send
    n_taken: int  # records that we did not hold
    has_news: bool  # somebody came, left or moved: worth telling others at once


def question(table: AnnouncementTable, now_ms: int) -> bytes:
    """The message that begins an exchange."""
    return GossipMessage(summary=table.summary(now_ms)).encode()


def tell(*records: Record) -> bytes:
    """A message that asks nothing."""
    return GossipMessage(records=records).encode()


def answer(table: AnnouncementTable, message: bytes, *, sender: str, now_ms: int) -> Taken:
    """Take a message in; `reply` is always the answer to send.

    Raises:
        PeerMisbehaved: it is no gossip.
    """
    asked = GossipMessage.decode(message, sender=sender)
    n_taken, has_news = _merge(table, asked.records, sender, now_ms)
    if asked.summary is None:
        reply = GossipMessage(records=table.records(asked.wanted, now_ms))
    else:
        difference = table.compare(asked.summary, now_ms)
        reply = GossipMessage(records=difference.lacked, wanted=difference.wanted)
    return Taken(reply.encode(), n_taken, has_news)


def take_answer(table: AnnouncementTable, message: bytes, *, sender: str, now_ms: int) -> Taken:
    """Take in the answer to `question`; `reply` holds what the other side asked for.

    Raises:
        PeerMisbehaved: it is no gossip.
    """
    told = GossipMessage.decode(message, sender=sender)
    n_taken, has_news = _merge(table, told.records, sender, now_ms)
    records = table.records(told.wanted, now_ms)
    return Taken(tell(*records) if records else b"", n_taken, has_news)


def _merge(
    table: AnnouncementTable, records: Iterable[Record], sender: str, now_ms: int
) -> tuple[int, bool]:
    n_taken, n_junk, has_news = 0, 0, False
    for record in records:
        result = table.merge(record, sender=sender, now_ms=now_ms)
        n_taken += result in (Merged.NEW, Merged.NEWER)
        has_news |= result is Merged.NEW
        n_junk += result in DROPPED
        if n_junk > MAX_JUNK_PER_MESSAGE:
            break
    return n_taken, has_news
