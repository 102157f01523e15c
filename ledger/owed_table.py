"""What others owe a payee of allotments, in memory: each receipt is read once, and then no more.

In: a log that only grows, time and again. Out: its tabs, by pair and by allotment. Payers ask many
questions in a visit and a node asks itself every minute; a receipt is a few KiB, its row here is
some hundred bytes.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from ledger.owed import owed_entries
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.settling import OwedTab, Pair


@dataclass(frozen=True, slots=True)
class TabRow:
    """A tab by the receipt of it that promises most, and what is known of the others."""

    pair: Pair
    tab: OwedTab
    index: int  # that receipt's entry
    since: int  # the epoch of the oldest receipt: when it ended, whatever was promised on top
    n_receipts: int


class OwedTable:
    """Of one payee. One thread at a time."""

    def __init__(self, policy: Policy, payee: bytes) -> None:
        self._policy, self._payee, self._n_read = policy, payee, 0
        self._rows: dict[bytes, TabRow] = {}
        self._of_pair: dict[Pair, dict[bytes, TabRow]] = defaultdict(dict)
        self._of_allotment: dict[bytes, dict[bytes, TabRow]] = defaultdict(dict)

    def read_on(self, reader: LedgerReader) -> None:
        """Take in what was logged since.

        Raises:
            IntegrityError: a row or receipt is none that was written.
        """
        size = len(reader)
        found = owed_entries(reader, self._policy, self._n_read, payee=self._payee)
        for index, pair, tab in found:
            if index >= size:
                break  # logged a moment ago: the next time
            self._take(index, pair, tab)
        self._n_read = size

    def get(self, session_id: bytes) -> TabRow | None:
        return self._rows.get(session_id)

    def between(self, pair: Pair) -> list[OwedTab]:
        return [row.tab for row in self._of_pair.get(pair, {}).values()]

    def tabs(self) -> list[OwedTab]:
        """All of them."""
        return [row.tab for row in self._rows.values()]

    @property
    def of_allotments(self) -> Mapping[bytes, Mapping[bytes, TabRow]]:
        """By the allotment that each cites: tabs by their ids."""
        return self._of_allotment

    def _take(self, index: int, pair: Pair, tab: OwedTab) -> None:
        id_, known = tab.session_id, self._rows.get(tab.session_id)
        row = TabRow(pair, tab, index, tab.epoch, 1)
        if known is not None:
            best = row if known.tab.rank < tab.rank else known
            since, n = min(known.since, tab.epoch), known.n_receipts + 1
            row = TabRow(best.pair, best.tab, best.index, since, n)
            self._of_pair[known.pair].pop(id_, None)
            self._of_allotment[known.tab.allot_oid].pop(id_, None)
        self._rows[id_] = row
        self._of_pair[row.pair][id_] = self._of_allotment[row.tab.allot_oid][id_] = row
