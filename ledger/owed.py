"""What tabs came to that allotments pay for, as one party's log has them.

In: a log. Out: of each pair of parties, its tabs, each by the receipt that promises most. Receipts
were checked when they were logged; of those that were erased since, rows beside them remain.
"""

from collections import defaultdict
from collections.abc import Iterator

from ledger.line_rows import line_of
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.receipts import ClosedTab, Receipt, read_receipt
from ledger.settling import OwedTab, Pair

Found = tuple[int, Pair, OwedTab]  # the entry's place, who pays whom, what


def owed_between(reader: LedgerReader, policy: Policy, pair: Pair) -> list[OwedTab]:
    """The tabs of one pair."""
    found = owed_tabs(reader, policy, payer=pair.payer, payee=pair.payee, asset=pair.asset)
    return found.get(pair, [])


def owed_tabs(reader: LedgerReader, policy: Policy, **wanted: bytes) -> dict[Pair, list[OwedTab]]:
    """Of each pair, the tabs that promise anything. wanted: see `LedgerReader.bodies`."""
    highest: dict[Pair, dict[bytes, OwedTab]] = defaultdict(dict)
    for _, pair, tab in owed_entries(reader, policy, 0, **wanted):
        known = highest[pair].get(tab.session_id)
        if known is None or known.rank < tab.rank:
            highest[pair][tab.session_id] = tab
    return {pair: list(tabs.values()) for pair, tabs in highest.items()}


def owed_entries(
    reader: LedgerReader, policy: Policy, start: int = 0, **wanted: bytes
) -> Iterator[Found]:
    """Entry by entry from there on, also several of one tab.

    Raises:
        IntegrityError: a row or receipt is none that was written.
    """
    for index, data, cited in reader.bodies(start, **wanted):
        found = _read(data, policy) if data is not None else _row(reader, index, cited, policy)
        if found is not None:
            yield index, *found


def _read(data: bytes, policy: Policy) -> tuple[Pair, OwedTab] | None:
    tab = read_receipt(Receipt.decode(data))
    owed = owed_by(tab, policy)
    return (Pair(tab.terms.payer, tab.terms.payee, tab.terms.asset), owed) if owed else None


def owed_by(tab: ClosedTab, policy: Policy) -> OwedTab | None:
    """What a tab promises of an allotment; None: it cites none, or promises nothing."""
    terms = tab.terms
    if terms.allot_oid is None or tab.amount == 0:
        return None
    epoch = policy.epoch_of(tab.closed_ms)
    key = terms.payer_key if terms.mandate else b""
    return OwedTab(terms.session_id, terms.allot_oid, epoch, tab.amount, tab.meter, key=key)


def _row(
    reader: LedgerReader, index: int, cited: bytes | None, policy: Policy
) -> tuple[Pair, OwedTab] | None:
    """Of an entry whose receipt was erased."""
    if not cited:
        return None
    line = line_of(reader.account, next(reader.rows(index, 1)))
    if line.amount == 0:
        return None
    others = (line.counterparty, line.account) if line.earned else (line.account, line.counterparty)
    epoch = policy.epoch_of(line.closed_ms)
    return Pair(*others, line.asset), OwedTab(line.tab_id, cited, epoch, line.amount, line.meter)
