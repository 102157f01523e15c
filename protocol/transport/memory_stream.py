"""A stream inside one process, and what happens to its messages on the way.

In: messages at one end. Out: the same at the other, late, lost, twice or never, as the link's
faults say and its generator draws. Order is kept, as on every stream. A lost message models a
broken frame: over real sockets a stream loses nothing unless it ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import NoReturn

from protocol.errors import ManyhandsError, PeerBusy, PeerUnreachable, UsageError
from protocol.identity import PeerId
from protocol.transport.error_codec import decode_error, encode_error
from protocol.transport.inbox import MESSAGE_OVERHEAD_BYTES, Inbox
from protocol.transport.interface import MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES

CLOSE_GRACE_S = 2.0  # how long a closing stream waits for its last messages to arrive


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What happens to messages on a link, drawn anew for each."""

    delay_s: tuple[float, float] = (0.0, 0.0)  # uniform between the two
    loss: float = 0.0  # the chance that a message vanishes
    duplication: float = 0.0  # that it arrives twice
    breakage: float = 0.0  # that the stream breaks when it is sent

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s[0] <= self.delay_s[1]:
            raise ValueError(f"a delay lies between two times, got {self.delay_s}")
        if not all(0 <= chance <= 1 for chance in (self.loss, self.duplication, self.breakage)):
            raise ValueError("a chance lies in 0..1")

    def draw(self, chance: Random) -> tuple[float, bool, bool, bool]:
        """Delay, lost, doubled, broken. Always four draws, so that faults do not shift others."""
        return (
            chance.uniform(*self.delay_s),
            chance.random() < self.loss,
            chance.random() < self.duplication,
            chance.random() < self.breakage,
        )


class Pipe:
    """One direction of a stream. What is under way is delivered in order, each when it is due."""

    def __init__(
        self, chance: Random, faults: Callable[[], Faults], is_parted: Callable[[], bool]
    ) -> None:
        self.n_bytes = 0  # under way
        self.deliver: Callable[[bytes | ManyhandsError], None]
        self.broken: Callable[[], None]
        self._chance, self._faults, self._is_parted = chance, faults, is_parted
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | ManyhandsError]] = deque()  # due, what
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: list[asyncio.Future[bool]] = []  # True: arrived; False: dropped

    def carry(self, message: bytes) -> None:
        delay_s, lost, doubled, broken = self._faults().draw(self._chance)
        if broken:
            self.broken()
        elif not lost:
            for _ in range(1 + doubled):
                self._append(delay_s, message)

    def carry_end(self, reason: ManyhandsError) -> None:
        """The end travels behind the messages, and is never lost."""
        self._append(self._faults().draw(self._chance)[0], reason)

    async def emptied(self) -> bool:
        """Wait until all that is under way has arrived; False when it was dropped."""
        if not self._under_way:
            return True
        emptied: asyncio.Future[bool] = self._loop.create_future()
        self._emptied.append(emptied)
        return await emptied

    def drop(self) -> None:
        self._under_way.clear()
        self.n_bytes = 0
        self._tell(arrived=False)

    def wake_up(self) -> None:
        """Deliver what is due; to be called after a partition, too."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._under_way and not self._is_parted():
            due, what = self._under_way[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.wake_up)
                return
            self._under_way.popleft()
            self.n_bytes -= _size(what)
            self.deliver(what)
        if not self._under_way:
            self._tell(arrived=True)

    def _append(self, delay_s: float, what: bytes | ManyhandsError) -> None:
        self._last_due = max(self._last_due, self._loop.time() + delay_s)
        self._under_way.append((self._last_due, what))
        self.n_bytes += _size(what)
        if self._timer is None:
            self._timer = self._loop.call_at(self._last_due, self.wake_up)

    def _tell(self, *, arrived: bool) -> None:
        for emptied in self._emptied:
            if not emptied.done():
                emptied.set_result(arrived)
        self._emptied.clear()


class MemoryStream:
    """See `protocol.transport.Stream`: one end; `peer_id` is who holds the other."""

    def __init__(self, peer_id: PeerId, outgoing: Pipe) -> None:
        self.peer_id = peer_id
        self.outgoing = outgoing
        self._inbox = Inbox()

    def join(self, other: "MemoryStream") -> None:
        """What this end sends, `other` receives."""

        def broken() -> None:
            """Seen here at once, and there behind what was sent before: no clock decides."""
            other.outgoing.drop()
            self._inbox.end(PeerUnreachable(self.peer_id, "the connection is lost"))
            self.outgoing.carry_end(PeerUnreachable("", "the connection is lost"))

        self.outgoing.deliver, self.outgoing.broken = other._arrive, broken

    @property
    def is_over(self) -> bool:
        return self._inbox.reason is not None and not self.outgoing.n_bytes

    def send(self, message: bytes) -> None:
        if self._inbox.reason is not None:
            raise PeerUnreachable(self.peer_id, "the stream is over")
        if len(message) > MAX_MESSAGE_BYTES:
            raise UsageError(f"a message of {len(message)} bytes, at most {MAX_MESSAGE_BYTES} fit")
        if self.outgoing.n_bytes + len(message) > MAX_QUEUED_BYTES:
            raise PeerBusy(self.peer_id, f"{self.outgoing.n_bytes} bytes wait to be sent already")
        self.outgoing.carry(message)

    async def receive(self) -> bytes:
        return await self._inbox.get()

    async def each(self, take: Callable[[bytes], None]) -> NoReturn:
        await self._inbox.each(take)

    async def drain(self) -> None:
        if not await self.outgoing.emptied():
            raise PeerUnreachable(self.peer_id, "the stream was over before all was sent")

    async def aclose(self, error: ManyhandsError | None = None) -> None:
        if self._inbox.reason is None:
            self.outgoing.carry_end(error or _Closed())
            self._inbox.end(error or PeerUnreachable(self.peer_id, "closed here"), drop=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self.outgoing.emptied()
        self.outgoing.drop()

    def lose(self) -> None:
        """The connection is gone, with all that is under way."""
        self.outgoing.drop()
        self._inbox.end(PeerUnreachable(self.peer_id, "the connection is lost"))

    def _arrive(self, what: bytes | ManyhandsError) -> None:
        match what:
            case bytes():
                if self._inbox.reason is None:
                    self._inbox.put(what)
                return
            case _Closed():
                reason: ManyhandsError = PeerUnreachable(self.peer_id, "it closed the stream")
            case _:
                reason = decode_error(encode_error(what), self.peer_id)
        self.outgoing.drop()
        self._inbox.end(reason)


class _Closed(ManyhandsError):
    """The end of a stream that was closed without an error."""

    def __init__(self) -> None:
        super().__init__("closed")


def _size(what: bytes | ManyhandsError) -> int:
    return MESSAGE_OVERHEAD_BYTES + (len(what) if isinstance(what, bytes) else 0)
