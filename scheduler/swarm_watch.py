"""How a client hears who was sent away while it waits for its answers.

In: a membership, connections, who serves. Out: an exchange of states every few seconds with a peer
drawn at random; what it changes is the gate's and the table's affair. Its failures are nobody's.
"""

import asyncio
import logging
import random

from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.membership.exchange import exchange
from protocol.membership.gate import Membership
from scheduler.chain import Connections
from scheduler.directory import Directory

log = logging.getLogger(__name__)

EVERY_S, TIMEOUT_S = 2.0, 2.0


async def watch_swarm(
    membership: Membership,
    connections: Connections,
    directory: Directory,
    join: tuple[Address, ...],
    rng: random.Random,
) -> None:
    """Until cancelled."""
    while True:
        await hear(membership, connections, directory, join, rng)
        membership.look_again()
        await asyncio.sleep(EVERY_S * rng.uniform(0.8, 1.2))


async def hear(
    membership: Membership,
    connections: Connections,
    directory: Directory,
    join: tuple[Address, ...],
    rng: random.Random,
) -> None:
    """Ask one peer, if any is known and answers."""
    serving = [(peer.peer_id, peer.to_dial) for peer in directory.live()]
    known = serving or [(address.peer_id, (address,)) for address in join]
    if not known:
        return
    peer_id, addresses = rng.choice(known)
    try:
        texts = tuple(map(str, addresses))
        connection = await connections.to(peer_id, texts, timeout_s=TIMEOUT_S)
        await exchange(connection, membership, timeout_s=TIMEOUT_S)
    except ManyhandsError as error:
        log.debug("no word of the swarm", extra={"peer": peer_id, "why": str(error)})
