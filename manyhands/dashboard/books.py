"""What the ledgers of a home hold, for the page: balances, the latest tabs, and whether all of it
holds. Nothing of any prompt is in them.

In: a home. Out: plain values. A ledger is followed: each of its entries is read once, however often
somebody asks. One that is no longer what it was, since an older copy took its place, is read anew.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.balances import Fold
from ledger.homes import Book, find_books
from ledger.reader import LedgerReader
from ledger.verify import verify_ledger
from ledger.views import balances_view, recent_view, report_view
from protocol.errors import ConfigError

MOST_TABS = 50


@dataclass(slots=True)
class Followed:
    """One ledger as far as it was read."""

    fold: Fold
    n_read: int = 0
    last_id: bytes = b""  # of the receipt that was read last
    view: dict[str, Any] = field(default_factory=dict)
    view_of: tuple[int, int] = (-1, -1)  # its entries and open tabs then


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

    def nets_ncr(self) -> dict[str, int]:
        """Earned less spent, by role.

        Raises:
            IntegrityError: as `balances`.
        """
        nets = {}
        for book in self._books():
            with book.reader() as reader:
                rows = self._follow(book, reader).fold.balances()
            nets[book.role] = sum(row.net for row in rows)
        return nets

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
            size = (known.n_read, reader.n_open_tabs())
            if known.view_of != size:
                told = balances_view(book, reader, known.fold.balances())
                known.view = {**told, **recent_view(book, MOST_TABS)}
                known.view_of = size
        return known.view

    def _follow(self, book: Book, reader: LedgerReader) -> Followed:
        known = self._followed.get(book.directory)
        if known is None or not _continues(known, reader):
            known = self._followed[book.directory] = Followed(Fold(reader.account))
        for entry in reader.entries(known.n_read):
            known.fold.add(entry.claim())
            known.n_read, known.last_id = entry.index + 1, entry.receipt_id
        return known


def _continues(known: Followed, reader: LedgerReader) -> bool:
    """Whether what was read is what the ledger begins with; its last entry stands for all."""
    if known.fold.account != reader.account:
        return False
    return not known.n_read or reader.id_at(known.n_read - 1) == known.last_id
