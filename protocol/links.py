"""The two ends of a link between neighbouring hops, for one session: pointers, not queues.

`OutLink` is the sender's pointer into its journal, `InLink` what the receiver has taken in. A
re-opened stream, a gap and a replacement all do the same: they set the pointer back. The rules that
use them are in `hop_session.py`.
"""

import enum
from collections.abc import Callable

from protocol.actions import Push
from protocol.errors import PeerMisbehaved
from protocol.frames import Ack, RowGroup
from protocol.messages import SessionId, require

CREDIT_BYTES = 8 << 20  # rows in flight per session and link
PUSH_BYTES = 1 << 20  # rows in one group: best throughput, little head-of-line blocking


def credit_rows(row_bytes: int) -> int:
    """How many rows may be on their way on one link; both ends compute it alike."""
    return max(64, CREDIT_BYTES // row_bytes)


class OutLink:
    """To the successor: rows `[sent, available)` are still to be pushed."""

    __slots__ = (
        *("_fork", "_forks", "_told", "acked", "credit", "most", "paused", "peer"),
        *("row_bytes", "sent", "step"),
    )

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self.credit = credit_rows(row_bytes)
        self.most = max(1, PUSH_BYTES // row_bytes)
        self.reset("", 0)

    def reset(self, peer: str, sent: int) -> None:
        """A new epoch: the successor holds `sent` rows."""
        self.peer, self.sent, self.acked = peer, sent, sent
        self.step, self.paused = 0, False
        self._forks: list[tuple[int, int]] = []  # (branch, its first row), not known to be known
        self._told = self._fork = 0  # the branch sent last, and where it began

    def fork(self, branch: int, start: int) -> None:
        """From `branch` on, rows from `start` on are others than those sent before."""
        # A later branch that begins lower covers the earlier ones.
        self._forks = [fork for fork in self._forks if fork[1] < start] + [(branch, start)]
        self.sent, self.acked = min(self.sent, start), min(self.acked, start)

    def acknowledged(self, ack: Ack, available: int, *, first: int = 0) -> None:
        """Rows `[first, available)` may be sent."""
        unknown = [fork for fork in self._forks if fork[0] > ack.branch]
        length = min([ack.length, *(start for _, start in unknown)])
        if ack.rewind:
            # A successor may be ahead of a sender that is being filled: `sent` says so.
            require(length <= max(available, self.sent), "asked for rows never sent")
            require(first <= length, "asked for rows that are gone")
            self.sent, self.paused, self._told = length, False, ack.branch
        self._forks = unknown
        self.acked = max(self.acked, min(length, self.sent))

    def pump(
        self,
        session: SessionId,
        epoch: int,
        branch: int,
        available: int,
        rows: Callable[[int, int], bytes],
        *,
        at_once: int = 0,
    ) -> list[Push]:
        """Everything that may be pushed now; `rows(start, stop)` reads the journal.

        at_once: rows in a group, at most; 0: as many as fit.
        """
        most = min(self.most, at_once or self.most)
        pushes: list[Push] = []
        if branch > self._told and self.sent < available and not self.paused:
            unknown = [start for forked, start in self._forks if forked > self._told]
            self._told, self._fork = branch, min(unknown, default=self.sent)
        while not self.paused and self.sent < available:
            room = min(most, self.acked + self.credit - self.sent)
            if room <= 0:
                break
            start, stop = self.sent, min(available, self.sent + room)
            group = RowGroup(session, epoch, branch, self.step, start, stop - start, self._fork)
            pushes.append(Push(self.peer, group, self.row_bytes, rows(start, stop)))
            self.step, self.sent = self.step + 1, stop
        return pushes


class Arrival(enum.Enum):
    """What a row group is, to the hop it arrives at."""

    NEXT = enum.auto()
    REPEAT = enum.auto()
    GAP = enum.auto()
    OLD_BRANCH = enum.auto()
    STRANGER = enum.auto()


class InLink:
    """From the predecessor: rows before `accepted` were taken in (run, queued or unpaid)."""

    __slots__ = ("accepted", "acked", "asked_at", "branch", "credit", "peer", "row_bytes", "step")

    def __init__(self, row_bytes: int) -> None:
        self.row_bytes = row_bytes
        self.credit = credit_rows(row_bytes)
        self.reset("", 0)

    def reset(self, peer: str, length: int) -> None:
        """A new epoch: this hop goes on from `length`."""
        self.peer, self.accepted, self.acked = peer, length, length
        self.step, self.branch, self.asked_at = -1, 0, -1

    def arrival(self, peer: str, group: RowGroup) -> Arrival:
        if peer != self.peer:
            return Arrival.STRANGER
        if group.branch < self.branch:
            return Arrival.OLD_BRANCH
        if group.step <= self.step:
            return Arrival.REPEAT
        return Arrival.GAP if group.start > self.accepted else Arrival.NEXT

    def check(self, peer: str, group: RowGroup, row_bytes: int, capacity: int) -> None:
        """Raises PeerMisbehaved: rows of another size, or for which there is no room."""
        if row_bytes != self.row_bytes:
            raise PeerMisbehaved(peer, f"it sent rows of {row_bytes} bytes, not {self.row_bytes}")
        if group.start + group.rows > capacity:
            raise PeerMisbehaved(peer, "it sent rows beyond the reserved room")

    def take(self, group: RowGroup) -> int:
        """Note the group; returns how many of its first rows were here already."""
        self.branch, self.step, self.asked_at = group.branch, group.step, -1
        known = min(group.rows, self.accepted - group.start)
        self.accepted = max(self.accepted, group.start + group.rows)
        return known

    def must_ask(self) -> bool:
        """Whether a gap here was not yet asked for."""
        asked, self.asked_at = self.asked_at == self.accepted, self.accepted
        return not asked

    def owes_credit(self, length: int) -> bool:
        """Whether half a window was run since the last acknowledgement; then it is given."""
        if length - self.acked < self.credit // 2:
            return False
        self.acked = length
        return True

    def cut(self, length: int) -> None:
        self.accepted, self.acked = min(self.accepted, length), min(self.acked, length)
