"""How much one sender may ask of us: a bucket of tokens per sender, in bounded memory.

In: who asks for how much, and when. Out: whether there is room for it. Buckets as RFC 2697 meters
packets with: they fill at a rate and hold a burst. A sender that nobody remembers has a full one,
so buckets that are full again need no memory; when more than `max_senders` are active at once,
those above share one bucket, and those remembered are not touched by them. No clock here; what
becomes of a refused request is the caller's affair.
"""

from collections import OrderedDict
from dataclasses import dataclass

MAX_SENDERS = 1_000


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `burst` at once, `per_s` in the long run."""

    per_s: float
    burst: float

    def __post_init__(self) -> None:
        if not (self.per_s > 0 and self.burst >= self.per_s):
            raise ValueError("a limit refills, and holds a second's worth at least")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class RateLimit:
    """See the module. `now_s` is of one monotonic clock."""

    def __init__(self, limit: Limit, *, max_senders: int = MAX_SENDERS) -> None:
        self.limit = limit
        self._max_senders = max_senders
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # least lately used first
        self._shared: _Bucket | None = None

    def __len__(self) -> int:
        return len(self._buckets)

    def __contains__(self, sender: object) -> bool:
        """Whether it has a bucket of its own."""
        return sender in self._buckets

    def take(self, sender: str, amount: float, now_s: float) -> bool:
        """Whether `sender` may have `amount` now; if not, nothing is taken."""
        bucket = self._bucket(sender, now_s)
        self._fill(bucket, now_s)
        if amount > bucket.tokens:
            return False
        bucket.tokens -= amount
        return True

    def owe(self, sender: str, amount: float, now_s: float) -> None:
        """Charge for what was found to be there after it was let in; the next request waits."""
        bucket = self._bucket(sender, now_s)
        self._fill(bucket, now_s)
        bucket.tokens = max(bucket.tokens - amount, -self.limit.burst)

    def debt_s(self, sender: str, now_s: float) -> float:
        """How long until `sender` owes nothing; 0 while it owes nothing now."""
        bucket = self._buckets.get(sender)
        if bucket is None:
            return 0.0
        self._fill(bucket, now_s)
        return max(0.0, -bucket.tokens / self.limit.per_s)

    def forget(self, sender: str) -> None:
        """It has a full bucket again."""
        self._buckets.pop(sender, None)

    def _bucket(self, sender: str, now_s: float) -> _Bucket:
        bucket = self._buckets.get(sender)
        if bucket is not None:
            self._buckets.move_to_end(sender)
            return bucket
        fresh = _Bucket(self.limit.burst, now_s)
        if len(self._buckets) >= self._max_senders and not self._forget_a_full_one(now_s):
            self._shared = self._shared or fresh
            return self._shared
        self._buckets[sender] = fresh
        return fresh

    def _forget_a_full_one(self, now_s: float) -> bool:
        """Only the least lately used is looked at: it has had the most time to fill."""
        sender, bucket = next(iter(self._buckets.items()))
        self._fill(bucket, now_s)
        if bucket.tokens < self.limit.burst:
            return False
        del self._buckets[sender]
        return True

    def _fill(self, bucket: _Bucket, now_s: float) -> None:
        gained = (now_s - bucket.at_s) * self.limit.per_s
        bucket.tokens = min(self.limit.burst, bucket.tokens + max(0.0, gained))
        bucket.at_s = now_s
