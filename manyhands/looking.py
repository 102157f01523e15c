"""Looking at a swarm from here: its table, and whether who is in it answers.

In: peers to ask. Out: each peer, and what this machine saw of it. Every peer is dialled once, up
to `MAX_DIALLED` of them: that one is announced does not mean that it can be reached from here.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from manyhands.asking import RECORD_NAME
from manyhands.condition import Seen
from manyhands.home import Home
from manyhands.own_words import fetch_own_words
from manyhands.party import open_party
from manyhands.sight import Ping, seen_in
from manyhands.signals import interruptible
from protocol.address import Address
from protocol.errors import ManyhandsError
from protocol.identity import PeerId
from protocol.transport.paths import paths_of

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from protocol.transport import Connection, Transport

MAX_DIALLED, AT_ONCE = 64, 16
DIAL_S = 3.0


async def look(
    home: Home, join: Sequence[Address], own: Collection[PeerId] = ()
) -> "dict[Announcement, Seen]":
    """Everybody in the swarm's table, in its order, then who loads, and what was seen of them.

    `own` are asked, besides, what they say of themselves.

    Raises:
        PeerError: nobody of `join` answers.
    """
    from scheduler.directory import fetch_directory
    from scheduler.record_file import read_records

    party = open_party(home, "client")
    directory, transport = party.directory(), party.transport()
    connections: dict[PeerId, Connection] = {}
    with interruptible():
        try:
            await fetch_directory(transport, join, directory, connections=connections)
            await party.hear(join)
            fetched_ms = directory.now_ms()
            room = asyncio.Semaphore(AT_ONCE)
            async with asyncio.TaskGroup() as tasks:
                dialling = {
                    peer.peer_id: tasks.create_task(_reach(transport, peer, connections, room))
                    for peer in directory.live()[:MAX_DIALLED]
                }
            asked = {peer_id: connections[peer_id] for peer_id in own if peer_id in connections}
            own_words = {peer_id: await fetch_own_words(each) for peer_id, each in asked.items()}
        finally:
            for connection in connections.values():
                await connection.aclose()
            await paths_of(transport).aclose()
    pings = {peer_id: task.result() for peer_id, task in dialling.items()}
    records = read_records(home.client / RECORD_NAME)  # of what this home's clients had of them
    then = replace(directory, now_ms=lambda: fetched_ms)  # dialling took a while
    return seen_in(then, pings, records, own_words)


async def _reach(
    transport: "Transport",
    peer: "Announcement",
    connections: "dict[PeerId, Connection]",
    room: asyncio.Semaphore,
) -> Ping:
    ping = Ping()
    async with room:
        try:
            connection = connections.get(peer.peer_id)
            if connection is None:
                paths = paths_of(transport)
                connection = await paths.dial(peer.peer_id, peer.to_dial, timeout_s=DIAL_S)
                connections[peer.peer_id] = connection
            began_s = time.monotonic()
            await connection.call("ping", b"", timeout_s=DIAL_S)
            ping.answered((time.monotonic() - began_s) * 1000, connection.path)
        except ManyhandsError as error:
            ping.missed(error)
    return ping
