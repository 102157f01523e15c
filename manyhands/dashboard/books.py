"""What the ledgers of a home hold, for the page: balances, the latest tabs, and whether all of it
holds. Nothing of any prompt is in them.

In: a home. Out: plain values. A ledger is followed: each of its entries is read once, however often
somebody asks. One that is no longer what it was, since an older copy took its place, is read anew.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ledger.balances import Fold
from ledger.exports import write_csv, write_focus, write_jsonl
from ledger.homes import Book, find_books
from ledger.lines import moment
from ledger.noted import Noted, Tables, noted_at
from ledger.reader import LedgerReader
from ledger.statement_html import statement_html
from ledger.statements import make_statement
from ledger.verify import verify_ledger
from ledger.views import balances_view, kept_by, recent_view, report_view, statement_view
from ledger.worth import Worth, worth_at
from manyhands.dashboard.ledger_sections import sections_of
from manyhands.home import Home
from protocol.clock import wall_ms
from protocol.errors import ConfigError, UsageError

MOST_TABS, N_DAYS = 50, 14
Tab = tuple[bytes, bytes]  # its payee, its id
Parts = tuple[tuple[int, int], ...]  # of a tab: a day, and what it came to more on it
KINDS = {"csv": "text/csv", "jsonl": "application/jsonl", "focus": "text/csv", "html": "text/html"}


@dataclass(slots=True)
class Followed:
    """One ledger as far as it was read."""

    fold: Fold
    n_read: int = 0
    last_id: bytes = b""  # of the receipt that was read last
    view: dict[str, Any] = field(default_factory=dict)
    view_of: tuple[int, int, int] = (-1, -1, -1)  # its entries, open tabs, credit notes then
    days: dict[int, list[int]] = field(default_factory=dict)  # earned and spent, by day since 1970
    parts: dict[Tab, tuple[tuple[int, int], ...]] = field(
        default_factory=dict
    )  # day, what it added
    tables: Tables = field(default_factory=dict)  # for credit notes


class HomeBooks:
    """Of one home; ask from one thread at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._followed: dict[Path, Followed] = {}

    def balances(self) -> list[dict[str, Any]]:
        """Of every ledger, with its latest tabs; none yet is no mistake.

        Raises:
            IntegrityError: a ledger is not what it was.
        """
        return [self._view(book) for book in self._books()]

    def sums_ncr(self) -> dict[str, tuple[int, int]]:
        """Earned and spent, by role.

        Raises:
            IntegrityError: as `balances`.
        """
        sums = {}
        for book in self._books():
            with book.reader() as reader:
                known = self._follow(book, reader)
                rows = known.fold.balances(noted_at(book, reader, known.tables).off)
            sums[book.role] = sum(row.earned for row in rows), sum(row.spent for row in rows)
        return sums

    def verified(self) -> list[dict[str, Any]]:
        """Everything derived again, as `manyhands ledger verify` does; what does not hold is told,
        not raised."""
        return [
            report_view(book.role, verify_ledger(book.directory, book.account()))
            for book in self._books()
        ]

    def _books(self) -> list[Book]:
        try:
            return find_books(self._home)
        except ConfigError:
            return []

    def _view(self, book: Book) -> dict[str, Any]:
        with book.reader() as reader:
            known = self._follow(book, reader)
            noted = noted_at(book, reader, known.tables)
            size = (known.n_read, reader.n_open_tabs(), sum(noted.off.values()))
            if known.view_of != size:
                told = balances_view(book, reader, known.fold.balances(noted.off))
                known.view = {**told, **recent_view(book, MOST_TABS)}
                known.view_of = size
            sections = sections_of(Home.at(self._home), book, reader)
        return {**known.view, "days": _days(known, noted), "sections": sections}

    def exported(self, role: str, kind: str) -> Iterator[str]:
        """A statement of one ledger: `csv`, `jsonl`, `focus` or `html`.

        Raises:
            UsageError: there is no such ledger, or no such kind.
        """
        book = next((book for book in self._books() if book.role == role), None)
        if book is None or kind not in KINDS:
            raise UsageError(f"no ledger of a {role[:20]} as {kind[:20]}")
        worth = worth_at(self._home)
        if kind == "html":
            made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
            return statement_html([statement_view(book, worth=worth)], worth or Worth(), made)
        with book.reader() as reader:
            said = make_statement(kept_by(reader), noted=noted_at(book, reader))
        if kind == "focus":
            return write_focus(said.lines, worth, said.credited)
        write = write_csv if kind == "csv" else write_jsonl
        return write(said.lines, said.credited)

    def _follow(self, book: Book, reader: LedgerReader) -> Followed:
        known = self._followed.get(book.directory)
        if known is None or not _continues(known, reader):
            known = self._followed[book.directory] = Followed(Fold(reader.account))
        for entry in reader.entries(known.n_read):
            claim = entry.claim(reader.account)
            more = known.fold.add(claim)
            known.days.setdefault(entry.epoch, [0, 0])[claim.payee != reader.account] += more
            tab = claim.payee, claim.session_id
            known.parts[tab] = (*known.parts.get(tab, ()), (entry.epoch, more))
            known.n_read, known.last_id = entry.index + 1, entry.receipt_id
        return known


def _days(known: Followed, noted: Noted) -> list[list[Any]]:
    """Earned and spent on each of the last days of UTC, the oldest first: less what is taken off
    tabs, off what each came to last.
    """
    last = wall_ms() // 86_400_000
    sums = {day: [*known.days.get(day, (0, 0))] for day in range(last - N_DAYS + 1, last + 1)}
    for tab, off in noted.off.items():
        for day, more in reversed(known.parts.get(tab, ())):
            less = min(off, more)
            off -= less
            if day in sums:
                sums[day][tab[0] != noted.own] -= less
    return [[moment(day * 86_400_000).date().isoformat(), *both] for day, both in sums.items()]


def _continues(known: Followed, reader: LedgerReader) -> bool:
    """Whether what was read is what the ledger begins with; its last entry stands for all."""
    if known.fold.account != reader.account:
        return False
    return not known.n_read or reader.id_at(known.n_read - 1) == known.last_id
