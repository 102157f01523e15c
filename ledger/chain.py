"""What a spend log says, entry by entry, before anybody asks whether there is credit for it.

In: one account's leaves in order. Out: steps, the few kinds of move that credit knows. Whatever an
account can get wrong by itself is judged here, from its own log alone, so that all who have the log
judge alike; the first entry that breaks a rule ends what counts of it, for good. Whether a step can
be afforded depends on others' logs and is left to `fold.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from ledger.collecting import open_collection
from ledger.errors import BadObject
from ledger.spend_leaf import NO_LEAF, SpendLeaf
from ledger.spending import (
    Allotment,
    Collection,
    CreditNote,
    Deposit,
    Grant,
    Release,
    Settlement,
    open_spending,
)
from protocol.canonical import MAX_UINT, decode
from protocol.errors import IntegrityError


class Kind(IntEnum):
    GRANT = 1  # oid: the grant's, party: who gets it
    ALLOT = 2  # oid: the allotment's, party: its payee
    LEVEL = 3  # oid: an allotment's, party: who is said to pay; amount: deposited of it so far
    FLOOR = 4  # oid: an allotment's; amount: the most that will ever be claimed of it
    NOTE = 5  # oid: a tab's id; amount: taken off what its vouchers promise


@dataclass(frozen=True, slots=True)
class Step:
    """One move of credit that an entry asks for."""

    kind: Kind
    oid: bytes
    party: bytes
    asset: bytes
    amount: int


class Table(Protocol):
    """As much of a dict as a reader needs, so that it may live in a database."""

    def get(self, key: bytes, /) -> int | None: ...
    def __setitem__(self, key: bytes, value: int, /) -> None: ...


def _empty() -> Table:
    made: dict[bytes, int] = {}
    return made


@dataclass(slots=True)
class ChainState:
    """What has to be known of earlier entries to judge the next one."""

    granted: int = 0  # in all; the account's own asset
    places: Table = field(default_factory=_empty)  # of objects seen, by their ids
    asked: Table = field(default_factory=_empty)  # of each allotment, taken in so far
    floors: Table = field(default_factory=_empty)  # of each allotment given back
    noted: Table = field(default_factory=_empty)  # of each tab, taken off it
    # Of terms: what counts, and, with the tab's id, the voucher; of allotment, payer, asset: all.
    collected: Table = field(default_factory=_empty)


class ChainReader:
    """Give it an account's leaves, one after another, and it says what each asks for."""

    def __init__(self, account: bytes, swarm_id: bytes, state: ChainState | None = None) -> None:
        self.account, self.swarm_id = account, swarm_id
        self.state = state or ChainState()

    def read(self, leaf: SpendLeaf, earlier: "LeafAt") -> list[Step]:
        """The steps of the next leaf. `earlier` finds leaves before it by their place.

        Raises:
            IntegrityError: it breaks a rule: neither it nor anything after it counts.
        """
        spending = open_spending(leaf.envelope, self.account, self.swarm_id)
        oid = leaf.envelope.object_id(self.swarm_id)
        if self.state.places.get(oid) is not None:
            raise BadObject("an object counts once, and stands in a log once")
        steps = self._steps(oid, spending, earlier)
        self.state.places[oid] = leaf.index
        return steps

    def _steps(self, oid: bytes, spending: object, earlier: "LeafAt") -> list[Step]:
        match spending:
            case Grant(account=account, asset=asset, amount=amount):
                if self.state.granted + amount > MAX_UINT:
                    raise BadObject("all grants of an asset together are beyond 2^63")
                self.state.granted += amount
                return [Step(Kind.GRANT, oid, account, asset, amount)]
            case Allotment(payee=payee, asset=asset, amount=amount):
                return [Step(Kind.ALLOT, oid, payee, asset, amount)]
            case Deposit():
                return self._deposited(spending, earlier)
            case Collection():
                return self._collected(spending)
            case Release(allot_oid=allot_oid, claimed_final=final):
                return [self._given_back(allot_oid, final)]
            case CreditNote(session_id=session_id, amount_cum=amount):
                before = self.state.noted.get(session_id) or 0
                self.state.noted[session_id] = max(before, amount)
                return [Step(Kind.NOTE, session_id, b"", b"", amount)]
            case _:  # a settlement counts once it is deposited
                return []

    def _deposited(self, deposit: Deposit, earlier: "LeafAt") -> list[Step]:
        """A deposit raises what was asked of each allotment to what its settlement says."""
        place = self.state.places.get(deposit.settle_oid)
        settled = None if place is None else _settlement(earlier(place))
        if settled is None or settled.payee != self.account:
            raise BadObject("a deposit cites a settlement in our favour earlier in the same log")
        steps, added = [], 0
        for allot_oid, cumulative in settled.claims:
            before = self.state.asked.get(allot_oid) or 0
            if cumulative <= before:
                continue
            added += cumulative - before
            self.state.asked[allot_oid] = cumulative
            level = min(cumulative, self._floor(allot_oid))
            steps.append(Step(Kind.LEVEL, allot_oid, settled.payer, settled.asset, level))
        if added != deposit.amount:
            raise BadObject(f"the deposit says {deposit.amount}, its settlement adds {added}")
        return steps

    def _collected(self, collection: Collection) -> list[Step]:
        """Vouchers raise what was asked of an allotment to the sum of what they promise of it.

        Not by it: which of them a settlement has in it cannot be seen. So the higher of the two
        counts, and who collects after it settled shows the settled tabs, too. Of a tab that is
        shown again, credit notes since then are taken off: what others add makes up for it first.
        """
        steps, collected = [], self.state.collected
        for tab in open_collection(collection, self.account, self.swarm_id):
            before = collected.get(tab.terms_oid) or 0
            voucher = tab.terms_oid + tab.session_id
            promised = max(tab.amount, collected.get(voucher) or before)
            net = max(0, promised - (self.state.noted.get(tab.session_id) or 0))
            place = tab.allot_oid + tab.payer + tab.asset  # what others promised of it counts apart
            total = (collected.get(place) or 0) + net - before
            if total > MAX_UINT:
                raise BadObject("all that is promised of an allotment is beyond 2^63")
            collected[tab.terms_oid], collected[voucher], collected[place] = net, promised, total
            if total <= (self.state.asked.get(tab.allot_oid) or 0):
                continue
            self.state.asked[tab.allot_oid] = total
            level = min(total, self._floor(tab.allot_oid))
            steps.append(Step(Kind.LEVEL, tab.allot_oid, tab.payer, tab.asset, level))
        return steps

    def _given_back(self, allot_oid: bytes, final: int) -> Step:
        """What was deposited before cannot be given back, what was given back not claimed again."""
        level = min(self.state.asked.get(allot_oid) or 0, self._floor(allot_oid))
        floor = max(level, min(self._floor(allot_oid), final))
        self.state.floors[allot_oid] = floor
        return Step(Kind.FLOOR, allot_oid, b"", b"", floor)

    def _floor(self, allot_oid: bytes) -> int:
        floor = self.state.floors.get(allot_oid)
        return MAX_UINT if floor is None else floor


class LeafAt(Protocol):
    def __call__(self, index: int, /) -> SpendLeaf: ...


def read_chain(account: bytes, leaves: Sequence[SpendLeaf], swarm_id: bytes) -> list[list[Step]]:
    """The steps of each entry, up to the first that breaks a rule."""
    return list(_read(ChainReader(account, swarm_id), leaves))


def _read(reader: ChainReader, leaves: Sequence[SpendLeaf]) -> Iterator[list[Step]]:
    previous = NO_LEAF
    for index, leaf in enumerate(leaves):
        if (leaf.index, leaf.previous) != (index, previous):
            return
        try:
            yield reader.read(leaf, leaves.__getitem__)
        except IntegrityError:
            return
        previous = leaf.hash()


def _settlement(leaf: SpendLeaf) -> Settlement | None:
    """Of a leaf that was opened before."""
    if leaf.envelope.type != Settlement.TYPE:
        return None
    return Settlement.from_fields(decode(leaf.envelope.payload))
