"""When a hop's rows are worth copying to the peer that would take its place: the policy (5a.20).

In: how many rows there are and are held, what they weigh, how wide the ways are, how long the
answer goes on. Out: a decision. A copy is there so that a death costs little; so it takes little
itself: a part of the giver's way up, seldom, and only where it is whole well before the answer is.
"""

from dataclasses import dataclass

from protocol.announcements import Announcement
from protocol.measured import ASSUMED_BYTES_PER_S
from protocol.messages import Span
from scheduler.route_cost import prefill_us

SHARE = 0.1  # of the way up; the giver keeps to it too, among all who copy from it
LEAST_ROWS = 64  # that a copy would add
AGAIN_S = 5.0  # between two copies of one hop
RENEW_S = 20.0  # then it is asked for again whatever it adds, so that the spare keeps it
MOST_COPY_S = 30.0
PATIENCE = 0.5  # of what is left of the answer, that a copy may take
LEAST_SAVED_S = 0.02
MOST_DOUBLED = 5  # times: the wait after a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Of one hop's copy. n_rows: that could be held. since_s: the last one was asked for."""

    n_rows: int
    n_held: int = 0
    since_s: float = float("inf")
    n_failures: int = 0

    @property
    def is_due(self) -> bool:
        if self.since_s < AGAIN_S * 2 ** min(self.n_failures, MOST_DOUBLED):
            return False
        is_old = self.n_held > 0 and self.since_s >= RENEW_S
        return is_old or self.n_rows - self.n_held >= LEAST_ROWS


def is_worth(
    n_rows: int,
    span: Span,
    *,
    giver: Announcement | None,
    spare: Announcement | None,
    rest_s: float,
) -> bool:
    """Whether `n_rows` more rows of these blocks should be copied from one to the other.

    rest_s: how long the answer still goes on.
    """
    if giver is None or spare is None or spare.span is None:  # never announced, or no longer
        return False
    up = giver.measured.up_bytes_per_s or ASSUMED_BYTES_PER_S
    down = spare.measured.down_bytes_per_s or ASSUMED_BYTES_PER_S
    copy_s = n_rows * _row_bytes(giver, span) / min(SHARE * up, down)
    saved_s = n_rows * prefill_us(spare) * len(span) / 1e6
    return saved_s >= LEAST_SAVED_S and copy_s <= min(MOST_COPY_S, PATIENCE * rest_s)


def _row_bytes(peer: Announcement, span: Span) -> float:
    """Keys, values and journal of one row in these blocks, as far as `peer` has told."""
    assert peer.span is not None
    return peer.measured.position_bytes * len(span) / len(peer.span)
