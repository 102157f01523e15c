"""A node holds copies of what others run, for when they die: the call `spare` (DESIGN 5a.20).

In: a client's reserve, as it would come if a hop were lost now, with the client's note to that hop.
Out: how many rows of the session are held here, fetched from the hop and filed among the rows that
sessions may begin with (`prefixes.py`), in room that nobody needs. Nothing depends on a copy:
whatever fails, rows are run again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.prefixes import Rows
from node.pulling import Pull
from node.sessions import Sessions
from protocol.codec import to_hop_message
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerRefused, PeerUnreachable
from protocol.handover import Part
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.journal import Journal
from protocol.messages import Reserve, SessionId, Span, require
from protocol.spare import SpareNote, held_bytes

log = logging.getLogger(__name__)

AT_ONCE, MOST_WAITING, MOST_OF_CLIENT = 4, 16, 8  # copies that are made, and that wait to be
KEEPS = PeerUnreachable, PeerBusy, PeerRefused  # what was copied before is as good as it was
COPYING_S = 30.0  # for one call; the next one goes on from there


class Sparing:
    """The handler of the call."""

    def __init__(self, sessions: Sessions, swarm_id: bytes) -> None:
        self._sessions, self._swarm_id = sessions, swarm_id
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._busy: set[tuple[PeerId, SessionId, Span]] = set()

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        reserve = to_hop_message(request)
        if not isinstance(reserve, Reserve):
            raise PeerMisbehaved(peer_id, "a spare is asked with a reserve")
        if not reserve.handover.peer:
            for rows in self._sessions.prefixes.copies(peer_id, reserve.session):
                self._sessions.prefixes.drop(rows)
            return held_bytes(0)
        note = self._note(peer_id, reserve)
        async with self._turn(peer_id, reserve):
            constraints = self._sessions.check(reserve, peer_id)
            self._sessions.around.vetting.peer(constraints, PeerId(reserve.handover.peer))
            rows = self._found(peer_id, reserve) or self._begun(peer_id, reserve)
            self._sessions.prefixes.name(rows, reserve.prefixes)
            await self._fill(rows, reserve, note)
        return held_bytes(rows.length)

    def _note(self, peer_id: PeerId, reserve: Reserve) -> SpareNote:
        """The client's leave to copy; it says the same as the reserve around it."""
        around = self._sessions.around
        note = SpareNote.open(
            reserve.handover.note, self._swarm_id, public_key_from_peer_id(peer_id)
        )
        agreed = SpareNote(
            session=reserve.session,
            epoch=reserve.epoch,
            giver=public_key_from_peer_id(reserve.handover.peer),
            taker=public_key_from_peer_id(around.peer_id),
            span=reserve.span,
            stop=note.stop,
        )
        require(note == agreed, "the note is about another copy")
        require(note.stop <= reserve.capacity, "a copy beyond the room asked for")
        require(not reserve.client_ends, "a client that holds the ends may take its rows back")
        require(not reserve.prefixes.shared, "copies of a running session are not shared")
        return note

    @asynccontextmanager
    async def _turn(self, peer_id: PeerId, reserve: Reserve) -> AsyncIterator[None]:
        """One at a time for the same rows, few in all, and few who wait."""
        copy = peer_id, reserve.session, reserve.span
        of_client = sum(client == peer_id for client, _, _ in self._busy)
        is_full = len(self._busy) >= AT_ONCE + MOST_WAITING or of_client >= MOST_OF_CLIENT
        if copy in self._busy or is_full:
            raise PeerBusy("", "enough copies are being made", hint="try again shortly")
        self._busy.add(copy)
        try:
            async with self._turns:
                yield
        finally:
            self._busy.discard(copy)

    def _found(self, client: str, reserve: Reserve) -> Rows | None:
        """The copy to go on with. One of another size, or with another adapter, is given up."""
        for rows in self._sessions.prefixes.copies(client, reserve.session):
            if rows.reserve.span == reserve.span:
                if _kind(rows.reserve) == _kind(reserve):
                    return rows
                self._sessions.prefixes.drop(rows)
        return None

    def _begun(self, client: str, reserve: Reserve) -> Rows:
        sessions, span = self._sessions, reserve.span
        n_bytes = sessions.rows_bytes(reserve)
        if not sessions.prefixes.may_copy(client, n_bytes, sessions.free_bytes):
            raise PeerBusy("", f"a copy needs {n_bytes} bytes of room that nobody else needs")
        lease = sessions.served.engine.open(reserve.capacity, entry=span.start, exit=span.stop)
        journal = Journal(sessions.served.row_bytes, 0 if reserve.is_last else reserve.capacity)
        rows = Rows(client, reserve, lease, journal, None)
        sessions.prefixes.add_copy(rows, n_bytes)
        return rows

    async def _fill(self, rows: Rows, reserve: Reserve, note: SpareNote) -> None:
        """From the hop, up to where the note says, or as far as it goes."""
        sessions = self._sessions
        prefixes, served, around = sessions.prefixes, sessions.served, sessions.around
        began_s, before = time.monotonic(), rows.left
        if not prefixes.copied(rows, before) or before >= note.stop:
            return

        def took(part: Part) -> None:
            journal = rows.journal
            is_whole = reserve.is_last or (not journal.start and journal.length == part.stop)
            if not is_whole:
                raise ValueError("outputs of some rows are gone")
            if not prefixes.copied(rows, part.stop):
                raise PeerBusy("", "the room is needed")

        pull = Pull(
            around.transport,
            reserve,
            limit=note.stop,
            profile=str(served.profile),
            row_bytes=served.row_bytes,
            dtype=served.engine.dtype,
        )
        try:
            if rows.lease.length > rows.left:  # the last part of a call that was broken off
                await around.batcher.between_steps(lambda: rows.lease.cut(rows.left))
            rows.journal.cut(rows.left)
            await pull.into(
                rows.lease, rows.journal, around.batcher, until_s=began_s + COPYING_S, took=took
            )
        except (ManyhandsError, ValueError, RuntimeError) as error:  # torch's own, the last one
            log.info("a copy ended early", extra={"error": str(error), "rows": rows.left})
            if not isinstance(error, KEEPS):
                prefixes.drop(rows)
                rows.left = 0
        spent_s = round(time.monotonic() - began_s, 3)
        log.debug("copied rows", extra={"rows": rows.left - before, "seconds": spent_s})


def _kind(reserve: Reserve) -> tuple[object, ...]:
    """What must be equal for one copy to go on with the other's rows."""
    return reserve.capacity, reserve.extensions.adapter, reserve.n_blocks
