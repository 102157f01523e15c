"""How wide this node's way to others is: short bursts between peers, timed by whoever receives.

In: bursts received and what other receivers say of ours. Out: bytes per second up and down, to
announce. A sender sees only its own queue, so the receiver holds the watch, and from the middle of
the burst on: the beginning is a connection that grows. What one peer says of our way up may be its
own narrow way down, or a lie: the second best of three or more counts. Whoever is dialled through
relays alone is asked for no burst, and offers some itself, on connections that it dialled.

On a stream "probe": → how many bytes (4, big-endian)   ← so many, in parts   → bytes/s it saw (8)
On a stream "probe_up": → how many bytes (4), and so many, in parts   ← bytes/s it saw (8)
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from protocol.errors import PeerBusy, PeerMisbehaved, PeerUnreachable
from protocol.identity import PeerId
from protocol.transport import Connection, Stream, StreamHandler

METHOD, UPWARD = "probe", "probe_up"
SIZES = (128 << 10, 1 << 20)  # the second only where the first was quick
PART_BYTES = 16 << 10
QUICK_S, TIMEOUT_S = 0.5, 5.0
EACH_S = 20.0  # in which a peer gets each of them once
MAX_AGE_S = 3600.0
MAX_PEERS = 64
MAX_BYTES_PER_S = 10**12


class Bandwidth:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(
        self, most_bytes_per_s: int = 0, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """most_bytes_per_s: what its owner lets rows take, however wide the way is; 0: all."""
        self._now_s, self._most = now_s, most_bytes_per_s or MAX_BYTES_PER_S
        self._down: dict[PeerId, tuple[float, int]] = {}
        self._up: dict[PeerId, tuple[float, int]] = {}
        self._sent: dict[PeerId, tuple[float, int]] = {}  # since when, bytes
        self._taken: dict[PeerId, tuple[float, int]] = {}
        self._is_sending = self._is_taking = False

    @property
    def n_known(self) -> int:
        """From how many peers bursts came lately."""
        return len(self._recent(self._down))

    @property
    def n_told(self) -> int:
        """How many peers said lately what they saw of ours."""
        return len(self._recent(self._up))

    @property
    def streams(self) -> dict[str, StreamHandler]:
        return {METHOD: self.handle, UPWARD: self.take}

    @property
    def down_bytes_per_s(self) -> int:
        """The widest that came: a sender may be narrow, but nothing arrives faster than it can."""
        return self._bounded(max(self._recent(self._down), default=0))

    @property
    def up_bytes_per_s(self) -> int:
        told = sorted(self._recent(self._up), reverse=True)
        return self._bounded(told[1] if len(told) >= 3 else max(told, default=0))

    def _bounded(self, measured: int) -> int:
        """What to announce: an owner's limit is known before anything is measured."""
        if self._most < MAX_BYTES_PER_S:
            return min(measured or self._most, self._most)
        return measured

    def received(self, peer_id: PeerId, bytes_per_s: int) -> None:
        self._note(self._down, peer_id, bytes_per_s)

    def told(self, peer_id: PeerId, bytes_per_s: int) -> None:
        """What a receiver of ours saw."""
        self._note(self._up, peer_id, bytes_per_s)

    async def probe(self, connection: Connection) -> None:
        """Have a burst sent, time it, and say how it came.

        Raises:
            ManyhandsError: why there is nothing to be had.
        """
        for size in SIZES:
            stream = await connection.open(METHOD, timeout_s=TIMEOUT_S)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    stream.send(size.to_bytes(4, "big"))
                    took_s, bytes_per_s = await self._timed(stream, size)
                    stream.send(bytes_per_s.to_bytes(8, "big"))
                    await stream.drain()
            except TimeoutError:
                raise PeerUnreachable(connection.peer_id, "a burst never came whole") from None
            finally:
                await stream.aclose()
            self.received(connection.peer_id, bytes_per_s)
            if took_s > QUICK_S:
                return

    async def offer(self, connection: Connection) -> None:
        """Send a burst, and be told how it came.

        Raises:
            PeerRefused: an older peer, who does not know the word.
            ManyhandsError: why there is nothing to be had.
        """
        for size in SIZES:
            began_s = self._now_s()
            stream = await connection.open(UPWARD, timeout_s=TIMEOUT_S)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    stream.send(size.to_bytes(4, "big"))
                    with contextlib.suppress(PeerUnreachable):  # why it takes none, it says itself
                        await _send_burst(stream, size)
                    rate = _rate(await stream.receive())
            except TimeoutError:
                raise PeerUnreachable(connection.peer_id, "it never told of a burst") from None
            finally:
                await stream.aclose()
            self.told(connection.peer_id, rate)
            if self._now_s() - began_s > QUICK_S:
                return

    async def take(self, stream: Stream) -> None:
        """Time a burst that a peer sends, and say how it came.

        Raises:
            PeerBusy: another burst is under way, or this peer had its own just now.
            PeerMisbehaved: it sends what nobody asked for.
        """
        size = await self._admitted(stream, self._taken, lambda: self._is_taking)
        self._is_taking = True
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, bytes_per_s = await self._timed(stream, size)
                stream.send(bytes_per_s.to_bytes(8, "big"))
                await stream.drain()
        except TimeoutError:
            raise PeerBusy("", "a burst took too long") from None
        finally:
            self._is_taking = False
        self.received(stream.peer_id, bytes_per_s)

    async def _timed(self, stream: Stream, size: int) -> tuple[float, int]:
        """Seconds in all, and bytes per second of the second half."""
        began_s, got, half, middle_s = self._now_s(), 0, 0, 0.0
        while got < size:
            part = await stream.receive()
            got += len(part)
            if not part or got > size:
                raise PeerMisbehaved(stream.peer_id, "a burst of another size")
            if not half and got >= size // 2:
                half, middle_s = got, self._now_s()
        ended_s = self._now_s()
        rate = (size - half) / max(ended_s - middle_s, 1e-6)
        return ended_s - began_s, min(MAX_BYTES_PER_S, round(rate))

    async def handle(self, stream: Stream) -> None:
        """Send a burst to a peer that asks for one.

        Raises:
            PeerBusy: another burst is under way, or this peer had its own just now.
            PeerMisbehaved: it asks for what nobody sends.
        """
        size = await self._admitted(stream, self._sent, lambda: self._is_sending)
        self._is_sending = True
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await _send_burst(stream, size)
                self.told(stream.peer_id, _rate(await stream.receive()))
        except TimeoutError:
            raise PeerBusy("", "a burst took too long") from None
        finally:
            self._is_sending = False

    async def _admitted(
        self, stream: Stream, had: dict[PeerId, tuple[float, int]], is_busy: Callable[[], bool]
    ) -> int:
        """The size of the burst that a peer asks for or offers; `had`: who had how much of them."""
        peer_id, now_s = stream.peer_id, self._now_s()
        size = int.from_bytes(await _first(stream), "big")
        if size not in SIZES:
            raise PeerMisbehaved(peer_id, f"no burst has {size} bytes")
        for other in [p for p, (since_s, _) in had.items() if now_s - since_s >= EACH_S]:
            del had[other]
        since_s, n_bytes = had.get(peer_id, (now_s, 0))
        if is_busy() or n_bytes + size > sum(SIZES):
            raise PeerBusy("", "enough bursts for now", hint="try again shortly")
        had[peer_id] = since_s, n_bytes + size
        return size

    def _note(self, known: dict[PeerId, tuple[float, int]], peer_id: PeerId, rate: int) -> None:
        if not 0 < rate <= MAX_BYTES_PER_S:
            return
        known.pop(peer_id, None)
        known[peer_id] = (self._now_s(), rate)
        if len(known) > MAX_PEERS:
            del known[next(iter(known))]

    def _recent(self, known: dict[PeerId, tuple[float, int]]) -> list[int]:
        now_s = self._now_s()
        return [rate for at_s, rate in known.values() if now_s - at_s < MAX_AGE_S]


async def _send_burst(stream: Stream, size: int) -> None:
    for _ in range(size // PART_BYTES):
        stream.send(bytes(PART_BYTES))
        await stream.drain()


def _rate(word: bytes) -> int:
    return int.from_bytes(word[:8], "big")


async def _first(stream: Stream) -> bytes:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return (await stream.receive())[:5]
    except TimeoutError:
        raise PeerMisbehaved(stream.peer_id, "it opened a stream and said nothing") from None
