"""Balances, as a pure function of a set of spend logs. The reference: short, and slow.

In: branches, which are logs as their signed checkpoints show them, and what tabs came to. Out: what
each account may spend, and what became of each allotment. Order, repetition and grouping of the set
change nothing.

An account's entries are walked in order until one cannot be afforded, and no further: the obvious
rule, to skip that one and go on, is not monotone and has no fixpoint for some logs. With this one
more credit never takes an entry away, so that walking all accounts again and again, each time with
what the others reached, ends at the least fixpoint (Kleene 1952). What counts of a log is what a
quorum of witnesses cosigned; where that shows two branches, what they share.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from ledger.chain import Kind, Step, read_chain
from ledger.spend_leaf import SpendLeaf

Holding = tuple[bytes, bytes]  # account, asset
Chains = Mapping[bytes, list[list[Step]]]


@dataclass(frozen=True, slots=True)
class Branch:
    """A spend log up to one of its checkpoints, whose root its leaves give.

    counts: enough witnesses signed the checkpoint.
    """

    account: bytes
    leaves: tuple[SpendLeaf, ...]
    counts: bool


@dataclass(frozen=True, slots=True)
class TabClaim:
    """What a tab's voucher promises of an allotment; of several the highest counts."""

    session_id: bytes
    allot_oid: bytes
    amount: int
    payer: bytes = b""  # with the key that signed for it, where that is not its own
    key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotted:
    """What became of a funded allotment."""

    payer: bytes
    payee: bytes
    asset: bytes
    amount: int
    deposited: int = 0  # by the payee, whose credit it is now
    returned: int = 0  # by the payee, to the payer
    claimed: int = 0  # by vouchers or deposits, of what may still be claimed
    unfunded: int = 0  # claimed beyond that: never moved

    @property
    def held(self) -> int:
        return self.amount - self.deposited - self.returned

    @property
    def free(self) -> int:
        """What new tabs may still claim of it."""
        return self.amount - self.returned - self.claimed

    @classmethod
    def of(
        cls,
        payer: bytes,
        payee: bytes,
        asset: bytes,
        amount: int,
        *,
        level: int,
        floor: int,
        promised: int,
    ) -> Self:
        """By what its payee's deposits say was used, what it will claim at most, and its tabs."""
        returned = amount - min(amount, floor)
        asked = max(promised, level)
        return cls(
            payer=payer,
            payee=payee,
            asset=asset,
            amount=amount,
            deposited=min(level, amount),
            returned=returned,
            claimed=min(asked, amount - returned),
            unfunded=max(0, asked - (amount - returned)),
        )


@dataclass(frozen=True, slots=True)
class Books:
    """What a set of logs comes to."""

    available: Mapping[Holding, int]  # what is not here is 0
    allotted: Mapping[bytes, Allotted]
    counted: Mapping[bytes, int]  # how many entries of each account count
    granted: Mapping[bytes, int]  # how much of each asset there is
    forked: frozenset[bytes]  # accounts that showed two branches: no new business with them


@dataclass(slots=True)
class _Reached:
    """What all accounts together have reached so far."""

    grants: dict[Holding, int] = field(default_factory=lambda: defaultdict(int))
    granted: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    allots: dict[bytes, Allotted] = field(default_factory=dict)
    levels: dict[tuple[bytes, bytes], list[Step]] = field(default_factory=dict)  # payee, allotment
    floors: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    notes: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # payee, tab

    def level(self, oid: bytes, allotted: Allotted) -> int:
        """How much the payee's deposits that name this payer and asset say was used of it."""
        named = (allotted.payer, allotted.asset)
        steps = self.levels.get((allotted.payee, oid), ())
        levels = [step.amount for step in steps if (step.party, step.asset) == named]
        return max(levels, default=0)

    def returned(self, oid: bytes, allotted: Allotted) -> int:
        floor = self.floors.get((allotted.payee, oid), allotted.amount)
        return allotted.amount - min(allotted.amount, floor)


def fold(branches: Iterable[Branch], swarm_id: bytes, tabs: Iterable[TabClaim] = ()) -> Books:
    """What this set of logs and tabs comes to."""
    by_account: dict[bytes, list[Branch]] = defaultdict(list)
    for branch in branches:
        by_account[branch.account].append(branch)
    chains = {
        account: read_chain(account, agreed_leaves(b for b in some if b.counts), swarm_id)
        for account, some in by_account.items()
    }
    counted = dict.fromkeys(chains, 0)
    while True:
        reached = _reach(chains, counted)
        further = {account: _walk(account, chains[account], reached)[0] for account in chains}
        if further == counted:
            break
        counted = further
    return Books(
        available={
            (account, asset): amount
            for account in {*chains, *(account for account, _ in reached.grants)}
            for asset, amount in _walk(account, chains.get(account, []), reached)[1].items()
            if amount
        },
        allotted=_settled(reached, tabs),
        counted=counted,
        granted=dict(reached.granted),
        forked=frozenset(a for a, some in by_account.items() if _is_forked(some)),
    )


def agreed_leaves(branches: Iterable[Branch]) -> tuple[SpendLeaf, ...]:
    """The longest branch, up to where the first other one leaves it."""
    logs = [branch.leaves for branch in branches]
    longest = max(logs, key=len, default=())
    return longest[: min((_shared(longest, log) for log in logs), default=0)]


def _shared(longest: tuple[SpendLeaf, ...], log: tuple[SpendLeaf, ...]) -> int:
    for index, leaf in enumerate(log):
        if leaf != longest[index]:
            return index
    return len(longest)  # it is the beginning of the longest


def _is_forked(branches: Iterable[Branch]) -> bool:
    logs = [branch.leaves for branch in branches]
    longest = max(logs, key=len)
    return any(_shared(longest, log) < len(longest) for log in logs)


def _reach(chains: Chains, counted: Mapping[bytes, int]) -> _Reached:
    """All that the entries which count so far say."""
    reached = _Reached()
    for account, entries in chains.items():
        for step in (step for steps in entries[: counted[account]] for step in steps):
            place = (account, step.oid)
            match step.kind:
                case Kind.GRANT:
                    reached.grants[step.party, step.asset] += step.amount
                    reached.granted[step.asset] += step.amount
                case Kind.ALLOT:
                    reached.allots[step.oid] = Allotted(
                        payer=account, payee=step.party, asset=step.asset, amount=step.amount
                    )
                case Kind.LEVEL:
                    reached.levels.setdefault(place, []).append(step)
                case Kind.FLOOR:
                    reached.floors[place] = step.amount
                case Kind.NOTE:
                    reached.notes[place] = max(step.amount, reached.notes.get(place, 0))
    return reached


def _walk(
    account: bytes, entries: list[list[Step]], reached: _Reached
) -> tuple[int, dict[bytes, int]]:
    """How far the account's credit goes, and what is left of it, by asset."""
    left: dict[bytes, int] = defaultdict(int)
    for (holder, asset), amount in reached.grants.items():
        if holder == account:
            left[asset] += amount
    taken: dict[bytes, int] = {}  # of each allotment, in deposits so far
    for index, steps in enumerate(entries):
        for step in steps:
            if step.kind is Kind.ALLOT:
                if left[step.asset] < step.amount:
                    return index, left
                left[step.asset] -= step.amount
                if (made := reached.allots.get(step.oid)) is not None:
                    left[step.asset] += reached.returned(step.oid, made)
            elif step.kind is Kind.LEVEL:
                made = reached.allots.get(step.oid)
                if made and (made.payee, made.payer, made.asset) == (
                    account,
                    step.party,
                    step.asset,
                ):
                    level = min(step.amount, made.amount)
                    left[step.asset] += level - taken.get(step.oid, 0)
                    taken[step.oid] = level
    return len(entries), left


def _settled(reached: _Reached, tabs: Iterable[TabClaim]) -> dict[bytes, Allotted]:
    """Each allotment with what was deposited, given back and claimed of it."""
    promised: dict[tuple[bytes, bytes], int] = {}
    for tab in tabs:
        place = (tab.allot_oid, tab.session_id)
        promised[place] = max(tab.amount, promised.get(place, 0))
    net: dict[bytes, int] = defaultdict(int)
    for (oid, session_id), amount in promised.items():
        if (made := reached.allots.get(oid)) is not None:
            net[oid] += max(0, amount - reached.notes.get((made.payee, session_id), 0))
    return {
        oid: Allotted.of(
            made.payer,
            made.payee,
            made.asset,
            made.amount,
            level=reached.level(oid, made),
            floor=reached.floors.get((made.payee, oid), made.amount),
            promised=net[oid],
        )
        for oid, made in reached.allots.items()
    }
