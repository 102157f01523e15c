"""What a node earned, day by day, and for how many tokens: read from its own ledger, as it grows.
What it took off tabs since counts no more.

In: the directory of a ledger. Out: sums, kept between looks, so that each entry is read once. What
one tab earned is its latest entry; a tab that is open still is pending.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from ledger.homes import Book
from ledger.lines import moment
from ledger.noted import Noted, Tables, noted_at
from ledger.receipts import ClosedTab, open_receipt
from protocol.errors import ConfigError

N_DAYS = 14


@dataclass(frozen=True, slots=True)
class Tab:
    """What became of one, by its latest entry."""

    day: str  # of its end, by this machine's clock
    earned_ncr: int
    prompt_tokens: float  # through this node's blocks
    answer_tokens: float


@dataclass(slots=True)
class Earnings:
    """Of one ledger; `look` from one thread at a time."""

    book: Book
    _tabs: dict[bytes, Tab] = field(default_factory=dict)
    _n_read: int = 0
    _tables: Tables = field(default_factory=dict)
    _noted: Noted = field(default_factory=Noted)

    def look(self) -> dict[str, Any]:
        """The sums now; of a ledger that is not there yet, nothing.

        Raises:
            IntegrityError: the ledger is not what it was.
        """
        n_open = 0
        try:
            with self.book.reader() as reader:
                if len(reader) < self._n_read:  # an older copy took its place
                    self._tabs, self._n_read, self._tables = {}, 0, {}
                for entry in reader.entries(self._n_read):
                    tab = open_receipt(reader.receipt(entry.receipt_id), reader.swarm_id)
                    if tab.terms.payee == reader.account:
                        self._tabs[tab.terms.session_id] = _tab_of(tab)
                    self._n_read = entry.index + 1
                n_open = reader.n_open_tabs()
                self._noted = noted_at(self.book, reader, self._tables)
        except ConfigError:
            pass
        return self._view(n_open)

    def known(self) -> dict[str, Any]:
        """The sums of what was read so far."""
        return self._view(0)

    def _view(self, n_open: int) -> dict[str, Any]:
        days = [time.strftime("%Y-%m-%d", time.localtime(_ago_s(n))) for n in range(N_DAYS)]
        by_day = {day: [0, 0.0] for day in reversed(days)}
        off = {id_: self._noted.of(b"", id_, earned=True) for id_ in self._tabs}
        for id_, tab in self._tabs.items():
            if tab.day in by_day:
                by_day[tab.day][0] += tab.earned_ncr - off[id_]
                by_day[tab.day][1] += tab.answer_tokens + tab.prompt_tokens
        return {
            "earned_ncr": sum(tab.earned_ncr for tab in self._tabs.values()) - sum(off.values()),
            "answers": len(self._tabs),
            "pending_answers": n_open,
            "prompt_tokens": round(sum(tab.prompt_tokens for tab in self._tabs.values())),
            "answer_tokens": round(sum(tab.answer_tokens for tab in self._tabs.values())),
            "days": [[day, ncr, round(tokens)] for day, (ncr, tokens) in by_day.items()],
        }


def _tab_of(tab: ClosedTab) -> Tab:
    n_blocks = tab.terms.layer_hi - tab.terms.layer_lo
    day = time.strftime("%Y-%m-%d", time.localtime(moment(tab.closed_ms).timestamp()))
    meter = tab.meter
    prompt = (meter.prefill_tl + meter.cached_tl) / n_blocks
    return Tab(day, tab.amount, prompt, meter.decode_tl / n_blocks)


def _ago_s(n_days: int) -> float:
    return time.time() - 86_400 * n_days
