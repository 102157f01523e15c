"""Who owes whom: mutual claims per counterparty and asset, as a pure fold over a set of claims.

Joins are by maximum per tab, so that the order, repetition and grouping of claims change nothing:
two copies of a log, or a log and a part of it, fold to the same balances.
"""

from collections.abc import Iterable
from dataclasses import dataclass


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


def balances(account: bytes, claims: Iterable[Claim]) -> list[Balance]:
    """The account's claims on and debts to each counterparty, in a fixed order."""
    highest: dict[tuple[bytes, bytes, bytes, bytes], int] = {}
    for claim in claims:
        tab = (claim.session_id, claim.payer, claim.payee, claim.asset)
        highest[tab] = max(claim.amount, highest.get(tab, 0))
    sums: dict[tuple[bytes, bytes], tuple[int, int, int]] = {}
    for (_, payer, payee, asset), amount in highest.items():
        if payer == payee or account not in (payer, payee):
            continue
        earns = payee == account
        pair = (payer if earns else payee, asset)
        earned, spent, n_tabs = sums.get(pair, (0, 0, 0))
        sums[pair] = (
            earned + amount * earns,
            spent + amount * (not earns),
            n_tabs + 1,
        )
    return [Balance(*pair, *totals) for pair, totals in sorted(sums.items())]
