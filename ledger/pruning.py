"""Which receipts may be erased, and erasing them: roots, sums and what was settled stay.

In: a log, the settlements that both sides signed, and what is still disputed. Out: entries whose
bodies may go. A tree commits to salted digests, so that nothing that was ever proven changes; what
goes is the proof of a single tab, which after a settlement nobody needs. One's own word that a
receipt was erased is enough: a log that lost some convinces nobody of anything else.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from ledger.owed import owed_entries, owed_tabs
from ledger.policy import Policy
from ledger.reader import Body, LedgerReader
from ledger.receipts import read_receipt
from ledger.settling import Pair, settlements, with_notes
from ledger.spending import Fault, Settlement
from protocol.canonical import decode
from protocol.errors import IntegrityError
from protocol.signing import Envelope

UNSETTLED, RETAINED, DISPUTED = "not settled yet", "settled lately", "disputed"
OPEN = "paid by an allotment that was not given back yet"


@dataclass(frozen=True, slots=True)
class Plan:
    """bodies: what may go. kept: how many stay, by the reason."""

    bodies: tuple[Body, ...]
    kept: Mapping[str, int]


def plan(
    reader: LedgerReader,
    policy: Policy,
    settled: Iterable[Settlement],
    epoch: int,
    *,
    disputed: Mapping[bytes, Collection[bytes]] | None = None,
    notes: Mapping[bytes, int] | None = None,
    given_back: Collection[bytes] = (),
) -> Plan:
    """What may be erased in this epoch.

    settled: signed by both. disputed: of tabs that faults are about, who is accused: anybody who
    knows a tab's id makes a fault of a key of its own, so only the tab's parties matter, and the
    key that signed for its payer. notes: what credit notes take off tabs. given_back: allotments
    that a payee has released. A settlement covers what our own log still gives exactly, and nothing
    else; and a payee whose payer stops settling collects a later tab of an allotment by the
    vouchers of all tabs on it, so it keeps these until it released it. With a key that pays for
    another account nobody settles: its tabs are over once their allotment was given back.
    """
    tabs = owed_tabs(reader, policy)
    since: dict[bytes, int] = {}  # the epoch in which each tab was settled
    by_pair: dict[Pair, list[Settlement]] = defaultdict(list)
    for each in settled:
        by_pair[Pair(each.payer, each.payee, each.asset)].append(each)
    for pair, signed in by_pair.items():
        owed = with_notes(tabs.get(pair, ()), notes or {})
        for each in signed:
            if each in settlements(pair, owed, each.epoch):
                cited = {oid for oid, _ in each.claims}
                of_epoch = (tab for tab in owed if tab.epoch == each.epoch)
                since |= {t.session_id: t.epoch for t in of_epoch if t.allot_oid in cited}
    kept: Counter[str] = Counter()
    bodies = []
    last = epoch - policy.retain_epochs - policy.holdback_epochs
    erased = {index for index, data, _ in reader.bodies() if data is None}
    for index, pair, tab in owed_entries(reader, policy):
        is_open = pair.payee == reader.account and tab.allot_oid not in given_back
        if index in erased:
            continue
        if tab.key == reader.account and tab.allot_oid in given_back:
            since.setdefault(tab.session_id, tab.epoch)
        accused = (disputed or {}).get(tab.session_id, ())
        if not {pair.payer, pair.payee, tab.key}.isdisjoint(accused):
            kept[DISPUTED] += 1
        elif (at := since.get(tab.session_id)) is None:
            kept[UNSETTLED] += 1
        elif at >= last:
            kept[RETAINED] += 1
        elif is_open:
            kept[OPEN] += 1
        else:
            bodies.append(Body(index, tab.allot_oid))
    return Plan(tuple(bodies), dict(kept))


def body_of(reader: LedgerReader, receipt_id: bytes) -> Body:
    """A single receipt that somebody wants erased, settled or not.

    Raises:
        UsageError: the log has none, or has it no more.
    """
    receipt = reader.receipt(receipt_id)
    terms = read_receipt(receipt).terms
    return Body(reader.entry(receipt_id).index, terms.allot_oid or b"")


def tabs_in(faults: Iterable[Fault]) -> dict[bytes, set[bytes]]:
    """The tabs that pieces of evidence are about, by the ids they bear, and who is accused."""
    found: dict[bytes, set[bytes]] = defaultdict(set)
    for fault in faults:
        for piece in fault.evidence:
            try:
                fields = decode(Envelope.decode(piece).payload)
            except IntegrityError:
                continue  # of another shape, such as a checkpoint: about no tab
            if len(fields) > 1 and type(fields[1]) is bytes and len(fields[1]) == 16:
                found[fields[1]].add(fault.accused)
    return dict(found)
