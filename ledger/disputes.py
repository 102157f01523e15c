"""Tabs that ended with more claimed than was signed for: what payee and payer disagree about.

In: a log. Out: per such tab who claimed how much of whom, and what was signed, as both parties'
receipts prove it. Either the payer stopped paying or the payee counted what nobody saw: the receipt
does not tell which, and how often it happens with whom does. Nothing is kept for this: it is read
from the receipts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ledger.line_rows import N_ENTRY
from ledger.lines import meter_view, peer_name
from ledger.meter import Meter
from ledger.reader import LedgerReader
from ledger.receipts import NOTHING, ClosedTab, open_receipt
from ledger.statements import Choice
from ledger.views import Json


@dataclass(frozen=True, slots=True)
class Dispute:
    """claimed, signed: ncr. more: how much further the payee's meter is than the signed one."""

    index: int  # of the entry
    receipt_id: bytes
    is_ours: bool  # whether the claim is: else it is made of us
    tab: ClosedTab
    claimed: int
    signed: int
    more: Meter

    def to_json(self) -> Json:
        terms = self.tab.terms
        return {
            "entry": self.index,
            "receipt": self.receipt_id.hex(),
            "peer": peer_name(terms.payer if self.is_ours else terms.payee),
            "claimed_by": "us" if self.is_ours else "peer",
            "closed_ms": self.tab.closed_ms,
            "claimed_ncr": self.claimed,
            "signed_ncr": self.signed,
            "meter_beyond": meter_view(self.more),
            "window_ncr": terms.credit_window,
        }


def disputes(reader: LedgerReader, choice: Choice) -> Iterator[Dispute]:
    """In the order of the log. Tabs whose receipts are erased are passed over.

    Raises:
        IntegrityError: a receipt does not hold.
    """
    for row in reader.rows():
        index, id_, _, epoch, payer, payee, _, signed = row[:N_ENTRY]
        is_ours = payee == reader.account
        other = peer_name(payer if is_ours else payee)
        is_late = choice.last is not None and epoch > choice.last
        if epoch < choice.first or is_late or choice.peer not in (None, other):
            continue
        if (tab := _tab(reader, id_)) is None or tab.statement is None:
            continue
        claimed = tab.offer.price(tab.statement.meter)
        if claimed > signed:
            more = _difference(tab.statement.meter, tab.voucher.meter if tab.voucher else NOTHING)
            yield Dispute(index, id_, is_ours, tab, claimed, signed, more)


def _tab(reader: LedgerReader, id_: bytes) -> ClosedTab | None:
    if reader.is_pruned(reader.entry(id_).index):
        return None
    return open_receipt(reader.receipt(id_), reader.swarm_id)


def _difference(stated: Meter, signed: Meter) -> Meter:
    return Meter(*map(int.__sub__, stated.to_fields(), signed.to_fields()))
