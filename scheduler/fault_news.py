"""What a client tells nodes of faults that it found, and hears from them of others.

In: findings, a few peers. Out: findings that have what the peers had, as far as it convinces; the
peers have what we told.
"""

import asyncio
import logging
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
