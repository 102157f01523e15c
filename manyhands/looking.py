"""Looking at a swarm from here: its table, and whether who is in it answers.

In: peers to ask. Out: each peer, and what this machine saw of it. Every peer is dialled once, up
to `MAX_DIALLED` of them: that one is announced does not mean that it can be reached from here.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from manyhands.asking import RECORD_NAME
from manyhands.condition import NOTHING_SAID, Seen
from manyhands.home import Home
from manyhands.own_words import OwnWords, fetch_own_words
from manyhands.party import open_party
from manyhands.signals import interruptible
from protocol.address import Address
from protocol.errors import ManyhandsError, PeerError
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport.paths import paths_of

if TYPE_CHECKING:
    from protocol.announcements import Announcement
    from protocol.transport import Connection, Transport
    from scheduler.directory import Directory

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
    from protocol.regions import doubts
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
            peers, loading = directory.live(), directory.loading()
            room = asyncio.Semaphore(AT_ONCE)
            async with asyncio.TaskGroup() as tasks:
                dialling = {
                    peer.peer_id: tasks.create_task(_reach(transport, peer, connections, room))
                    for peer in peers[:MAX_DIALLED]
                }
            asked = {peer_id: connections[peer_id] for peer_id in own if peer_id in connections}
            own_words = {peer_id: await fetch_own_words(each) for peer_id, each in asked.items()}
        finally:
            for connection in connections.values():
                await connection.aclose()
            await paths_of(transport).aclose()
    reached = {peer_id: task.result() for peer_id, task in dialling.items()}
    # By what this home's clients had of them, and when.
    slowdowns = read_records(home.client / RECORD_NAME).believed(peers, fetched_ms / 1000)
    doubted = doubts(peers)
    return {
        peer: _seen(
            peer,
            directory,
            reached=reached.get(peer.peer_id),
            slowdown=slowdowns.get(peer.peer_id),
            doubt=str(doubted.get(peer.peer_id, "")),
            own=own_words.get(peer.peer_id, NOTHING_SAID),
            now_ms=fetched_ms,
        )
        for peer in (*peers, *loading)
    }


async def _reach(
    transport: "Transport",
    peer: "Announcement",
    connections: "dict[PeerId, Connection]",
    room: asyncio.Semaphore,
) -> "tuple[float, Path] | str":
    """Milliseconds to it and back, and how; or why it cannot be reached."""
    async with room:
        try:
            connection = connections.get(peer.peer_id)
            if connection is None:
                paths = paths_of(transport)
                connection = await paths.dial(peer.peer_id, peer.to_dial, timeout_s=DIAL_S)
                connections[peer.peer_id] = connection
            began_s = time.monotonic()
            await connection.call("ping", b"", timeout_s=DIAL_S)
            return (time.monotonic() - began_s) * 1000, connection.path
        except ManyhandsError as error:
            return _reason(error)


def _reason(error: ManyhandsError) -> str:
    return error.reason if isinstance(error, PeerError) else str(error)


def _seen(
    peer: "Announcement",
    directory: "Directory",
    *,
    reached: "tuple[float, Path] | str | None",
    slowdown: float | None,
    doubt: str,
    own: OwnWords,
    now_ms: int,
) -> Seen:
    heard_ms = directory.table.heard_ms(peer.peer_id, now_ms)
    skew_ms, since_ms = directory.table.skew_ms(peer.peer_id, now_ms), peer.measured.since_ms
    is_loading = peer.loading is not None and since_ms > 0
    return Seen(
        rtt_ms=reached[0] if isinstance(reached, tuple) else None,
        way=reached[1] if isinstance(reached, tuple) else Path.DIRECT,
        why_not=reached if isinstance(reached, str) else "",
        age_s=heard_ms / 1000,
        slowdown=slowdown,
        doubt=doubt,
        own=own,
        skew_s=skew_ms / 1000,
        loading_s=max(0, now_ms - (since_ms - skew_ms)) / 1000 if is_loading else None,
    )
