"""A stream over anything that carries messages in order and can end.

In: a `Wire`, one side of a bidirectional call. Out: the `Stream` that both sides of it use. Two
tasks own the wire, since it takes one write and one read at a time: the writer empties a deque;
the reader keeps the inbox a little ahead of the receiver, so that a receiver may give up waiting
without losing a message and a lost peer is noticed while nobody receives.

On the wire a message is itself, byte for byte, but for one escape: an empty message announces a
control message, whose first byte is its kind: a literal empty message, or the end of the stream,
plain or with the error that its sender means. Whoever reads an end answers by finishing its own
side, so that a call is never cut while the other side still writes; a call that ends without one
was lost.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NoReturn, Protocol

from protocol.address import Endpoint
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerUnreachable, UsageError
from protocol.identity import PeerId
from protocol.transport.error_codec import decode_error, encode_error
from protocol.transport.inbox import MESSAGE_OVERHEAD_BYTES, Inbox, wake
from protocol.transport.interface import MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES, Counters, Stream

MAX_READ_AHEAD_BYTES = 8 * 2**20  # beyond this the wire's own flow control holds the sender back
CLOSE_GRACE_S = 2.0  # how long a closing stream waits while the other side takes nothing
LET_GO_S = 2.0  # for what the tasks of an abandoned stream wait for to end, as the call does

_ESCAPE = b""
_EMPTY, _END, _ERROR = b"\x00", b"\x01", b"\x02"  # the kinds of control messages


class Wire(Protocol):
    """One side of a call. What it raises is ours already and means that the call is lost."""

    async def read(self) -> bytes | None:
        """The next message; None when there will be no more."""

    async def write(self, message: bytes) -> None: ...

    async def finish(self) -> None:
        """Say that nothing more will be written."""

    def abandon(self) -> None:
        """Drop the call now, with whatever is in flight."""


class WireStream:
    """See `protocol.transport.Stream`."""

    def __init__(
        self, wire: Wire, peer_id: PeerId, counters: Counters, seen: Endpoint | None = None
    ) -> None:
        """`seen`: from where the other side opened it, if it did."""
        self.peer_id, self.seen = peer_id, seen
        self.over = asyncio.Event()  # the other side has ended it, or never will
        self._wire, self._counters = wire, counters
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes] = deque()
        self._queued_bytes = 0  # in the outbox or being written
        self._inbox = Inbox()
        self._closing = False  # ended by this side: what still arrives is dropped
        self._work: asyncio.Future[None] | None = None  # the idle writer waits on it
        self._room: asyncio.Future[None] | None = None  # the reader waits on it, too far ahead
        self._drained: list[asyncio.Future[bool]] = []  # True: sent; False: dropped
        self._writer = self._loop.create_task(self._write_queued())
        self._reader = self._loop.create_task(self._read_ahead())

    def send(self, message: bytes) -> None:
        if self._inbox.reason is not None:
            raise PeerUnreachable(
                self.peer_id, f"the stream is over ({_words(self._inbox.reason)})"
            )
        if len(message) > MAX_MESSAGE_BYTES:
            raise UsageError(f"a message of {len(message)} bytes, at most {MAX_MESSAGE_BYTES} fit")
        if self._queued_bytes + len(message) > MAX_QUEUED_BYTES:
            raise PeerBusy(self.peer_id, f"{self._queued_bytes} bytes wait to be sent already")
        if message:
            self._enqueue(message)
        else:
            self._enqueue_control(_EMPTY)

    async def receive(self) -> bytes:
        message = await self._inbox.get()
        if self._room is not None and self._inbox.n_bytes <= MAX_READ_AHEAD_BYTES:
            wake(self._room)
        return message

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        wake(self._room)  # `take` leaves nothing behind
        await self._inbox.each(take)

    async def drain(self) -> None:
        if not self._queued_bytes:
            return
        drained = self._loop.create_future()
        if self.over.is_set():
            drained.set_result(False)
        else:
            self._drained.append(drained)
        if not await drained:
            raise PeerUnreachable(self.peer_id, "the stream was over before all was sent")

    async def aclose(self, error: ManyhandsError | None = None) -> None:
        if self._inbox.reason is None:
            last = _END if error is None else _ERROR + encode_error(error)
            self._close(last, error or PeerUnreachable(self.peer_id, "closed here"))
        try:
            await self._finish()
        finally:
            self.abandon()
        await asyncio.wait((self._writer, self._reader))

    def lose(self, reason: ManyhandsError) -> None:
        """The call below is gone: end now, with that reason."""
        self._end(reason)
        self.abandon()

    def abandon(self) -> None:
        """Drop the call and what is queued; a call that is over already is left alone.

        Reader and writer end by what they wait for: gRPC never frees what a read has taken if the
        task that waits for it is cancelled.
        """
        self._closing = True
        self._end(PeerUnreachable(self.peer_id, "closed here"))
        self._drop_queued()
        self._wire.abandon()
        self.over.set()
        for task in (self._writer, self._reader):
            if not task.done():
                self._loop.call_later(LET_GO_S, task.cancel)

    async def _finish(self) -> None:
        """Wait until both sides have ended the call, or the other side takes nothing any more."""
        remaining = -1
        while remaining != self._queued_bytes:
            remaining = self._queued_bytes
            tasks = (self._writer, self._reader)
            _, unfinished = await asyncio.wait(tasks, timeout=CLOSE_GRACE_S)
            if not unfinished:
                return

    async def _write_queued(self) -> None:
        """The one writer: all that is queued, in order, until the stream is over."""
        try:
            while True:
                while self._outbox:
                    message = self._outbox.popleft()
                    await self._wire.write(message)
                    self._queued_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
                self._wake_drained(sent=True)
                if self._inbox.reason is not None:
                    break
                self._work = self._loop.create_future()
                try:
                    await self._work
                finally:
                    self._work = None
            await self._wire.finish()
        except ManyhandsError as error:
            # The reader may be about to learn a better reason.
            await asyncio.wait((self._reader,), timeout=0.1)
            self.lose(error)

    async def _read_ahead(self) -> None:
        """The one reader, `MAX_READ_AHEAD_BYTES` ahead of the receiver at most."""
        try:
            reason = await self._read_until_end()
            self._end(reason)
            if not self._closing:
                self._drop_queued()
            self.over.set()
            while await self._wire.read() is not None:
                pass  # the other side has ended the stream; only the call's own end is awaited
        except ManyhandsError as error:  # from the wire
            self.lose(error)

    async def _read_until_end(self) -> ManyhandsError:
        while (message := await self._wire.read()) is not None:
            if message == _ESCAPE:
                control = await self._wire.read()
                if control is None:
                    break
                kind = control[:1]
                if kind == _END:
                    return PeerUnreachable(self.peer_id, "it closed the stream")
                if kind == _ERROR:
                    return decode_error(control[1:], self.peer_id)
                if kind != _EMPTY:
                    self._counters.malformed += 1
                    self._reject("it sent an unknown control message")
            elif len(message) > MAX_MESSAGE_BYTES:
                self._counters.oversize += 1
                self._reject(f"it sent a message of {len(message)} bytes")
            if not self._closing:
                await self._take_in(message)
        if self._closing:
            return PeerUnreachable(self.peer_id, "closed here")
        raise PeerUnreachable(self.peer_id, "the connection is lost")

    async def _take_in(self, message: bytes) -> None:
        """Hand `message` to the receiver, and wait while it is too far behind."""
        self._inbox.put(message)
        while self._inbox.n_bytes > MAX_READ_AHEAD_BYTES and not self._closing:
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    def _reject(self, reason: str) -> None:
        """End the stream because of what the other side sent; both sides learn why."""
        if self._inbox.reason is None:
            error = PeerMisbehaved(self.peer_id, reason)
            self._drop_queued()
            self._close(_ERROR + encode_error(error), error)

    def _close(self, last: bytes, reason: ManyhandsError) -> None:
        """Send `last` after what is queued; nothing more is received, for `reason`."""
        self._closing = True
        self._enqueue_control(last)
        self._end(reason, drop=True)

    def _enqueue(self, message: bytes) -> None:
        self._outbox.append(message)
        self._queued_bytes += len(message) + MESSAGE_OVERHEAD_BYTES
        wake(self._work)

    def _enqueue_control(self, message: bytes) -> None:
        self._enqueue(_ESCAPE)
        self._enqueue(message)

    def _end(self, reason: ManyhandsError, *, drop: bool = False) -> None:
        """Nothing more is sent or received; wake whoever waits for what will not come."""
        self._inbox.end(reason, drop=drop)
        wake(self._room)
        wake(self._work)

    def _drop_queued(self) -> None:
        for message in self._outbox:
            self._queued_bytes -= len(message) + MESSAGE_OVERHEAD_BYTES
        self._outbox.clear()
        self._wake_drained(sent=False)

    def _wake_drained(self, *, sent: bool) -> None:
        for drained in self._drained:
            if not drained.done():
                drained.set_result(sent)
        self._drained.clear()


def _words(reason: ManyhandsError) -> str:
    return reason.reason if isinstance(reason, PeerUnreachable) else str(reason)


def seen_from(stream: Stream) -> Endpoint | None:
    """From where its caller's connection comes; None: from no address of a network."""
    return stream.seen if isinstance(stream, WireStream) else None
