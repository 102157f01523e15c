"""How much of a node's room one client may hold, of what it has not committed to and in all.

In: who reserves how much, what became of it, and the time. Out: yes, or an honest refusal. A
reservation costs its client nothing until it commits, so the room and the time of those that came
to nothing are counted: in node-seconds, the whole room for one second. What is committed is limited
only while others are turned away for want of room, and then to an equal share of it (max-min
fairness: Bertsekas and Gallager, Data Networks, section 6.5.2), so that one client may use a node
that nobody else wants. Identities cost nothing: whoever makes many has many shares. Pure.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from protocol.errors import PeerBusy
from protocol.rate_limits import Limit, RateLimit

UNCOMMITTED = 0.25  # of the room, of one client, beyond its first reservation
WASTED = Limit(per_s=0.05, burst=1.0)  # node-seconds of one client
LEAST = 0.25  # of the room, that a client may hold however many wait
WAITING_S, MAX_WAITING = 10.0, 256  # who was turned away lately comes again
HINT = "try again shortly, or ask another node"


@dataclass(frozen=True, slots=True)
class Holding:
    """What one session keeps here."""

    client: str
    n_bytes: int
    is_committed: bool


class Shares:
    """Of one node; `now_s` is of one monotonic clock."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._wasted = RateLimit(WASTED)
        self._waiting: OrderedDict[str, float] = OrderedDict()  # by when they came, oldest first

    def check(
        self,
        client: str,
        n_bytes: int,
        held: Iterable[Holding],
        now_s: float,
    ) -> None:
        """Return if `client` may reserve so much now.

        Raises:
            PeerBusy: why not.
        """
        holdings = tuple(held)
        if not self._wasted.take(client, 0.0, now_s):
            raise PeerBusy("", "you reserved much here that you did not use", hint=HINT)
        open_bytes = sum(
            each.n_bytes for each in holdings if each.client == client and not each.is_committed
        )
        if open_bytes and open_bytes + n_bytes > UNCOMMITTED * self._budget_bytes:
            reason = f"you hold {open_bytes} bytes here that you have not committed to"
            raise PeerBusy("", reason, hint=HINT)
        self._check_fair(client, n_bytes, holdings, now_s)

    def is_large(self, n_bytes: int) -> bool:
        """Whether an heir, which may go uncommitted for a minute, gives way where room is short."""
        return n_bytes > UNCOMMITTED * self._budget_bytes

    def turned_away(self, client: str, now_s: float) -> None:
        """There was no room for it."""
        self._waiting.pop(client, None)
        self._waiting[client] = now_s
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def admitted(self, client: str) -> None:
        self._waiting.pop(client, None)

    def wasted(self, client: str, n_bytes: int, seconds: float, now_s: float) -> None:
        """A reservation ended uncommitted."""
        self._wasted.owe(client, n_bytes / self._budget_bytes * seconds, now_s)

    def _check_fair(
        self, client: str, n_bytes: int, holdings: tuple[Holding, ...], now_s: float
    ) -> None:
        waiting = {who for who, at_s in self._waiting.items() if now_s - at_s < WAITING_S}
        if not waiting - {client}:
            return
        everybody = waiting | {each.client for each in holdings} | {client}
        share = max(LEAST, 1 / len(everybody)) * self._budget_bytes
        own_bytes = sum(each.n_bytes for each in holdings if each.client == client)
        if own_bytes and own_bytes + n_bytes > share:
            reason = f"others wait for room, and you hold {own_bytes} bytes of it"
            raise PeerBusy("", reason, hint=HINT)
