"""One peer's data stream: dialled, used, dialled again when it breaks, at rest when not needed.

In: rows and questions for the peer. Out: what it answers, and word to the sessions when the stream
breaks, comes back, or cannot be had. Rows of prompts leave as `uplink.py` lets them. Large frames
are packed where that pays: to whoever was dialled across the internet until the link has been
measured, and from then on where it is slower than packing is, and rows wait for it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from node.uplink import STALL_S, Rows, Uplink
from protocol.codec import data_bytes, data_message
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerUnreachable
from protocol.frames import Ack, Arrived, Ask, DataMessage, Frame, Gone
from protocol.identity import PeerId
from protocol.path import Path
from protocol.transport import Connection, Stream, Transport
from protocol.transport.paths import SOON_S, paths_of

log = logging.getLogger(__name__)

RETRY_S = (0.05, 0.2, 0.5, 1.0, 2.0, 3.0, 3.0)  # about the 10 s that a stream may be gone
DIAL_S = 3.0
STEADY_S = 1.0  # a stream that lasted this long is dialled again at once
REST_S = 300.0  # a stream that no session needs is kept so long, in case one comes
PACKED_BELOW = 25e6  # bytes/s; packing takes as long as sending on a link twice as fast

# Who gets large frames packed: whoever is dialled across the internet, everybody, nobody.
AUTO, ALWAYS, NEVER = "auto", "always", "never"


class Successors(Protocol):
    """Who is told about links, and asked whether they are needed: the node's sessions."""

    def leads_to(self, peer: str) -> bool: ...
    def returned(self, peer: str, message: Ack | Gone) -> None: ...
    def link_lost(self, peer: str) -> None: ...
    def link_back(self, peer: str) -> None: ...
    def link_failed(self, peer: str, reason: str) -> None: ...


@dataclass(slots=True)
class Pushed:
    """What all links have carried. saved: bytes, by packing."""

    frames: int = 0
    rows: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True)
class Packing:
    """Large frames of values of `width` bytes are packed for peers that `whom` says."""

    whom: str = AUTO
    width: int = 0


class DataLink:
    """See the module; `aclose` ends it."""

    def __init__(
        self,
        transport: Transport,
        peer: str,
        addresses: Sequence[str],
        told: Successors,
        look_s: float,
        packing: Packing,
        pushed: Pushed,
    ) -> None:
        """look_s: between looks for a better way than the one in use."""
        self.peer, self.addresses = peer, tuple(addresses)
        self.path = Path.DIRECT
        self._is_far = False  # where it was dialled last
        self._packing, self._pushed = packing, pushed
        self._uplink = Uplink()
        self._looking: asyncio.TimerHandle | None = None  # whether word of arrivals was lost
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

    def push(self, rows: Sequence[Rows]) -> None:
        """Rows of one step, all as wide: those of answers leave in one frame, at once."""
        now = [each for each in rows if not self._is_left_waiting(each)]
        if now:
            self._send_frame(now)
        self._let_out()

    def send(self, question: Ask) -> None:
        self._send(data_bytes(question))

    def _is_left_waiting(self, rows: Rows) -> bool:
        must_wait = self._uplink.must_wait(rows.group)
        if must_wait:
            self._uplink.push(rows)
        return must_wait

    def _let_out(self) -> None:
        """Rows that may leave by now; and again when more may."""
        while (rows := self._uplink.take(self._loop.time())) is not None:
            self._send_frame([rows])
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._uplink.n_waiting and self.is_up:
            self._looking = self._loop.call_later(STALL_S, self._let_out)

    def _send_frame(self, rows: Sequence[Rows]) -> None:
        groups = tuple(each.group for each in rows)
        n_rows = sum(group.rows for group in groups)
        body = rows[0].body if len(rows) == 1 else b"".join(each.body for each in rows)
        wants_word = self.is_up and self._uplink.wants_word(n_rows)
        mark = self._uplink.mark + 1 if wants_word else 0
        frame = Frame(groups, rows[0].row_bytes, body, mark)
        data = data_bytes(frame, pack_width=self._packing.width if self._is_packed else 0)
        if wants_word:
            self._uplink.sent(len(data), self._loop.time())
        self._pushed.frames += 1
        self._pushed.rows += n_rows
        self._pushed.saved += max(0, len(body) - len(data))
        self._send(data)

    @property
    def _is_packed(self) -> bool:
        if self._packing.whom != AUTO:
            return self._packing.whom == ALWAYS
        rate = self._uplink.bytes_per_s
        return self._uplink.is_narrow and rate < PACKED_BELOW if rate else self._is_far

    def _send(self, message: bytes) -> None:
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
            self._uplink.restart()
            if self._up_since_s is not None:
                self._early.clear()
                self._uplink.clear()
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
        self._is_far, self.path = address is None or address.is_far, connection.path
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
                self._returned(answer)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await stream.aclose()

    def _returned(self, answer: DataMessage) -> None:
        if isinstance(answer, Arrived):
            self._uplink.arrived(answer.mark, self._loop.time())
            self._let_out()
            return
        if not isinstance(answer, Ack | Gone):
            raise PeerMisbehaved(self.peer, "a successor only acknowledges")
        if isinstance(answer, Gone):
            self._uplink.forget(answer.session)
        self._told.returned(self.peer, answer)

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._better is not None:
            await self._better.aclose()
