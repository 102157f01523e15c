"""What a way between two places does to bytes: pure arithmetic, with the time as an argument.

In: how long, unsteady, lossy and wide a way is; what is sent on it, and when. Out: when it comes.
`tun.py` needs only `Line`, since there real TCP meets real loss. Behind `proxy.py` TCP itself is
on loopback and loses nothing, so `Stream` adds what a lost segment would have cost it:

* segments behind it follow within the round trip, and say so: the retransmission is under way one
  round trip after the first of them left, plus a quarter in which they might only have been
  reordered (RFC 8985 section 6.2, RFC 5681 section 3.2);
* nothing follows, but something before it is unacknowledged: a probe after two round trips (RFC
  8985 section 7.2);
* it was alone: the retransmission timer, a round trip and the least variance that Linux allows for,
  200 ms (RFC 6298 section 2 asks for a second at least, which no system keeps);
* what is sent again may be lost again: the timer, twice as long each time (RFC 6298 section 5.5).

All that is behind it waits, as a stream is in order. **Left out**: the congestion window (slow
start after a pause, halving after a loss), acknowledgements that are lost, and the handshake of TCP
itself. A transfer of megabytes over a lossy or long way is therefore faster here than in life;
frames of a few segments are not. Where that matters, run the scenario with `--links tun`.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

SEGMENT_BYTES = 1448  # of TCP with timestamps on Ethernet
HEADERS_BYTES = 52  # IPv4 and TCP with timestamps, around each
LEAST_TIMER_S = 0.2  # Linux: TCP_RTO_MIN
PIECE_BYTES = 32 * SEGMENT_BYTES  # of what came in one read: the first of it does not wait for all


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a link.

    bytes_per_s: 0: as wide as the machine. jitter_ms: each packet takes up to so much longer or
    shorter, all values alike probable; order is kept. loss: of packets, each by itself.

    Raises:
        ValueError: there is no such way.
    """

    one_way_ms: float = 0.0
    bytes_per_s: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if min(self.one_way_ms, self.bytes_per_s, self.jitter_ms) < 0:
            raise ValueError(f"a way takes no less than nothing, got {self}")
        if not 0 <= self.loss < 1:
            raise ValueError(f"a loss is a share from 0 to below 1, got {self.loss}")

    def delay_s(self, rng: random.Random) -> float:
        """Of one packet."""
        if not self.jitter_ms:
            return self.one_way_ms / 1000
        return max(0.0, self.one_way_ms + rng.uniform(-self.jitter_ms, self.jitter_ms)) / 1000


class Sums(NamedTuple):
    """What a way carried: bytes with headers, packets lost; deliveries, and how late they were
    because this machine had other things to do: the lab's own error, in seconds over all of them.
    """

    n_bytes: int = 0
    n_lost: int = 0
    n_came: int = 0
    late_s: float = 0.0

    def plus(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))

    def less(self, other: "Sums") -> "Sums":
        return Sums(*(a - b for a, b in zip(self, other, strict=True)))


class Line:
    """What everybody who sends on it shares: a queue that empties at a rate."""

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_s = 0.0

    def takes(self, now_s: float, n_bytes: int) -> float:
        """Queue so many bytes; when the last of them has left."""
        if not self.bytes_per_s:
            return now_s
        self._free_s = max(now_s, self._free_s) + n_bytes / self.bytes_per_s
        return self._free_s

    def queued_s(self, now_s: float) -> float:
        """How long something that comes now would wait."""
        return max(0.0, self._free_s - now_s)


@dataclass(slots=True)
class _Piece:
    data: bytes
    left_s: float
    comes_s: float  # by itself; those before it may come later
    is_told: bool = True  # whether the sender knows already what became of it


class Stream:
    """One direction of one TCP connection: bytes in order, and when they are there.

    lines: queues before the way, the sender's own uplink first.
    """

    def __init__(self, way: Way, back: Way, lines: tuple[Line, ...], rng: random.Random) -> None:
        self.way, self.back, self.lines, self._rng = way, back, lines, rng
        self.sums = Sums()
        self._waiting: deque[_Piece] = deque()
        self._last_left_s = self._due_s = float("-inf")

    @property
    def round_trip_s(self) -> float:
        return (self.way.one_way_ms + self.back.one_way_ms) / 1000

    @property
    def queued_bytes(self) -> int:
        return sum(len(piece.data) for piece in self._waiting)

    @property
    def next_s(self) -> float | None:
        """When something comes; None: nothing is under way."""
        return self._waiting[0].comes_s if self._waiting else None

    def send(self, now_s: float, data: bytes) -> None:
        for at in range(0, len(data), PIECE_BYTES):
            self._send(now_s, data[at : at + PIECE_BYTES])

    def _send(self, now_s: float, data: bytes) -> None:
        n_segments = -(-len(data) // SEGMENT_BYTES)
        wire_bytes = len(data) + n_segments * HEADERS_BYTES
        left_s = now_s
        for line in self.lines:
            left_s = line.takes(left_s, wire_bytes)
        self.sums = self.sums.plus(Sums(n_bytes=wire_bytes))
        piece = _Piece(data, left_s, left_s + self.way.delay_s(self._rng))
        for earlier in self._waiting:
            if not earlier.is_told:  # what follows it tells that it is missing
                earlier.comes_s = min(earlier.comes_s, self._after(left_s, self._noticed_s))
                earlier.is_told = True
        lost = [at for at in range(n_segments) if self._rng.random() < self.way.loss]
        if lost:
            self._lose(piece, n_segments, len(lost), is_last=lost[0] == n_segments - 1)
        self._last_left_s = left_s
        self._waiting.append(piece)

    def _lose(self, piece: _Piece, n_segments: int, n_lost: int, *, is_last: bool) -> None:
        self.sums = self.sums.plus(Sums(n_lost=n_lost))
        timer_s = self.round_trip_s + LEAST_TIMER_S
        if not is_last:
            waits_s = self._noticed_s
        elif n_segments > 1 or piece.left_s - self._last_left_s < self.round_trip_s:
            waits_s, piece.is_told = min(2 * self.round_trip_s, timer_s), False
        else:
            waits_s, piece.is_told = timer_s, False
        while self._rng.random() < self.way.loss:
            waits_s, timer_s = waits_s + timer_s, 2 * timer_s
        piece.comes_s = self._after(piece.left_s, waits_s)

    @property
    def _noticed_s(self) -> float:
        return 1.25 * self.round_trip_s

    def _after(self, left_s: float, waits_s: float) -> float:
        return left_s + waits_s + self.way.delay_s(self._rng)

    def arrived(self, now_s: float) -> list[bytes]:
        """What is there by now, and was not taken yet."""
        came = []
        while self._waiting and self._waiting[0].comes_s <= now_s:
            piece = self._waiting.popleft()
            came.append(piece.data)
            self._due_s = max(self._due_s, piece.comes_s)
            self.sums = self.sums.plus(Sums(n_came=1, late_s=now_s - self._due_s))
        return came


class Ground:
    """All ways between places, with the queues before them. What is under way when they change
    keeps its time."""

    def __init__(
        self, ways: dict[tuple[int, int], Way], uplinks: dict[int, float], seed: int
    ) -> None:
        """uplinks: of a place, in bytes/s, over all ways that begin there."""
        self.rng = random.Random(seed)
        self._streams: dict[Stream, tuple[int, int]] = {}
        self._counted: dict[tuple[int, int], Sums] = {}
        self.lay(ways, uplinks)

    def lay(self, ways: dict[tuple[int, int], Way], uplinks: dict[int, float]) -> None:
        self.ways = dict(ways)
        self._lines = {pair: Line(way.bytes_per_s) for pair, way in ways.items()}
        self._uplinks = {place: Line(rate) for place, rate in uplinks.items()}
        for stream, (a, b) in self._streams.items():
            stream.way, stream.back = self.way(a, b), self.way(b, a)
            stream.lines = self.lines(a, b)

    def way(self, a: int, b: int) -> Way:
        return self.ways.get((a, b), Way())

    def lines(self, a: int, b: int) -> tuple[Line, ...]:
        """What stands before that way."""
        found = (self._uplinks.get(a), self._lines.get((a, b)))
        return tuple(line for line in found if line is not None and line.bytes_per_s)

    def stream(self, a: int, b: int) -> Stream:
        made = Stream(self.way(a, b), self.way(b, a), self.lines(a, b), self.rng)
        self._streams[made] = (a, b)
        return made

    def close(self, stream: Stream) -> None:
        pair = self._streams.pop(stream, None)
        if pair is not None:
            self.count(pair, stream.sums)

    def count(self, pair: tuple[int, int], sums: Sums) -> None:
        """Say that so much more was carried, by somebody who makes no streams."""
        self._counted[pair] = self._counted.get(pair, Sums()).plus(sums)

    def carried(self) -> dict[tuple[int, int], Sums]:
        """From place to place, ever."""
        sums = dict(self._counted)
        for stream, pair in self._streams.items():
            sums[pair] = sums.get(pair, Sums()).plus(stream.sums)
        return sums
