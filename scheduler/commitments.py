"""What the hops of an answer are held to: the last thing each has signed, and what can be asked
about it afterwards.

In: a session's tabs once they are settled. Out: which links carried other rows than were sent on
them, and windows of fingerprints, proven by the statement that was held before they were asked for.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from ledger.fingerprints import MAX_OPENED, METHOD, Opening, OpeningRequest
from ledger.judging import Leaf
from ledger.objects import Statement, Terms
from ledger.receipts import Receipt
from ledger.roots import differing_links
from ledger.tab import PayerTab
from protocol.chain_hops import Hop
from protocol.errors import PeerMisbehaved
from protocol.identity import PeerId
from protocol.signing import Envelope
from protocol.transport import Connection
from protocol.windows import Window

log = logging.getLogger(__name__)

OPEN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """One hop's, in one tab. salt: the session's, without which its leaves cannot be read."""

    peer: PeerId
    terms: Terms
    terms_oid: bytes
    statement: Statement
    envelope: Envelope
    receipt: Receipt
    salt: bytes

    @classmethod
    def of(cls, tab: PayerTab, peer: str, salt: bytes) -> Self | None:
        """None: it has stated nothing yet."""
        envelope = tab.receipt().statement
        if tab.statement is None or envelope is None:
            return None
        return cls(
            peer=PeerId(peer),
            terms=tab.terms,
            terms_oid=tab.terms_oid,
            statement=tab.statement,
            envelope=envelope,
            receipt=tab.receipt(),
            salt=salt,
        )


def suspect_links(
    hops: Sequence[Hop], commitments: Mapping[str, Commitment], *, has_begun: bool
) -> tuple[tuple[str, str], ...]:
    """Links between hops, in the order of blocks, whose ends do not agree on the rows between them.

    has_begun: an id was there when the epoch was committed, so that all hops' roots begin alike;
    else only those with equally many rows by then can be compared. One end of such a link lies, or
    the bytes were altered between two proven peers; which end is not known.
    """
    found: list[tuple[str, str]] = []
    for ends in pairwise(hops):
        told = [commitments[hop.peer].statement for hop in ends if hop.peer in commitments]
        begin_alike = has_begun or ends[0].base == ends[1].base
        if len(told) == 2 and begin_alike and differing_links(told):
            sender, receiver = (hop.peer for hop in ends)
            log.warning("two hops disagree on rows", extra={"from": sender, "to": receiver})
            found.append((sender, receiver))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Opened:
    """Windows that a hop showed, by their indices, and where each stands under its statement.

    start, stop: the positions that its fingerprints are about.
    """

    start: int
    stop: int
    windows: Mapping[int, Window]
    leaves: Mapping[int, Leaf]


async def open_windows(
    connection: Connection, held: Commitment, windows: Sequence[int], swarm_id: bytes
) -> Opened:
    """Ask a hop for windows of what it ran, up to 32 of them, by their indices.

    Raises:
        PeerMisbehaved: they are not those that it had committed to, or not those asked for.
        PeerRefused: it has them no longer.
        PeerUnreachable: there was no answer.
    """
    asked = OpeningRequest(held.terms_oid, tuple(windows[:MAX_OPENED]))
    answer = await connection.call(METHOD, asked.encode(), timeout_s=OPEN_S)
    opening = Opening.decode(answer)
    if opening.statement.payload != held.envelope.payload:
        raise PeerMisbehaved(held.peer, "it shows fingerprints under another statement than before")
    _, shown = opening.check(held.terms, held.terms_oid, held.salt, swarm_id)
    if set(shown) != set(asked.windows):
        raise PeerMisbehaved(held.peer, "it shows other windows than it was asked for")
    leaves = {index: Leaf.of(opening, index, held.salt) for index in shown}
    return Opened(opening.start, opening.stop, shown, leaves)
