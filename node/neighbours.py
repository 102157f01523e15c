"""Data streams to successors: one per peer, shared by every session that goes there.

In: rows and questions for a peer. Out: what it answers, and word when the stream breaks, comes
back, or cannot be had. Streams are not sessions (DESIGN 5a.2): a lost one is opened again for
RESUME_S, and the sessions' own rules decide what is sent again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from node.pacing import Bucket, Pacer
from protocol.codec import data_bytes, data_message
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerUnreachable
from protocol.frames import Ack, DataMessage, Frame, Gone, RowGroup
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport import Connection, Stream, Transport
from protocol.transport.paths import LOOK_S, SOON_S, paths_of

log = logging.getLogger(__name__)

RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 3.0)  # about the 10 s that a stream may be gone
DIAL_S = 3.0
LEAST_WAIT_S = 0.001
STEADY_S = 1.0  # a stream that lasted this long is dialled again at once
REST_S = 300.0  # a stream that no session needs is kept so long, in case one comes


_Where = tuple[str, Stream | None, int]  # a peer, its own stream, the bytes of a row
_Waiting = tuple[_Where, RowGroup, bytes]

# Who gets large frames packed: whoever is dialled across the internet, everybody, nobody.
AUTO, ALWAYS, NEVER = "auto", "always", "never"


class Successors(Protocol):
    """Who is told about links, and asked whether they are needed: the node's sessions."""

    def leads_to(self, peer: str) -> bool: ...
    def returned(self, peer: str, message: Ack | Gone) -> None: ...
    def link_lost(self, peer: str) -> None: ...
    def link_back(self, peer: str) -> None: ...
    def link_failed(self, peer: str, reason: str) -> None: ...


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
        self._pack, self._pack_width = pack, pack_width
        self._links: dict[str, _Link] = {}
        self._outbox: dict[_Where, tuple[list[RowGroup], list[bytes]]] = {}
        self._pacer: Pacer[_Waiting] | None = Pacer(bucket) if bucket else None
        self._releasing: asyncio.TimerHandle | None = None
        self.frames_pushed = 0
        self.rows_pushed = 0
        self.bytes_saved = 0  # by packing

    def expect(self, peer: str, addresses: Sequence[str]) -> None:
        """A session will send there: open the stream now, so that the first rows find it up."""
        self._links = {peer: link for peer, link in self._links.items() if not link.is_over}
        if (link := self._links.get(peer)) is not None:
            link.want(addresses)
        else:
            self._links[peer] = _Link(self._transport, peer, addresses, self._told, self._look_s)

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
        groups, bodies = self._outbox.setdefault((peer, back, row_bytes), ([], []))
        groups.append(group)
        bodies.append(rows)

    def flush(self) -> None:
        """One frame per peer for everything that one step of the engine gave."""
        if not self._outbox:
            return
        outbox, self._outbox = self._outbox, {}
        if self._pacer is None:
            self._send_frames(outbox)
            return
        for where, (groups, bodies) in outbox.items():
            for group, body in zip(groups, bodies, strict=True):
                self._pacer.push(group.session, len(body), (where, group, body))
        self._release()

    def _release(self) -> None:
        """Send what may go now, in frames as ever, and look again when more may."""
        assert self._pacer is not None
        if self._releasing is not None:
            self._releasing.cancel()
            self._releasing = None
        outbox: dict[_Where, tuple[list[RowGroup], list[bytes]]] = {}
        for where, group, body in self._pacer.take(time.monotonic()):
            groups, bodies = outbox.setdefault(where, ([], []))
            groups.append(group)
            bodies.append(body)
        self._send_frames(outbox)
        if (wait_s := self._pacer.wait_s(time.monotonic())) is not None:
            loop = asyncio.get_running_loop()
            self._releasing = loop.call_later(max(wait_s, LEAST_WAIT_S), self._release)

    def _send_frames(self, outbox: "dict[_Where, tuple[list[RowGroup], list[bytes]]]") -> None:
        for (peer, back, row_bytes), (groups, bodies) in outbox.items():
            body = bodies[0] if len(bodies) == 1 else b"".join(bodies)
            self.frames_pushed += 1
            self.rows_pushed += sum(group.rows for group in groups)
            frame = Frame(tuple(groups), row_bytes, body)
            if back is None:
                self.send(peer, frame)
                continue
            with contextlib.suppress(PeerUnreachable, PeerBusy):  # it asks again on the next one
                is_packed = self._pack == ALWAYS  # how far a client is, nobody here has measured
                back.send(data_bytes(frame, pack_width=self._pack_width if is_packed else 0))

    def send(self, peer: str, message: DataMessage) -> None:
        link = self._links.get(peer)
        is_packed = self._pack == ALWAYS or (
            self._pack == AUTO and link is not None and link.is_far
        )
        data = data_bytes(message, pack_width=self._pack_width if is_packed else 0)
        if isinstance(message, Frame):
            self.bytes_saved += max(0, len(message.body) - len(data))
        if link is not None and not link.is_over:
            link.send(data)

    def paths(self) -> dict[str, Path]:
        """How the streams go that stand now."""
        return {peer: link.path for peer, link in self._links.items() if link.is_up}

    async def aclose(self) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
        await asyncio.gather(*(link.aclose() for link in self._links.values()))


class _Link:
    """One peer: dial, stream, receive what it returns; again when it breaks."""

    def __init__(
        self,
        transport: Transport,
        peer: str,
        addresses: Sequence[str],
        told: Successors,
        look_s: float,
    ) -> None:
        self.peer, self.addresses = peer, tuple(addresses)
        self.is_far = False  # where it was dialled last
        self.path = Path.DIRECT
        self._paths, self._told, self._look_s = paths_of(transport), told, look_s
        self._better: Connection | None = None  # than the one in use
        self._stream: Stream | None = None
        self._up_since_s: float | None = None
        self._early: list[bytes] = []  # sent while a dial is under way
        self._wanted = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._needed_s = self._loop.time()  # when a session was last seen to go there
        self._is_resting = False
        self._task = asyncio.create_task(self._run(), name=f"data to {peer}")

    @property
    def is_over(self) -> bool:
        return self._task.done()

    @property
    def is_up(self) -> bool:
        return self._stream is not None

    def want(self, addresses: Sequence[str]) -> None:
        """A new session will send here: if the stream is down, dial now."""
        self.addresses = tuple(addresses) or self.addresses
        self._needed_s, self._is_resting = self._loop.time(), False
        self._wanted.set()

    def send(self, message: bytes) -> None:
        if self._stream is None:
            self._early.append(message)
            return
        try:
            self._stream.send(message)
        except (PeerUnreachable, PeerBusy) as error:
            # The receive loop sees the end of the stream, too, and the sessions send again.
            log.debug("a frame found no stream", extra={"peer": self.peer, "error": str(error)})

    async def _run(self) -> None:
        was_up, attempt = False, 0
        while attempt < len(RETRY_S):
            try:
                await self._be_up(was_up=was_up)
            except ManyhandsError as error:
                reason = str(error)
            if self._is_resting:
                return
            up_since_s, self._up_since_s = self._up_since_s, None
            if up_since_s is not None:
                log.info("data stream lost", extra={"peer": self.peer, "error": reason})
                was_up = True
                self._told.link_lost(self.peer)
                if self._better or time.monotonic() - up_since_s >= STEADY_S:
                    attempt = 0
                    continue
            elif not was_up and attempt >= 1:
                self._told.link_failed(self.peer, reason)
            # Also after a stream that was refused or lost at once: whoever dials it again without a
            # pause keeps both sides busy with handshakes.
            await self._pause(RETRY_S[attempt])
            attempt += 1
        self._early.clear()
        self._told.link_failed(self.peer, "the stream could not be opened again")

    async def _be_up(self, *, was_up: bool) -> None:
        """Dial, open the stream and use it until it is lost."""
        connection = await self._dial()
        try:
            await self._use(connection, was_up=was_up)
        finally:
            self._stream = None
            if self._up_since_s is not None:
                self._early.clear()
            await connection.aclose()

    async def _pause(self, retry_s: float) -> None:
        """Until the next attempt is due, or a new session wants the stream."""
        self._wanted.clear()
        try:
            async with asyncio.timeout(retry_s):
                await self._wanted.wait()
        except TimeoutError:
            pass

    async def _dial(self) -> Connection:
        better, self._better = self._better, None
        connection = better or await self._paths.dial(
            PeerId(self.peer), self.addresses, timeout_s=DIAL_S
        )
        address = self._paths.way_of(connection).address
        self.is_far, self.path = address is None or address.is_far, connection.path
        return connection

    async def _watch(self, connection: Connection, stream: Stream) -> None:
        """Until there is a better way than `connection`: then `stream` ends, and the next begins
        there. To sessions that is a link lost and back at once, which costs them no row. Or until
        no session has needed it for REST_S: a stream takes memory and descriptors at both ends."""
        is_direct = connection.path is Path.DIRECT
        wait_s = self._look_s if is_direct else min(SOON_S, self._look_s)
        while self._better is None and not self._is_resting:
            await self._paths.until_due(connection, self.addresses, wait_s)
            wait_s = min(2 * wait_s, self._look_s)
            if self._told.leads_to(self.peer):
                self._needed_s = self._loop.time()
            self._is_resting = self._loop.time() - self._needed_s >= REST_S
            if not self._is_resting:
                with contextlib.suppress(ManyhandsError):
                    self._better = await self._paths.upgraded(connection, self.addresses)
        await stream.aclose()

    async def _use(self, connection: Connection, *, was_up: bool) -> None:
        stream = await connection.open("data")
        watching = asyncio.create_task(self._watch(connection, stream))
        try:
            early, self._early = self._early, []
            self._stream, self._up_since_s = stream, time.monotonic()
            # Sessions that began while it was down sent these; those it broke under wait to ask.
            for message in early:
                stream.send(message)
            if was_up:
                self._told.link_back(self.peer)
            while True:
                answer = data_message(await stream.receive())
                if not isinstance(answer, Ack | Gone):
                    raise PeerMisbehaved(self.peer, "a successor only acknowledges")
                self._told.returned(self.peer, answer)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await stream.aclose()

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._better is not None:
            await self._better.aclose()
