"""A check of the ways out: whether those who are announced can be reached from here.

In: who was met, and whom they told of. Out: how many of these answer, by which kind of path, and
why the others do not. A peer is dialled as a client would dial it, relays included.
"""

import asyncio
from collections import Counter

from manyhands.doctor.case import Case
from manyhands.doctor.finding import Check, Finding, ok, skip, warn
from manyhands.doctor.meeting import DIAL_S
from manyhands.running import found_running
from manyhands.whereabouts import peers_of
from protocol.announcements import Announcement
from protocol.errors import ManyhandsError, PeerError
from protocol.path import Path
from protocol.transport.paths import paths_of

MAX_PEERS, MAX_NAMED = 16, 3
NAMED_CHARS = 12


async def _peers(case: Case) -> Finding:
    met = await case.met()
    ours = {peer for each in found_running(case.home) for peer in peers_of(each.addresses)}
    others = [peer for peer in met.directory.live() if peer.peer_id not in ours][:MAX_PEERS]
    if not others:
        return skip("nobody who was met tells of any peer")
    transport = (await case.party()).transport()
    paths = paths_of(transport)

    async def reach(peer: Announcement) -> Path | str:
        try:
            connection = await paths.dial(peer.peer_id, peer.to_dial, timeout_s=DIAL_S)
        except ManyhandsError as error:
            return error.reason if isinstance(error, PeerError) else str(error)
        await connection.aclose()
        return connection.path

    try:
        came = dict(zip(others, await asyncio.gather(*map(reach, others)), strict=True))
    finally:
        await paths.aclose()
    lost = [(peer, why) for peer, why in came.items() if not isinstance(why, Path)]
    counts = Counter(path for path in came.values() if isinstance(path, Path))
    ways = ", ".join(f"{n} {path}" for path, n in counts.most_common()) or "none"
    told = f"of {len(others)} peers these answer: {ways}"
    if not lost:
        return ok(told)
    reasons = "; ".join(f"…{peer.peer_id[-NAMED_CHARS:]}: {why}" for peer, why in lost[:MAX_NAMED])
    return warn(f"{told}; {reasons}", f"manyhands swarm why {lost[0][0].peer_id}")


CHECKS = (Check("peers", "whether those who are announced can be reached from here", _peers, 40.0),)
