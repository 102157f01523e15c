"""What a payer and a payee settle for an epoch: each derives it from its own log, and compares.

In: what the tabs between two parties came to. Out: settlements, the same bytes on both sides if
their logs say the same; if not, which tab differs and how. Nothing is believed of the other side:
it signs what we derived, or we are told where to look. Signatures and exchange are left to others.

A settlement of an epoch is about the tabs that vouchers date in it; what it claims of an allotment
is all that was used of that up to then, so that a settlement that was lost is made good by the next
one, and a repeated one adds nothing. Tabs that cite no allotment have nothing to claim: between
strangers there are debts, and no settlements of this kind.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ledger.errors import BadObject, NotAgreed
from ledger.merkle import EMPTY_ROOT, appended, leaf_hash, root
from ledger.meter import Meter
from ledger.spending import MAX_CLAIMS, Settlement
from protocol.canonical import encode

MAX_TOLD = 5  # differing tabs that are named; the rest are counted


@dataclass(frozen=True, slots=True, order=True)
class OwedTab:
    """What one tab came to, by its highest voucher. credit: what the payee has taken off that."""

    session_id: bytes
    allot_oid: bytes
    epoch: int
    amount: int
    meter: Meter
    credit: int = 0
    key: bytes = field(default=b"", compare=False)  # who signed, where not the payer itself

    @property
    def net(self) -> int:
        return self.amount - self.credit

    @property
    def rank(self) -> tuple[int, int, tuple[int, ...], bytes]:
        """Of several receipts of one tab, the highest counts, on both sides the same one. Of two
        that promise as much it is the older: a payer that dates one anew puts nothing off."""
        return self.amount, -self.epoch, self.meter.to_fields(), self.allot_oid

    def leaf(self) -> bytes:
        """What a settlement's `receipts_root` commits to."""
        fields = (self.session_id, self.allot_oid, self.amount, self.credit)
        return encode((1, *fields, self.meter.to_fields()))


@dataclass(frozen=True, slots=True)
class Pair:
    """Who pays whom, in what."""

    payer: bytes
    payee: bytes
    asset: bytes


def settlements(pair: Pair, tabs: Iterable[OwedTab], epoch: int) -> list[Settlement]:
    """What the two settle for an epoch, of all tabs between them; nothing, if nothing was used.

    More allotments than one settlement can claim of make several, each about the tabs on its own.

    Raises:
        BadObject: sums beyond 2^63.
    """
    used: dict[bytes, int] = defaultdict(int)
    of_epoch: dict[bytes, list[OwedTab]] = defaultdict(list)
    for tab in tabs:
        if tab.epoch <= epoch:
            used[tab.allot_oid] += tab.net
        if tab.epoch == epoch:
            of_epoch[tab.allot_oid].append(tab)
    cited = [oid for oid in sorted(of_epoch) if used[oid]]
    return [
        _settlement(pair, epoch, {oid: used[oid] for oid in some}, of_epoch)
        for some in (cited[at : at + MAX_CLAIMS] for at in range(0, len(cited), MAX_CLAIMS))
    ]


def _settlement(
    pair: Pair, epoch: int, claims: Mapping[bytes, int], of_epoch: Mapping[bytes, list[OwedTab]]
) -> Settlement:
    tabs = sorted(tab for oid in claims for tab in of_epoch[oid])
    gross, credit = sum(tab.amount for tab in tabs), sum(tab.credit for tab in tabs)
    return Settlement(
        epoch=epoch,
        payer=pair.payer,
        payee=pair.payee,
        asset=pair.asset,
        claims=tuple(claims.items()),
        n_sessions=len(tabs),
        receipts_root=receipts_root(tabs),
        gross=gross,
        credit=credit,
        net=gross - credit,
        meter_sum=sum((tab.meter for tab in tabs), Meter()),
    )


def receipts_root(tabs: Sequence[OwedTab]) -> bytes:
    """The root of a tree over these tabs, in the order of their ids."""
    nodes: dict[tuple[int, int], bytes] = {}
    for size, tab in enumerate(tabs):
        leaf = leaf_hash(tab.leaf())
        for level, index, hash_ in appended(size, leaf, lambda lv, ix: nodes[lv, ix]):
            nodes[level, index] = hash_
    return root(len(tabs), lambda lv, ix: nodes[lv, ix]) if tabs else EMPTY_ROOT


def with_notes(tabs: Iterable[OwedTab], notes: Mapping[bytes, int]) -> list[OwedTab]:
    """These tabs, with what the payee's credit notes take off them. notes: by tab, cumulative."""
    return [
        OwedTab(
            tab.session_id,
            tab.allot_oid,
            tab.epoch,
            tab.amount,
            tab.meter,
            min(tab.amount, notes.get(tab.session_id, 0)),
        )
        for tab in tabs
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """A tab of which two logs say different things; None: one of them has none of it."""

    session_id: bytes
    ours: OwedTab | None
    theirs: OwedTab | None

    @property
    def is_ours_higher(self) -> bool:
        return self.ours is not None and (self.theirs is None or self.ours.rank > self.theirs.rank)

    @property
    def is_theirs_higher(self) -> bool:
        return self.theirs is not None and (self.ours is None or self.theirs.rank > self.ours.rank)

    def __str__(self) -> str:
        told = f"tab {self.session_id.hex()[:16]}"
        if self.theirs is None:
            return f"{told}: they have no receipt of it"
        if self.ours is None:
            return f"{told}: we have no receipt of it"
        for name, said in (
            ("amount", "{} ncr"),
            ("credit", "{} ncr credited"),
            ("epoch", "epoch {}"),
        ):
            ours, theirs = getattr(self.ours, name), getattr(self.theirs, name)
            if ours != theirs:
                return f"{told}: we have {said.format(ours)}, they have {said.format(theirs)}"
        return f"{told}: the work or the allotment in it is not the same"


def differences(ours: Iterable[OwedTab], theirs: Iterable[OwedTab]) -> list[Difference]:
    """Of which tabs the two logs say different things."""
    here = {tab.session_id: tab for tab in ours}
    there = {tab.session_id: tab for tab in theirs}
    return [
        Difference(id_, here.get(id_), there.get(id_))
        for id_ in sorted(here.keys() | there.keys())
        if here.get(id_) != there.get(id_)
    ]


def check_agreed(found: Sequence[Difference]) -> None:
    """
    Raises:
        NotAgreed: the two sides' logs differ, and how.
    """
    if not found:
        return
    told = "; ".join(str(each) for each in found[:MAX_TOLD])
    more = f"; and {len(found) - MAX_TOLD} more" if len(found) > MAX_TOLD else ""
    raise NotAgreed(
        f"the two logs do not say the same: {told}{more}",
        hint="both sides: manyhands ledger verify",
    )


def check_same(derived: Settlement, shown: Settlement) -> None:
    """
    Raises:
        BadObject: they settle something else than we derive; says what differs.
    """
    for name in ("payer", "payee", "asset", "epoch", "n_sessions", "gross", "credit", "claims"):
        if getattr(derived, name) != getattr(shown, name):
            raise BadObject(f"the settlement has another {name.replace('_', ' ')} than our log")
    if derived != shown:
        raise BadObject("the settlement is about other receipts than our log has")
