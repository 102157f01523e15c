"""What one peer may take of us, whatever it asks for: the one place where that is counted.

In: who asks for what, as its identity was proven, and what that cost. Out: yes, or an honest
refusal; and bans for those who go on regardless or send what does not hold (`bans.py`). A
listener asks before it reads what a caller sends; handlers charge what answers cost. Sizes are
such that no honest peer meets them: one client may be a gateway with hundreds of sessions, one
address a whole school. Pure, with clocks as arguments.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from protocol.bans import Ban, Bans
from protocol.clock import wall_ms
from protocol.errors import ManyhandsError, PeerBusy, PeerMisbehaved, PeerRefused
from protocol.identity import PeerId
from protocol.rate_limits import Limit, RateLimit

MAX_STREAMS = 512  # of one peer, open at a time
FLOOD_WEIGHT = 0.05  # of an offence: a call beyond the budget, after it was told to wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Of one sender: calls, bytes both ways, and signatures that we check for it."""

    calls: Limit
    bytes: Limit | None = None
    checks: Limit | None = None
    is_pressing: bool = True  # to go on beyond it is held against a peer


class Allowance:
    """One budget for each sender."""

    def __init__(self, budget: Budget, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._calls = RateLimit(budget.calls)
        self._bytes = RateLimit(budget.bytes) if budget.bytes else None
        self._checks = RateLimit(budget.checks) if budget.checks else None

    def admit(self, sender: str, n_bytes: int = 0) -> bool:
        """Whether `sender` may have a call of so many bytes now, and a signature checked."""
        now_s = self._now_s()
        wanted = ((self._calls, 1.0), (self._bytes, float(n_bytes)), (self._checks, 1.0))
        return all(
            limit.take(sender, amount, now_s) for limit, amount in wanted if limit is not None
        )

    def owe(self, sender: str, *, n_bytes: int = 0, n_checks: int = 0) -> None:
        """Charge for what answering it took."""
        now_s = self._now_s()
        if self._bytes is not None:
            self._bytes.owe(sender, n_bytes, now_s)
        if self._checks is not None:
            self._checks.owe(sender, n_checks, now_s)


# Of one peer: all its calls and streams together, then those of some methods by themselves. A
# gateway opens a stream per hop and session; whoever looks around asks everybody for its status.
ALL = Budget(calls=Limit(per_s=300, burst=3_000))
OF_METHOD: Mapping[str, Budget] = {
    "status": Budget(calls=Limit(per_s=5, burst=100)),
    "load": Budget(calls=Limit(per_s=100, burst=1_000)),
    "ping": Budget(calls=Limit(per_s=20, burst=200)),
    "probe": Budget(calls=Limit(per_s=1, burst=20)),
    "probe_up": Budget(calls=Limit(per_s=1, burst=20)),
    "file": Budget(
        calls=Limit(per_s=10, burst=200), bytes=Limit(per_s=4 * 2**20, burst=128 * 2**20)
    ),
    "fingerprints": Budget(calls=Limit(per_s=50, burst=500)),
    # A process asks each node once, so that a batch of commands asks often and knows nothing of it:
    # it is refused, and not banned. What it shows are signatures to check.
    "owing": Budget(
        calls=Limit(per_s=1, burst=100),
        bytes=Limit(per_s=64 * 1024, burst=4 * 2**20),
        is_pressing=False,
    ),
    "sent_rows": Budget(
        calls=Limit(per_s=10, burst=200), bytes=Limit(per_s=4 * 2**20, burst=256 * 2**20)
    ),
}


class Guard:
    """See the module. One of a node's, for all its listeners and loops."""

    def __init__(
        self,
        bans: Bans | None = None,
        *,
        now_s: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.bans = bans or Bans(now_ms)
        self.refused: Counter[str] = Counter()
        self._all = Allowance(ALL, now_s)
        self._of_method = {name: Allowance(each, now_s) for name, each in OF_METHOD.items()}

    def refusal(
        self, caller: PeerId, method: str, *, n_streams: int, listener: PeerId
    ) -> ManyhandsError | None:
        """Why `caller`, who has so many streams open here, may not begin this now; None: it may."""
        if (ban := self.bans.of(caller)) is not None:
            self.refused["banned"] += 1
            return banned(ban, listener)
        if n_streams >= MAX_STREAMS:
            self.refused["streams"] += 1
            return PeerBusy(listener, f"you have {n_streams} streams open here, which is all")
        allowance, is_pressing = self._of_method.get(method), True
        if self._all.admit(caller):
            if allowance is None or allowance.admit(caller):
                return None
            is_pressing = OF_METHOD[method].is_pressing
        self.refused["calls"] += 1
        if is_pressing:
            self.offended(caller, "it calls far more often than it may", FLOOD_WEIGHT)
        return PeerBusy(listener, f"too many calls of {method} from you", hint="try again shortly")

    def answered(self, caller: PeerId, method: str, n_bytes: int) -> None:
        """What an answer was, for those methods whose bytes count."""
        if (allowance := self._of_method.get(method)) is not None:
            allowance.owe(caller, n_bytes=n_bytes)

    def failed(self, caller: PeerId, error: ManyhandsError) -> None:
        """What a caller asked ended so; held against it if it broke a rule."""
        if isinstance(error, PeerMisbehaved) and error.peer_id in ("", caller):
            self.offended(caller, error.reason)

    def offended(self, peer_id: PeerId, why: str, weight: float = 1.0) -> None:
        self.bans.offend(peer_id, why, weight)

    def status(self) -> dict[str, object]:
        """Counts alone: whom we do not hear is nobody else's affair."""
        return {"banned": len(self.bans.now()), "refused": dict(self.refused)}


def banned(ban: Ban, listener: PeerId) -> PeerRefused:
    """What a peer hears that is not heard."""
    until = datetime.fromtimestamp(ban.until_ms / 1000, UTC)
    return PeerRefused(
        listener,
        f"it does not hear you until {until:%Y-%m-%d %H:%M:%S} UTC: {ban.why}",
        hint=f"its operator lifts this with: manyhands peers unban {ban.peer_id}",
    )
