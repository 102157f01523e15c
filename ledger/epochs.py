"""Which epoch it is: by the witnesses' clocks, where there are any, and not by one's own.

In: a swarm's policy, and what quorums dated lately. Out: the epoch that all who know the same logs
agree on, whatever their own clocks say. A quorum's time is the lower median of its cosignatures, so
that a few witnesses that lie cannot move it past the honest ones; it lags until somebody's log is
cosigned again, and only ever late: nothing is settled, expired or erased too early by it.
"""

from ledger.policy import Policy
from ledger.spend_books import SpendBooks


def epoch_now(policy: Policy, books: SpendBooks | None, wall_ms: int) -> int:
    """
    Args:
        books: what is known of others' logs; None: nothing.
        wall_ms: by our own clock, for a swarm without witnesses; with some it is not looked at.
    """
    if not policy.witnesses:
        return policy.epoch_of(wall_ms)
    return policy.epoch_of(books.time_s() * 1000) if books is not None else 0


def is_due(policy: Policy, epoch: int, now: int) -> bool:
    """Whether tabs of this epoch are settled now: late vouchers had the time they are given."""
    return epoch + policy.grace_epochs < now
