"""What became of each tab of a statement, where an issuer's credit pays: settled, or not, or never.

In: a party's log, and its books of all spend logs. Out: by entry, the allotment that its receipt
cites and the state of the tab: `closed`; `settled`, once the payee has deposited so much; or
`unfunded`: claimed beyond the allotment, or of one without credit behind it. Tabs of one allotment
are taken in the order of the log: the last ones are beyond it.
"""

from collections import defaultdict
from typing import NamedTuple

from ledger.fold import Allotted
from ledger.noted import notes_that_count
from ledger.owed import owed_entries
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.settling import with_notes
from ledger.spend_books import SpendBooks

CLOSED, SETTLED, UNFUNDED = "closed", "settled", "unfunded"


class TabState(NamedTuple):
    allot_oid: bytes
    state: str
    unfunded: int  # ncr of the tab that nothing stands behind
    credit: int = 0  # ncr that its payee takes off it


def tab_states(reader: LedgerReader, books: SpendBooks, policy: Policy) -> dict[int, TabState]:
    """By the entry's place; tabs that cost nothing, or cite no allotment, are not in it."""
    allotted: dict[bytes, Allotted | None] = {}
    asked: defaultdict[bytes, int] = defaultdict(int)  # of each allotment, so far
    before: dict[bytes, int] = {}  # what an earlier receipt of a tab asked for
    notes = notes_that_count(reader, books, policy)
    states = {}
    for index, pair, whole in owed_entries(reader, policy):
        off = notes.get((pair.payee, whole.session_id), 0)
        (tab,) = with_notes([whole], {whole.session_id: off})
        oid = tab.allot_oid
        if oid not in allotted:
            allotted[oid] = books.allotted(oid)
        more = max(0, tab.net - before.get(tab.session_id, 0))
        before[tab.session_id] = max(tab.net, before.get(tab.session_id, 0))
        asked[oid] += more
        state = _state(oid, allotted[oid], asked[oid], more)
        states[index] = state._replace(credit=tab.credit)
    return states


def _state(oid: bytes, made: Allotted | None, asked: int, more: int) -> TabState:
    """Of a tab that brings what is asked of an allotment to `asked`, by `more`."""
    good_for = made.amount - made.returned if made else 0
    beyond = min(more, max(0, asked - good_for))
    if beyond:
        return TabState(oid, UNFUNDED, beyond)
    return TabState(oid, SETTLED if made and asked <= made.deposited else CLOSED, 0)
