"""Discovery over libp2p, for the command line: from flags to a plane, and a first look at a swarm.

In: `--libp2p`, `--bootstrap` and `--lan`. Out: the plane that a node runs, or None when nobody
asked for one; addresses of peers that serve, for what has to be known before the node runs: which
blocks the swarm misses, and who has weights.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from manyhands.progress import say
from node.discovery import Discovery
from protocol.address import Address
from protocol.announcement_table import AnnouncementTable
from protocol.clock import wall_ms
from protocol.errors import ConfigError
from protocol.identity import Identity, PeerId
from protocol.record_pages import N_PAGES
from protocol.signing import SigningKey
from protocol.transport.control_plane import (
    CARRYING,
    CircuitLimits,
    Keeper,
    TunnelLimits,
    Tunnelling,
)
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
    relays: bool = False,
) -> Libp2pPlane | None:
    """A plane if any of the flags was given. Nothing listens that nobody asked for.

    Args:
        relays: carry what others say, too; else a few words, with which they arrange holes.
    """
    if listen is None and not bootstrap and not lan:
        return None
    host, port = listen or ("0.0.0.0", 0)
    return Libp2pPlane(
        identity,
        host=host,
        port=port,
        bootstrap=bootstrap,
        swarm_id=swarm_id,
        lan=lan,
        tunnels=TunnelLimits(),
        relaying=CARRYING if relays else CircuitLimits(),
    )


@asynccontextmanager
async def tunnelling(identity: Identity, swarm_id: bytes) -> AsyncIterator[Tunnelling | None]:
    """Tunnels for a client; None, and a word why, where libp2p does not run."""
    plane = Libp2pPlane(identity, host="0.0.0.0", swarm_id=swarm_id, tunnels=TunnelLimits())
    try:
        await plane.start(_KeepsNothing())
    except ConfigError as error:
        say(f"no tunnels: {error}; {error.hint}")
        yield None
        return
    plane.tunnelling.serve(0, wants_places=lambda: False)
    try:
        yield plane.tunnelling
    finally:
        await plane.stop()


class _KeepsNothing(Keeper):
    def admits(self, peer_id: PeerId) -> bool:
        return True

    async def keep(self, sender: PeerId, key: bytes, value: bytes) -> bool:
        return False

    async def kept(self, sender: PeerId, key: bytes) -> bytes:
        return b""


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
