"""Who owes whom: mutual claims per counterparty and asset, as a pure fold over a set of claims.

Joins are by maximum per tab, so that the order, repetition and grouping of claims change nothing:
two copies of a log, or a log and a part of it, fold to the same balances.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Parties = tuple[bytes, bytes, bytes]  # payer, payee, asset


@dataclass(frozen=True, slots=True)
class Claim:
    """What one log entry says: on this tab, payer owes payee this much."""

    session_id: bytes  # of the tab
    payer: bytes
    payee: bytes
    asset: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account and one counterparty owe each other, in ncr of one asset."""

    counterparty: bytes
    asset: bytes
    earned: int  # the counterparty owes us
    spent: int  # we owe the counterparty
    n_tabs: int

    @property
    def net(self) -> int:
        return self.earned - self.spent


class Fold:
    """The account's claims on and debts to each counterparty, as claims come."""

    def __init__(self, account: bytes) -> None:
        self.account = account
        self._highest: dict[Parties, dict[bytes, int]] = {}  # what each tab came to
        self._sums: dict[Parties, int] = {}

    def add(self, claim: Claim) -> int:
        """What it adds to what was claimed on its tab before."""
        parties = (claim.payer, claim.payee, claim.asset)
        tabs = self._highest.setdefault(parties, {})
        before = tabs.get(claim.session_id, 0)
        tabs[claim.session_id] = max(claim.amount, before)
        more = max(0, claim.amount - before)
        self._sums[parties] = self._sums.get(parties, 0) + more
        return more

    def balances(self, off: Mapping[tuple[bytes, bytes], int] | None = None) -> list[Balance]:
        """In a fixed order. off: what payees took off tabs, by payee and tab."""
        found: dict[tuple[bytes, bytes], tuple[int, int, int]] = {}
        for (payer, payee, asset), amount in self._sums.items():
            if payer == payee or self.account not in (payer, payee):
                continue
            tabs = self._highest[payer, payee, asset]
            amount -= sum(
                min(less, tabs.get(tab, 0))
                for (who, tab), less in (off or {}).items()
                if who == payee
            )
            earns = payee == self.account
            pair = (payer if earns else payee, asset)
            earned, spent, n_tabs = found.get(pair, (0, 0, 0))
            found[pair] = (
                earned + amount * earns,
                spent + amount * (not earns),
                n_tabs + len(tabs),
            )
        return [Balance(*pair, *totals) for pair, totals in sorted(found.items())]


def balances(account: bytes, claims: Iterable[Claim]) -> list[Balance]:
    """Of all these claims."""
    fold = Fold(account)
    for claim in claims:
        fold.add(claim)
    return fold.balances()
