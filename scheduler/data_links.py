"""The data streams of a client that holds the ends: one per peer, shared by all its sessions.

In: rows and questions for hops. Out: what hops send back, handed to the session it belongs to, and
word when a stream breaks, comes back, or cannot be had. The client dials; nodes never dial it.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from protocol.codec import data_bytes, data_message
from protocol.errors import ManyhandsError, PeerMisbehaved
from protocol.frames import Ack, Ask, DataMessage, Frame, Gone, RowGroup
from protocol.messages import SessionId
from protocol.transport import Stream
from scheduler.chain import Connections

log = logging.getLogger(__name__)

RETRY_S = (0.0, 0.2, 0.6)  # then routing around the peer is quicker than waiting


class Ends(Protocol):
    """A session with hidden rows to send and to take."""

    def uses(self, peer: str) -> bool: ...
    def took(self, peer: str, group: RowGroup, row_bytes: int, body: memoryview) -> None: ...
    def acked(self, peer: str, ack: Ack) -> None: ...
    def link_lost(self, peer: str) -> None: ...
    def link_back(self, peer: str) -> None: ...
    def link_failed(self, peer: str, error: ManyhandsError) -> None: ...
    async def aclose(self) -> None: ...


class DataLinks:
    """All data streams of a client."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._links: dict[str, _Link] = {}
        self._sessions: dict[SessionId, Ends] = {}
        self._outbox: dict[tuple[str, int], tuple[list[RowGroup], list[bytes]]] = {}

    def add(self, session: SessionId, ends: Ends) -> None:
        self._sessions[session] = ends

    def discard(self, session: SessionId) -> None:
        self._sessions.pop(session, None)

    def expect(self, peer: str, addresses: Sequence[str]) -> None:
        """A session will send there, or take rows from there: have the stream up."""
        link = self._links.get(peer)
        if link is None or link.is_over:
            self._links[peer] = _Link(self, self._connections, peer, addresses)

    def push(self, peer: str, group: RowGroup, row_bytes: int, rows: bytes) -> None:
        """Rows for the next frame: what sessions push in one go of the loop travels together."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        groups, bodies = self._outbox.setdefault((peer, row_bytes), ([], []))
        groups.append(group)
        bodies.append(rows)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for (peer, row_bytes), (groups, bodies) in outbox.items():
            self.send(peer, Frame(tuple(groups), row_bytes, b"".join(bodies)))

    def send(self, peer: str, message: Frame | Ack | Ask | Gone) -> None:
        if (link := self._links.get(peer)) is not None:
            link.send(data_bytes(message))

    def users(self, peer: str) -> list[Ends]:
        return [ends for ends in self._sessions.values() if ends.uses(peer)]

    def received(self, peer: str, message: DataMessage) -> None:
        match message:
            case Frame(groups, row_bytes, body):
                at, view = 0, memoryview(body)
                for group in groups:
                    rows = view[at : at + group.rows * row_bytes]
                    at += len(rows)
                    if (ends := self._sessions.get(group.session)) is not None:
                        ends.took(peer, group, row_bytes, rows)
                    else:
                        self.send(peer, Gone(group.session))
            case Ack(session=session):
                if (ends := self._sessions.get(session)) is not None:
                    ends.acked(peer, message)
            case Gone(session):
                if (ends := self._sessions.get(session)) is not None and ends.uses(peer):
                    ends.link_failed(peer, PeerMisbehaved(peer, "the session is over there"))
            case Ask():
                raise PeerMisbehaved(peer, "a hop does not ask its client")

    async def aclose(self) -> None:
        """Settle the sessions that are still open, then leave."""
        open_now = list(self._sessions.values())
        await asyncio.gather(*(ends.aclose() for ends in open_now), return_exceptions=True)
        await asyncio.gather(*(link.aclose() for link in self._links.values()))


class _Link:
    """One peer: a stream, and another when it breaks."""

    def __init__(
        self, links: DataLinks, connections: Connections, peer: str, addresses: Sequence[str]
    ) -> None:
        self._links, self._connections = links, connections
        self._peer, self._addresses = peer, tuple(addresses)
        self._stream: Stream | None = None
        self._early: list[bytes] = []  # sent before the first stream stands
        self._task = asyncio.create_task(self._run(), name=f"data to {peer}")

    @property
    def is_over(self) -> bool:
        return self._task.done()

    def send(self, message: bytes) -> None:
        if self._stream is None:
            self._early.append(message)
            return
        try:
            self._stream.send(message)
        except ManyhandsError as error:  # the receiving side sees the end of the stream, too
            log.debug("a frame found no stream", extra={"peer": self._peer, "error": str(error)})

    async def _run(self) -> None:
        attempt = 0
        error: ManyhandsError
        while True:
            try:
                stream = await self._connections.stream(self._peer, self._addresses, method="data")
            except ManyhandsError as failure:
                error = failure
            else:
                error, attempt = await self._use(stream, is_first=attempt == 0), 0
                for ends in self._links.users(self._peer):
                    ends.link_lost(self._peer)
            if attempt == len(RETRY_S) or not self._links.users(self._peer):
                break
            log.info("data stream lost", extra={"peer": self._peer, "error": str(error)})
            await asyncio.sleep(RETRY_S[attempt])
            attempt += 1
        for ends in self._links.users(self._peer):
            ends.link_failed(self._peer, error)

    async def _use(self, stream: Stream, *, is_first: bool) -> ManyhandsError:
        """Until it ends; why it did."""
        try:
            early, self._early = self._early, []
            for message in early:
                stream.send(message)
            self._stream = stream
            if not is_first:
                for ends in self._links.users(self._peer):
                    ends.link_back(self._peer)
            while True:
                self._links.received(self._peer, data_message(await stream.receive()))
        except ManyhandsError as error:
            return error
        finally:
            self._stream = None
            self._early.clear()
            await stream.aclose()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
