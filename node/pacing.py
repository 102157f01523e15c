"""Keeping to a share of this machine's way to others: how fast rows may go, and whose go first.

In: rows of sessions, the time. Out: those that may go now, and when to ask again. A token bucket
gives out bytes; sessions that have something to send get equal parts of them, whatever they send
(deficit round robin, Shreedhar and Varghese 1996, with deficits that grow as tokens come): one with
a long prompt saves up for it while others' tokens go by. What is over is kept for a moment, so an
idle way is taken at once. Control messages never wait here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from protocol.identity import PeerId
from protocol.transport import CallHandler

Item = TypeVar("Item")

LEAST_BYTES_PER_S = 64 << 10  # below that no session keeps its deadlines
BURST_S = 0.25  # what an idle way has in store
QUANTUM_BYTES = 16 << 10  # what a session is granted at a time


class Bucket:
    """Tokens are bytes. It may owe: what must go goes, and all that comes later waits for it."""

    def __init__(self, bytes_per_s: float, now_s: float) -> None:
        self.rate = bytes_per_s
        self._most = max(bytes_per_s * BURST_S, QUANTUM_BYTES)  # else no turn would ever come
        self._tokens, self._at_s = self._most, now_s

    def tokens(self, now_s: float) -> float:
        gained = max(0.0, now_s - self._at_s) * self.rate
        self._tokens, self._at_s = min(self._most, self._tokens + gained), now_s
        return self._tokens

    def spend(self, n_bytes: float, now_s: float) -> None:
        self.tokens(now_s)
        self._tokens -= n_bytes

    def wait_s(self, now_s: float, n_bytes: float = 0.0) -> float:
        """Until it owes nothing, or has so many."""
        wanted = min(n_bytes, self._most)
        return max(0.0, wanted - self.tokens(now_s)) / self.rate


@dataclass(slots=True)
class _Queue(Generic[Item]):
    """Of one session. Bytes that were granted and not sent yet are saved for what is first."""

    items: deque[tuple[int, Item]] = field(default_factory=deque)
    lacking: float = 0.0  # bytes to be granted until all of it has gone
    saved: float = 0.0

    @property
    def turn(self) -> float:
        """What it is granted when its turn comes."""
        return min(QUANTUM_BYTES, self.lacking)

    def grant(self) -> list[Item]:
        """One turn, and what may go by it."""
        turn = self.turn
        self.lacking -= turn
        self.saved += turn
        out = []
        while self.items and self.items[0][0] <= self.saved:
            n_bytes, item = self.items.popleft()
            self.saved -= n_bytes
            out.append(item)
        return out


class Pacer(Generic[Item]):
    """What waits, by session, whose turn it is first; see the module. Without I/O."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._waiting: dict[bytes, _Queue[Item]] = {}

    def push(self, session: bytes, n_bytes: int, item: Item) -> None:
        queue = self._waiting.setdefault(session, _Queue())
        queue.items.append((n_bytes, item))
        queue.lacking += n_bytes

    def take(self, now_s: float) -> list[Item]:
        """What may go now, each session's in its order."""
        out: list[Item] = []
        while self._waiting:
            session, queue = next(iter(self._waiting.items()))
            if queue.turn > self._bucket.tokens(now_s):
                break
            self._bucket.spend(queue.turn, now_s)
            out += queue.grant()
            del self._waiting[session]
            if queue.items:
                self._waiting[session] = queue  # behind all others
        return out

    def wait_s(self, now_s: float) -> float | None:
        """How long until more may go; None: nothing waits."""
        for queue in self._waiting.values():
            return self._bucket.wait_s(now_s, queue.turn)
        return None


class Throttle:
    """One direction of a node's way, in time. `bytes_per_s` 0: as fast as it goes."""

    def __init__(self, bytes_per_s: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self.bucket = Bucket(bytes_per_s, now_s()) if bytes_per_s else None

    async def passed(self, n_bytes: int) -> None:
        """So many bytes went by: return when more may."""
        if self.bucket is None:
            return
        self.bucket.spend(n_bytes, self._now_s())
        if (wait_s := self.bucket.wait_s(self._now_s())) > 0:
            await asyncio.sleep(wait_s)

    def bounds(self, handler: CallHandler) -> CallHandler:
        """The same call, whose answers take their share."""
        if self.bucket is None:
            return handler

        async def handle(peer_id: PeerId, request: bytes) -> bytes:
            answer = await handler(peer_id, request)
            await self.passed(len(answer))
            return answer

        return handle
