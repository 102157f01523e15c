"""Discovery over libp2p, for the command line: from flags to a plane, and a first look at a swarm.

In: `--libp2p`, `--bootstrap` and `--lan`. Out: the plane that a node runs, or None when nobody
asked for one; addresses of peers that serve, for what has to be known before the node runs: which
blocks the swarm misses, and who has weights.
"""

import asyncio
from collections.abc import Sequence

from manyhands.progress import say
from node.discovery import Discovery
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.identity import Identity
from protocol.record_pages import N_PAGES
from protocol.signing import SigningKey
from protocol.transport.libp2p import Libp2pPlane

LOOK_TIMEOUT_S = 6.0
MAX_FOUND = 16


def make_plane(
    identity: Identity,
    swarm_id: bytes,
    listen: tuple[str, int] | None,
    bootstrap: Sequence[Address],
    *,
    lan: bool,
) -> Libp2pPlane | None:
    """A plane if any of the flags was given. Nothing listens that nobody asked for."""
    if listen is None and not bootstrap and not lan:
        return None
    host, port = listen or ("0.0.0.0", 0)
    return Libp2pPlane(
        identity, host=host, port=port, bootstrap=bootstrap, swarm_id=swarm_id, lan=lan
    )


async def find_peers(swarm_id: bytes, bootstrap: Sequence[Address]) -> tuple[Address, ...]:
    """Where some of those who serve can be dialled, as bootstrap peers and their neighbours say.

    A stranger does this: the identity of the node is not seen before the node serves.
    """
    identity = Identity(SigningKey.generate())
    plane = Libp2pPlane(identity, host="127.0.0.1", bootstrap=bootstrap, swarm_id=swarm_id)
    discovery = Discovery(AnnouncementTable(swarm_id), plane)
    if not bootstrap or not await discovery.start():
        return ()
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            while not await discovery.look(range(N_PAGES)):  # noqa: ASYNC110 (it is no event)
                await asyncio.sleep(0.2)
    except TimeoutError:
        say("nobody found through --bootstrap yet; it is tried again while the node serves")
    finally:
        await discovery.stop()
    serving = discovery.table.live(wall_ms())
    return tuple(address for peer in serving for address in peer.addresses)[:MAX_FOUND]
