"""How long a hop waits, and for what: a commit, a voucher, a client that comes back, the end.

In: what happened, and `now` in seconds. Out: whether it is too late. The rules that use this are in
`hop_session.py`.
"""

from protocol.errors import ManyhandsError, PeerMisbehaved, SessionTimeout

RESERVE_S = 3.0
HANDOVER_S = 60.0  # the same, while a hop takes rows over and others who do are waited for
RESUME_S = 10.0
PROGRESS_S = 0.25


class Patience:
    """Of one session; `deadline` is the client's, on the clock of `now`."""

    __slots__ = ("_expires_at", "_lost_at", "_told_at", "_unpaid_since", "_wait_s", "deadline")

    def __init__(self, budget_s: float, now: float, wait_s: float = RESERVE_S) -> None:
        """wait_s: for a commit."""
        self._wait_s = wait_s
        self.deadline = now + budget_s
        self._lost_at: float | None = None
        self._unpaid_since: float | None = None
        self._told_at = now
        self.await_commit(now)

    def await_commit(self, now: float) -> None:
        self._expires_at = now + self._wait_s

    def await_settlement(self, now: float) -> None:
        self._expires_at = now + RESUME_S

    def is_expired(self, now: float) -> bool:
        """Whether what was awaited last did not come."""
        return now >= self._expires_at

    def client_lost(self, now: float) -> None:
        self._lost_at = now if self._lost_at is None else self._lost_at

    def client_back(self) -> None:
        self._lost_at = None

    def is_client_gone(self, now: float) -> bool:
        return self._lost_at is not None and now - self._lost_at >= RESUME_S

    def await_voucher(self, now: float) -> bool:
        """False when one is awaited already."""
        if self._unpaid_since is not None:
            return False
        self._unpaid_since = now
        return True

    def paid(self) -> None:
        self._unpaid_since = None

    def fault(self, now: float) -> ManyhandsError | None:
        """Why the session ends now, if it does: no voucher came, or no time is left."""
        if self._unpaid_since is not None and now - self._unpaid_since >= RESUME_S:
            return PeerMisbehaved("", "the client did not pay")
        return SessionTimeout("the deadline passed") if now >= self.deadline else None

    def told(self, now: float) -> None:
        """The client knows how far we are."""
        self._told_at = now

    def must_tell(self, now: float) -> bool:
        return now - self._told_at >= PROGRESS_S
