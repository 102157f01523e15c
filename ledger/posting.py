"""Balances kept up to date: the fold of `fold.py`, entry by entry as logs grow.

In: accounts whose logs have new steps. Out: the same balances as folding everything again. Because
more credit never takes an entry back, each account is a walk that stops where its credit ends and
goes on from there when credit comes: what an entry brings others wakes their walks (semi-naive
evaluation of a least fixpoint; Bancilhon and Ramakrishnan 1986). A log that loses entries takes
credit back, so it wants all of it folded anew. Where the tables live is left to others; names of
accounts and assets are small integers here.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ledger.chain import Kind

K = TypeVar("K", bound=Hashable, contravariant=True)
V = TypeVar("V")

StepRow = tuple[int, int, bytes, int, int, int]  # place, kind, oid, party, asset, amount
AllotRow = tuple[int, int, int, int]  # payer, payee, asset, amount

NO_FLOOR = 2**63 - 1
_ALLOT, _GRANT, _LEVEL, _FLOOR = (
    int(kind) for kind in (Kind.ALLOT, Kind.GRANT, Kind.LEVEL, Kind.FLOOR)
)


class Rows(Protocol[K, V]):
    """As much of a dict as posting needs, so that it may be a cache of a database."""

    def get(self, key: K, /) -> V | None: ...
    def __setitem__(self, key: K, value: V, /) -> None: ...


@dataclass(slots=True)
class Tables:
    """The state of all walks. Plain dicts to fold anew, caches of rows to go on."""

    counted: Rows[int, int]  # of each account: how many of its entries count
    balances: Rows[tuple[int, int], int] = field(default_factory=dict)  # account, asset
    allots: Rows[bytes, AllotRow] = field(default_factory=dict)  # those that are funded
    levels: Rows[tuple[bytes, int, int, int], int] = field(default_factory=dict)
    """By allotment, payee, and the payer and asset that the settlement names."""
    floors: Rows[tuple[bytes, int], int] = field(default_factory=dict)  # by allotment and payee
    notes: Rows[tuple[bytes, int], int] = field(default_factory=dict)  # by tab and payee


StepsFrom = Callable[[int, int], Iterable[StepRow]]
"""An account's steps from this entry on."""
SizeOf = Callable[[int], int]


def post(accounts: Iterable[int], tables: Tables, steps_from: StepsFrom, size_of: SizeOf) -> None:
    """Walk these accounts' logs as far as credit goes, and whoever gets credit thereby.

    size_of: how many entries of an account can be read, if there is credit for them.
    """
    waiting = dict.fromkeys(accounts)
    while waiting:
        account = next(iter(waiting))
        del waiting[account]
        if (tables.counted.get(account) or 0) < size_of(account):
            for woken in _walk(account, tables, steps_from, size_of):
                waiting[woken] = None


def _walk(account: int, tables: Tables, steps_from: StepsFrom, size_of: SizeOf) -> Iterable[int]:
    """Go on from where the account's credit ended. Who else got credit meanwhile."""
    balances, allots, levels, floors = (
        tables.balances,
        tables.allots,
        tables.levels,
        tables.floors,
    )
    woken: dict[int, None] = {}
    for place, kind, oid, party, asset, amount in steps_from(
        account, tables.counted.get(account) or 0
    ):
        if kind == _ALLOT:
            own = (account, asset)
            left = (balances.get(own) or 0) - amount
            if left < 0:
                tables.counted[account] = place
                break
            allots[oid] = (account, party, asset, amount)
            floor = floors.get((oid, party))
            if floor is not None and floor < amount:
                left += amount - floor
            balances[own] = left
            if level := levels.get((oid, party, account, asset)):
                theirs = (party, asset)
                balances[theirs] = (balances.get(theirs) or 0) + min(level, amount)
                woken[party] = None
        elif kind == _LEVEL:
            mark = (oid, account, party, asset)
            before = levels.get(mark) or 0
            levels[mark] = amount
            made = allots.get(oid)
            if made is not None and made[:3] == (party, account, asset):
                own = (account, asset)
                more = min(amount, made[3]) - min(before, made[3])
                balances[own] = (balances.get(own) or 0) + more
        elif kind == _GRANT:
            theirs = (party, asset)
            balances[theirs] = (balances.get(theirs) or 0) + amount
            if party != account:
                woken[party] = None
        elif kind == _FLOOR:
            _lower(account, oid, amount, tables, woken)
        else:
            tab = (oid, account)
            tables.notes[tab] = max(amount, tables.notes.get(tab) or 0)
    else:
        tables.counted[account] = size_of(account)
    return woken


def _lower(payee: int, oid: bytes, floor: int, tables: Tables, woken: dict[int, None]) -> None:
    """A payee gives back what is above the floor, to whoever funded the allotment."""
    before = tables.floors.get((oid, payee))
    tables.floors[oid, payee] = floor
    made = tables.allots.get(oid)
    if made is None or made[1] != payee:
        return
    payer, _, asset, amount = made
    more = min(amount, NO_FLOOR if before is None else before) - min(amount, floor)
    tables.balances[payer, asset] = (tables.balances.get((payer, asset)) or 0) + more
    woken[payer] = None
