"""What a node has run, given to who has the client's note: the call `handover` (DESIGN 5a.19, 20).

In: a note that a session's client signed for whoever asks, and a position. Out: what fits into a
part of keys, values and journal from there on; see `protocol.handover`. A node that leaves gives to
its heir, and any node, little by little, to the spare of a session. Sessions run on meanwhile: each
part is copied between two of their steps. Who has no such note learns nothing.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from node.hop import Hop
from node.rows import bytes_of
from node.sessions import Sessions
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerRefused
from protocol.handover import (
    PART_BYTES,
    BlockShape,
    Note,
    Part,
    read_request,
    rows_per_part,
    session_of,
)
from protocol.hop_state import State
from protocol.identity import PeerId, public_key_from_peer_id
from protocol.measured import ASSUMED_BYTES_PER_S
from protocol.messages import Span
from protocol.spare import PART_BYTES as SPARE_PART_BYTES
from protocol.spare import SpareNote, is_spare_note

if TYPE_CHECKING:
    from node.engine.lease import BlockRows

AT_ONCE = 2  # parts in memory
SPARE_SHARE = 0.1  # of the way up that spares may have together
MOST_WAITING = 8  # spares


class Giving:
    """The handler of the call. `up_bytes_per_s`: this node's way up; 0: nobody measured it."""

    def __init__(
        self,
        sessions: Sessions,
        swarm_id: bytes,
        up_bytes_per_s: Callable[[], int] = lambda: 0,
        *,
        spare_part_bytes: int = SPARE_PART_BYTES,
    ) -> None:
        self.spare_part_bytes = spare_part_bytes
        self._sessions, self._swarm_id = sessions, swarm_id
        self.up_bytes_per_s = up_bytes_per_s
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._spare_turn = asyncio.Lock()
        self._spare_at = 0.0  # when the next part for a spare may go
        self._n_waiting = 0
        self.bytes_given = 0
        self.spare_bytes_given = 0

    async def handle(self, peer_id: PeerId, request: bytes) -> bytes:
        try:
            sealed, start = read_request(request)
            hop, note = self._check(peer_id, sealed)
        except PeerRefused:
            raise
        except ManyhandsError as error:
            raise PeerMisbehaved(peer_id, f"it may not have these rows: {error}") from error
        self._sessions.around.vetting.peer(hop.constraints, peer_id)
        if isinstance(note, SpareNote):
            return (await self._to_spare(hop, note, start)).encode()
        async with self._turns:
            part = await self._part(hop, note, start)
        self._sessions.gave_at_s = time.monotonic()
        self.bytes_given += len(part.body)
        return part.encode()

    async def _to_spare(self, hop: Hop, note: SpareNote, start: int) -> Part:
        """In turn, and not before the last part's share of the way up is over."""
        if self._n_waiting >= MOST_WAITING:
            raise PeerBusy("", "enough spares copy from here for now", hint="try again shortly")
        self._n_waiting += 1
        try:
            async with self._spare_turn:
                await asyncio.sleep(max(0.0, self._spare_at - time.monotonic()))
                part = await self._part(hop, note, start)
                rate = SPARE_SHARE * (self.up_bytes_per_s() or ASSUMED_BYTES_PER_S)
                self._spare_at = time.monotonic() + len(part.body) / rate
        finally:
            self._n_waiting -= 1
        self.spare_bytes_given += len(part.body)
        return part

    def _check(self, peer_id: PeerId, sealed: bytes) -> tuple[Hop, Note | SpareNote]:
        """The session, and what of it its client lets `peer_id` have."""
        hop = self._sessions.find(session_of(sealed))
        if hop is None:
            raise PeerRefused("", "no such session here")
        kind = SpareNote if is_spare_note(sealed) else Note
        note = kind.open(sealed, self._swarm_id, public_key_from_peer_id(hop.client))
        ours = public_key_from_peer_id(self._sessions.around.peer_id)
        if (note.giver, note.taker) != (ours, public_key_from_peer_id(peer_id)):
            raise PeerMisbehaved(peer_id, "the note names others")
        if not hop.session.reserve.span.holds(note.span):
            raise PeerMisbehaved(peer_id, "the note names blocks that are not in the session here")
        return hop, note

    async def _part(self, hop: Hop, note: Note | SpareNote, start: int) -> Part:
        session, lease = hop.session, hop.lease
        self._check_gives(hop, note)
        served, span, length = self._sessions.served, note.span, _length(hop, note)
        if start > session.length:
            raise PeerRefused("", f"there are {session.length} rows here, {start} were asked for")
        length = max(length, start)  # of a session that went back there is no more than before
        engine = served.engine
        position_bytes = engine.lease_bytes(1, entry=span.start, exit=span.stop) + served.row_bytes
        most = self.spare_part_bytes if isinstance(note, SpareNote) else PART_BYTES
        stop = min(length, start + rows_per_part(position_bytes, most))

        def copied() -> "tuple[list[BlockRows], list[memoryview]]":
            blocks = lease.block_rows(start, stop, span.start, span.stop)
            return blocks, [bytes_of(x.clone()) for b in blocks for x in (b.keys, b.values)]

        try:
            blocks, views = await self._sessions.around.batcher.between_steps(copied)
        except (ManyhandsError, ValueError, RuntimeError) as error:
            raise PeerRefused("", f"these rows cannot be handed over: {error}") from error
        self._check_gives(hop, note)
        if stop > session.length:
            raise PeerRefused("", "the session went back meanwhile")
        row_bytes, journal_from, journal = _journal(hop, span, start, stop)
        return Part(
            profile=str(served.profile),
            start=start,
            stop=stop,
            length=max(stop, _length(hop, note)),
            item_bytes=engine.dtype.itemsize,
            blocks=tuple(_shape(block) for block in blocks),
            journal_row_bytes=row_bytes,
            journal_from=journal_from,
            body=b"".join([*views, journal]),
        )

    def _check_gives(self, hop: Hop, note: Note | SpareNote) -> None:
        if isinstance(note, SpareNote):
            self._check_spares(hop, note)
            return
        if not self._sessions.draining:
            raise PeerRefused("", "this node stays: nothing is handed over")
        if hop.session.state is not State.RUNNING or hop.session.epoch >= note.epoch:
            raise PeerRefused("", "the chain has gone on without this note")

    def _check_spares(self, hop: Hop, note: SpareNote) -> None:
        session = hop.session
        if session.state is not State.RUNNING or session.epoch != note.epoch:
            raise PeerRefused("", "the note is of another epoch")
        if hop.is_bare:
            raise PeerRefused("", "a client that holds the ends may take its rows back")
        if _length(hop, note) < hop.lease.floor:
            raise PeerRefused("", "what a spare needs to go on there is forgotten here")


def _length(hop: Hop, note: Note | SpareNote) -> int:
    """Up to where rows are given. One window is under way at most, so that no row further back is
    of a guess; which later one is, only the last hop knows.
    """
    length = hop.session.length
    if isinstance(note, SpareNote):
        return min(length, note.stop)
    return max(length - note.most_drafts, min(length, hop.session.n))


def _journal(hop: Hop, span: Span, start: int, stop: int) -> tuple[int, int, bytes]:
    """(bytes of a row, the first position, rows); none where others run the blocks behind."""
    session, reserve = hop.session, hop.session.reserve
    if span.stop != reserve.span.stop or reserve.is_last:
        return 0, start, b""
    first = min(max(start, session.journal.start), stop)
    return session.row_bytes, first, session.journal.rows(first, stop) if first < stop else b""


def _shape(rows: "BlockRows") -> BlockShape:
    key_heads, _, key_dim = rows.keys.shape
    value_heads, _, value_dim = rows.values.shape
    return BlockShape(rows.first, key_heads, key_dim, value_heads, value_dim)
