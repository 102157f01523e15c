"""Data streams to successors: one per peer, shared by every session that goes there.

In: rows and questions for a peer. Out: what a step of the engine gave, on that peer's
`data_link.py`; for a client that holds the ends, whom no node dials, on the stream that it opened.
Streams are not sessions (DESIGN 5a.2): a lost one is opened again for RESUME_S, and the sessions'
own rules decide what is sent again.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from node.data_link import ALWAYS, AUTO, DataLink, Packing, Pushed, Successors
from node.pacing import Bucket, Pacer
from node.uplink import Rows
from protocol.codec import data_bytes
from protocol.errors import PeerBusy, PeerUnreachable
from protocol.frames import Ask, Frame, RowGroup
from protocol.path import Path
from protocol.transport import Stream, Transport
from protocol.transport.paths import LOOK_S

LEAST_WAIT_S = 0.001


_Where = tuple[str, Stream | None, int]  # a peer, its own stream, the bytes of a row
_Waiting = tuple[_Where, Rows]


class Neighbours:
    """All outbound data streams of a node."""

    def __init__(
        self,
        transport: Transport,
        told: Successors,
        *,
        pack: str = AUTO,
        pack_width: int = 0,
        look_s: float = LOOK_S,
        bucket: Bucket | None = None,
    ) -> None:
        """Large frames of values of `pack_width` bytes are packed to peers that `pack` says.

        look_s: between looks for a better way than the one in use.
        bucket: what all rows may take of this machine's way out; None: as they come.
        """
        self._transport, self._told, self._look_s = transport, told, look_s
        self._packing = Packing(pack, pack_width)
        self._links: dict[str, DataLink] = {}
        self._outbox: dict[_Where, list[Rows]] = {}
        self._pacer: Pacer[_Waiting] | None = Pacer(bucket) if bucket else None
        self._releasing: asyncio.TimerHandle | None = None
        self._pushed = Pushed()

    @property
    def pushed(self) -> Pushed:
        """What all links have carried so far."""
        return self._pushed

    def expect(self, peer: str, addresses: Sequence[str]) -> None:
        """A session will send there: open the stream now, so that the first rows find it up."""
        self._links = {peer: link for peer, link in self._links.items() if not link.is_over}
        if (link := self._links.get(peer)) is not None:
            link.want(addresses)
            return
        self._links[peer] = DataLink(
            self._transport,
            peer,
            addresses,
            self._told,
            self._look_s,
            self._packing,
            self._pushed,
        )

    def push(
        self,
        peer: str,
        group: RowGroup,
        row_bytes: int,
        rows: bytes,
        back: Stream | None = None,
    ) -> None:
        """Rows for the next frame to `peer`; `flush` sends them.

        back: the stream that `peer` opened, where it is a client that nobody dials.
        """
        waiting = self._outbox.setdefault((peer, back, row_bytes), [])
        waiting.append(Rows(group, row_bytes, rows))

    def flush(self) -> None:
        """One frame per peer for everything that one step of the engine gave."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        if self._pacer is None:
            self._send_frames(outbox)
            return
        for where, waiting in outbox.items():
            for rows in waiting:
                self._pacer.push(rows.group.session, len(rows.body), (where, rows))
        self._release()

    def _release(self) -> None:
        """Send what may go now, in frames as ever, and look again when more may."""
        assert self._pacer is not None
        if self._releasing is not None:
            self._releasing.cancel()
            self._releasing = None
        outbox: dict[_Where, list[Rows]] = {}
        for where, rows in self._pacer.take(time.monotonic()):
            outbox.setdefault(where, []).append(rows)
        self._send_frames(outbox)
        if (wait_s := self._pacer.wait_s(time.monotonic())) is not None:
            loop = asyncio.get_running_loop()
            self._releasing = loop.call_later(max(wait_s, LEAST_WAIT_S), self._release)

    def _send_frames(self, outbox: dict[_Where, list[Rows]]) -> None:
        for (peer, back, _), rows in outbox.items():
            if back is not None:
                self._send_back(back, rows)
            elif (link := self._links.get(peer)) is not None and not link.is_over:
                link.push(rows)

    def _send_back(self, back: Stream, rows: Sequence[Rows]) -> None:
        groups = tuple(each.group for each in rows)
        frame = Frame(groups, rows[0].row_bytes, b"".join(each.body for each in rows))
        self._pushed.frames += 1
        self._pushed.rows += sum(group.rows for group in groups)
        with contextlib.suppress(PeerUnreachable, PeerBusy):  # it asks again on the next one
            is_packed = self._packing.whom == ALWAYS  # how far a client is, nobody has measured
            back.send(data_bytes(frame, pack_width=self._packing.width if is_packed else 0))

    def send(self, peer: str, question: Ask) -> None:
        if (link := self._links.get(peer)) is not None and not link.is_over:
            link.send(question)

    def paths(self) -> dict[str, Path]:
        """How the streams go that stand now."""
        return {peer: link.path for peer, link in self._links.items() if link.is_up}

    async def aclose(self) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
        await asyncio.gather(*(link.aclose() for link in self._links.values()))
