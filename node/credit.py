"""Whom a node that asks for money serves on credit, in a swarm where nobody grants anybody any.

In: what a client owes us over all its sessions, what it did for us or made good so far, whether the
node is idle. Out: leave to begin a session, as one who is known or as a guest, or a refusal that
says how much is owed and how it is settled; and whether a running session has to end. Who asks for
nothing lends nothing: none of this applies. Pure but for the day that it counts.

A client gets as much credit as it was worth to us, up to `payment` (a debtor that has grown as
large settles first), and is cut off where its debt passes `disconnect` in the middle of an answer:
the two thresholds of Swarm's SWAP (Tron et al. 2016). A newcomer was worth nothing yet. It gets a
little each day, of room that nobody else wants and behind everybody else, which is how BitTorrent
bootstraps strangers (Cohen 2003, optimistic unchoking). Identities cost nothing, so what all
newcomers get together is bounded by idleness alone.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ledger.debts import Debts, Pair
from ledger.meter import Rates
from protocol.errors import ConfigError, InDebt, PeerBusy
from protocol.identity import peer_id_from_public_key

DAY_MS = 86_400_000
IDLE_SHARE = 0.5  # of the room for sessions, that stays free when a guest is let in
IDLE_LINE_S = 1.0  # of prompts, that may wait then
SETTLING = "serve in return, or pay {us} and have it record so: manyhands ledger paid {you} CREDITS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """In token-layers, each worth what the node asks for one."""

    payment: int = 1_000_000
    disconnect: int = 2_000_000
    newcomer: int = 100_000  # a day

    def __post_init__(self) -> None:
        if not 0 <= self.payment <= self.disconnect:
            raise ConfigError(
                f"a debt of {self.disconnect} would end sessions before one of {self.payment} is"
                " asked for",
                hint="--disconnect-threshold at least as high as --payment-threshold",
            )


def worth(rates: Rates, token_layers: int) -> int:
    """So much work in ncr, at the dearest of the rates."""
    return max(rates.to_fields()) * token_layers // 1_000_000


class Today:
    """What each client got since midnight (UTC), whatever offers it was under."""

    def __init__(self) -> None:
        self._day, self._used = -1, Counter[bytes]()

    def used(self, client: bytes, now_ms: int) -> int:
        return self._used[client] if now_ms // DAY_MS == self._day else 0

    def add(self, client: bytes, ncr: int, now_ms: int) -> None:
        if (day := now_ms // DAY_MS) != self._day:
            self._day = day
            self._used.clear()
        self._used[client] += ncr


class Credit:
    """Of one offer of a node."""

    def __init__(
        self,
        debts: Debts,
        limits: Limits,
        rates: Rates,
        today: Today,
        vouched: Callable[[bytes, int], int] = lambda key, most: 0,
    ) -> None:
        """vouched: what others say that a key was worth to them, up to so much."""
        self._debts, self._vouched, self._today = debts, vouched, today
        self.payment = worth(rates, limits.payment)
        self.disconnect = worth(rates, limits.disconnect)
        self.newcomer = worth(rates, limits.newcomer)
        self.is_free = rates.is_free

    def admit(self, client: bytes, running_ncr: int, *, is_idle: bool, now_ms: int) -> bool:
        """Whether a new session of this client is a guest's. running_ncr: of its open tabs.

        Raises:
            InDebt: it has to settle first.
            PeerBusy: it is a newcomer, and others want the room.
        """
        if self.is_free or client in self._debts.ours:
            return False
        pair = self._debts.with_(client)
        owed = pair.owes + running_ncr
        if owed > self.payment:
            raise self._in_debt(client, owed, self.payment)
        if owed < self._credit(client, pair):
            return False
        if self._left_today(client, running_ncr, now_ms) <= 0:
            raise self._in_debt(client, owed, self._credit(client, pair))
        if not is_idle:
            reason = "others want the room, and newcomers get what is left over"
            raise PeerBusy("", reason, hint="try again later, or ask another node")
        return True

    def overdrawn(
        self, client: bytes, running_ncr: int, *, is_guest: bool, now_ms: int
    ) -> InDebt | None:
        """Why a running session has to end, if it has."""
        if self.is_free or client in self._debts.ours:
            return None
        pair = self._debts.with_(client)
        owed, credit = pair.owes + running_ncr, self._credit(client, pair)
        if owed > self.disconnect:
            return self._in_debt(client, owed, self.disconnect)
        if is_guest and owed >= credit and self._left_today(client, running_ncr, now_ms) < 0:
            return self._in_debt(client, owed, credit)
        return None

    def ended(self, client: bytes, ncr: int, now_ms: int) -> None:
        """A tab is closed, for so much."""
        if self.is_free or not ncr:
            return
        self._debts.earn(client, ncr)
        self._today.add(client, ncr, now_ms)

    def credit(self, client: bytes) -> int:
        """Up to this debt it is no newcomer. What it paid ahead needs no credit at all."""
        return self._credit(client, self._debts.with_(client))

    def _credit(self, client: bytes, pair: Pair) -> int:
        if pair.worth >= self.payment:
            return self.payment
        return max(pair.worth, self._vouched(client, self.payment))

    def _left_today(self, client: bytes, running_ncr: int, now_ms: int) -> int:
        return self.newcomer - self._today.used(client, now_ms) - running_ncr

    def _in_debt(self, client: bytes, owed: int, limit: int) -> InDebt:
        you, us = peer_id_from_public_key(client), "this node's owner"
        if limit == self.payment or limit == self.disconnect:
            why = f"this node lends {limit} ncr"
        else:
            why = f"it lends {limit} ncr for what you did or settled so far, and newcomers a little"
            why += f" each day: {self.newcomer} ncr"
        reason = f"you owe {max(0, owed)} ncr here, and {why}"
        hint = SETTLING.format(us=us, you=you)
        return InDebt("", reason, owed_ncr=max(0, owed), limit_ncr=limit, hint=hint)


def is_idle(budget_bytes: int, free_bytes: int, cost_bytes: int, line_s: float) -> bool:
    """Whether a node has room left over beside who asks for `cost_bytes`."""
    return free_bytes - cost_bytes >= IDLE_SHARE * budget_bytes and line_s <= IDLE_LINE_S
