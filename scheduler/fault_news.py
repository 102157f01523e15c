"""What a client tells nodes of faults that it found, and hears from them of others.

In: findings, a few peers. Out: findings that have what the peers had, as far as it convinces; the
peers have what we told. What we found or took up ourselves is told again and again, as nobody asks
a client; not for ever, as nodes tell each other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from ledger.fault_words import ID_BYTES, METHOD, Asked, decode_told, fitting
from ledger.findings import Findings
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError
from protocol.signing import Envelope
from scheduler.chain import Connections

log = logging.getLogger(__name__)

CALL_S = 10.0
PARTNERS = 3  # who tell the rest
ROUNDS = 10  # in which each fault of our own is told, to PARTNERS at a time
OWN_AT_ONCE = 2  # bounded well below what a node hears of one peer


class OwnFaults:
    """Which of the faults that a client's key told are next."""

    def __init__(self, reporter: bytes) -> None:
        self._reporter = reporter
        self._rounds: Counter[bytes] = Counter()

    def following(self, findings: Findings) -> list[Envelope]:
        """The least told first; asked each time that some are told."""
        known = findings.told_by(self._reporter)
        left = sorted(known, key=self._rounds.__getitem__)[:OWN_AT_ONCE]
        chosen = [id_ for id_ in left if self._rounds[id_] < ROUNDS]
        self._rounds.update(chosen)
        return findings.told(chosen)


async def exchange_faults(
    connections: Connections,
    peers: Iterable[Announcement],
    findings: Findings,
    told: Sequence[Envelope] = (),
) -> int:
    """Tell these peers, and take in what they have that we have not. How many those were.

    All at once: one that does not answer keeps nobody else's word away.
    """
    known = await asyncio.to_thread(findings.ids)
    asked = Asked(frozenset(id_[:ID_BYTES] for id_ in known), fitting(told)).encode()

    async def hear(peer: Announcement) -> None:
        try:
            connection = await connections.to(peer.peer_id, [str(way) for way in peer.to_dial])
            answer = await connection.call(METHOD, asked, timeout_s=CALL_S)
            for each in decode_told(answer):
                await asyncio.to_thread(findings.add, each)
        except ManyhandsError as error:
            log.info("no news of faults", extra={"peer": peer.peer_id, "why": str(error)})

    async with asyncio.TaskGroup() as tasks:
        for peer in peers:
            tasks.create_task(hear(peer))
    return len(await asyncio.to_thread(findings.ids) - known)
