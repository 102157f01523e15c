"""Members of our swarm on the local network: `serve --lan` in a swarm that has members.

In: who we are, where we listen. Out: for a node that runs, addresses to begin at, told and heard by
multicast DNS in words that members alone can read; before it runs, those that are heard at once.
Nothing of libp2p runs for it: whoever is heard of is dialled over gRPC, where membership is judged.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from manyhands.progress import say
from protocol.address import Address
from protocol.transport.lan import LocalNetwork, is_installed
from protocol.transport.reach import reachable_hosts
from protocol.transport.sealed_words import SealedWords

if TYPE_CHECKING:
    from node.node import Node

log = logging.getLogger(__name__)

LOOK_S = 2.0  # before the node runs, for somebody
MORE_S = 0.3  # and for others, once there is one
MISSING = "nobody is looked for on the local network: pip install 'manyhands[libp2p]', for zeroconf"


@asynccontextmanager
async def found_nearby(node: "Node", *, is_wanted: bool) -> AsyncIterator[None]:
    """While the context lasts members nearby hear where the node is, and it begins at theirs."""
    if not is_wanted or not is_installed():  # the latter was said by `look_nearby`
        yield
        return
    words, own = SealedWords(node.standing.swarm_id), node.whereabouts.own()
    network = LocalNetwork(own, words, node.gossip.introduce)
    task = asyncio.create_task(_run(network), name="the local network")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _run(network: LocalNetwork) -> None:
    try:
        await network.run()
    except Exception as error:  # of a library, about a network; the node does without
        log.warning("nobody is found on the local network", extra={"reason": repr(error)})


async def look_nearby(swarm_id: bytes, host: str) -> tuple[Address, ...]:
    """Where members nearby can be dialled; says nothing of us.

    host: where a node would listen, which tells the interfaces.
    """
    if not is_installed():
        say(MISSING)
        return ()
    found: list[Address] = []
    is_heard = asyncio.Event()

    def hear(address: Address) -> None:
        found.append(address)
        is_heard.set()

    network = LocalNetwork((), SealedWords(swarm_id), hear, hosts=reachable_hosts(host))
    task = asyncio.create_task(_run(network), name="a look at the local network")
    try:
        async with asyncio.timeout(LOOK_S):
            await is_heard.wait()
            await asyncio.sleep(MORE_S)
    except TimeoutError:
        if not found:
            say("nobody of this swarm is heard on the local network yet; the node goes on looking")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return tuple(found)
