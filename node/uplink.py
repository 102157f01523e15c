"""What of prompts may be under way to one peer, so that tokens never wait behind them.

In: row groups, word of what arrived there, the time. Out: what leaves now, and how fast the link
is. Rows of answers are few and leave at once. Prompts are long: pushed as they come they would fill
every queue on the way, and on a slow link the tokens of others would stand behind seconds of them.
So prompts wait here, sessions taking turns, and as much of them is under way as the link carries in
a round trip, and in QUEUE_S more, which keeps it busy. What it carries is what arrived between a
frame's leaving and word of its arrival, the best of the last few (as in BBR, Cardwell et al. 2016);
until a queue is seen the window doubles each round trip, as TCP's does. The word is the receiver's
own, whatever sockets and proxies lie between; to a peer that never says it, as older ones, all
leaves at once. No I/O, no clock.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.errors import PeerMisbehaved
from protocol.frames import RowGroup
from protocol.messages import SessionId

FEW_ROWS = 16  # of an answer: a token, or one and drafts
FIRST_BYTES = 256 << 10  # under way before anything is known
FRAME_BYTES = 64 << 10  # of a frame, however slow the link
LEAST_BYTES = 2 * FRAME_BYTES  # under way: one arrives while word of the one before comes back
QUEUE_S = 0.05  # what may stand in queues on the way: so long may a token have to wait
GAIN = 1.5  # of a round trip at least: links become wider, and busy receivers tell late
FRAME_S, MOST_BYTES = 0.02, 1 << 20  # of a frame, since no token gets between its bytes
LEAST_S = 1e-4  # no word comes sooner
N_RATES = 32  # word that comes late makes a link look slower, nothing makes it look faster
MAX_AGE_S = 10.0  # of the least time to word of arrival
STALL_S = 3.0  # without a word: what is under way is taken for lost


@dataclass(frozen=True, slots=True)
class Rows:
    """Of one session, `row_bytes` each."""

    group: RowGroup
    row_bytes: int
    body: bytes | memoryview

    def continues(self, earlier: "Rows") -> bool:
        """Whether one group can say both: the next rows of the same line."""
        ours, theirs = self.group, earlier.group
        is_next = ours.start == theirs.start + theirs.rows and self.row_bytes == earlier.row_bytes
        line = ours.epoch, ours.branch, ours.fork
        return is_next and line == (theirs.epoch, theirs.branch, theirs.fork)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame under way: its number and bytes, when it left, and how many had arrived by then."""

    mark: int
    n_bytes: int
    at_s: float
    arrived: int
    is_limited: bool  # more waited behind it; else its time tells of us, not of the link


class Uplink:
    """To one peer. `restart` for each stream."""

    def __init__(self) -> None:
        self._waiting: dict[SessionId, deque[Rows]] = {}  # whose turn it is stands first
        self.is_narrow = False  # rows wait for the link, or have since the last time none did
        self.restart()

    def restart(self) -> None:
        """A new stream: nothing is under way, and nothing known."""
        self._under_way: deque[_Sent] = deque()
        self.mark = 0  # of the frame that left last
        self._is_told = False  # the peer says what arrives
        self._under_way_bytes = self._arrived_bytes = 0
        self._rates: deque[float] = deque(maxlen=N_RATES)
        self._least_s, self._least_at_s = float("inf"), 0.0  # from leaving to word of arrival
        self._window: float = FIRST_BYTES
        self._is_growing = True  # no queue was ever seen

    @property
    def bytes_per_s(self) -> float:
        """As measured; 0: not yet."""
        return max(self._rates, default=0.0)

    @property
    def n_waiting(self) -> int:
        """Bytes that may not leave yet."""
        return sum(len(rows.body) for queue in self._waiting.values() for rows in queue)

    @property
    def n_under_way(self) -> int:
        """Bytes that left, and are not known to be there."""
        return self._under_way_bytes

    def must_wait(self, group: RowGroup) -> bool:
        """Prompts do, and what follows rows that wait: each session's rows keep their order."""
        is_long = group.rows > FEW_ROWS and self._is_told
        return is_long or group.session in self._waiting

    def wants_word(self, n_rows: int) -> bool:
        """Of a frame's arrival; of the first one, to know whether the peer says it at all."""
        return n_rows > FEW_ROWS or not self.mark

    def push(self, rows: Rows) -> None:
        """What waits of an earlier epoch is not wanted any more."""
        queue = self._waiting.setdefault(rows.group.session, deque())
        if queue and queue[-1].group.epoch < rows.group.epoch:
            queue.clear()
        queue.append(rows)

    def forget(self, session: SessionId) -> None:
        """It is over there."""
        self._waiting.pop(session, None)

    def clear(self) -> None:
        """Whose rows wait asks what to send again."""
        self._waiting.clear()

    def take(self, now_s: float) -> Rows | None:
        """The next frame's rows; None: none may leave now."""
        if self._under_way and now_s - self._under_way[-1].at_s > STALL_S:
            self._under_way.clear()
            self._under_way_bytes = 0
        if not self._waiting:
            self.is_narrow = False
            return None
        if self.n_under_way >= self._window:
            self.is_narrow = True
            return None
        session = next(iter(self._waiting))
        queue = self._waiting.pop(session)
        most = min(max(FRAME_BYTES, self.bytes_per_s * FRAME_S), MOST_BYTES)
        taken = [queue.popleft()]
        n_bytes = len(taken[0].body)
        while queue and queue[0].continues(taken[-1]) and n_bytes + len(queue[0].body) <= most:
            taken.append(queue.popleft())
            n_bytes += len(taken[-1].body)
        if queue:
            self._waiting[session] = queue  # behind all others
        return _joined(taken)

    def sent(self, n_bytes: int, now_s: float) -> None:
        """The next frame, of so many bytes, has left; its mark is the next number."""
        self.mark += 1
        frame = _Sent(self.mark, n_bytes, now_s, self._arrived_bytes, bool(self._waiting))
        self._under_way.append(frame)
        self._under_way_bytes += n_bytes

    def arrived(self, mark: int, now_s: float) -> None:
        """Word that the frame of that mark is there, and so are all before it.

        Raises:
            PeerMisbehaved: it was never sent.
        """
        if mark > self.mark:
            raise PeerMisbehaved("", f"frame {mark} arrived, {self.mark} were sent")
        self._is_told = True
        last, n_bytes = None, 0
        while self._under_way and self._under_way[0].mark <= mark:
            last = self._under_way.popleft()
            n_bytes += last.n_bytes
        if last is None:
            return
        self._under_way_bytes -= n_bytes
        self._arrived_bytes += n_bytes
        took_s = max(LEAST_S, now_s - last.at_s)
        if now_s - self._least_at_s > MAX_AGE_S:
            self._least_s, self._least_at_s = self._least_s + QUEUE_S / 5, now_s  # ways change
        if took_s < self._least_s:
            self._least_s, self._least_at_s = took_s, now_s
        rate = (self._arrived_bytes - last.arrived) / took_s
        if last.is_limited or rate > self.bytes_per_s:
            self._rates.append(rate)
        self._is_growing = self._is_growing and took_s <= self._least_s + QUEUE_S
        if not self._is_growing:
            full_s = max(self._least_s + QUEUE_S, self._least_s * GAIN)
            self._window = max(LEAST_BYTES, self.bytes_per_s * full_s)
        elif last.is_limited:
            self._window += n_bytes


def _joined(rows: Sequence[Rows]) -> Rows:
    """As one group. Its step is the last one's, which stands for all before it."""
    if len(rows) == 1:
        return rows[0]
    first, last = rows[0].group, rows[-1].group
    n_rows = last.start + last.rows - first.start
    group = RowGroup(
        first.session, first.epoch, first.branch, last.step, first.start, n_rows, first.fork
    )
    return Rows(group, rows[0].row_bytes, b"".join(each.body for each in rows))
