"""What the ledgers of a home hold, for the page: balances, the latest tabs, and whether all of it
holds. Nothing of any prompt is in them.

In: a home. Out: plain values. What was read of a ledger is told again until it has grown.
"""

from pathlib import Path
from typing import Any

from ledger.homes import Book, find_books
from ledger.verify import verify_ledger
from ledger.views import balance_view, recent_view, report_view
from protocol.errors import ConfigError

MOST_TABS = 50


class HomeBooks:
    """Of one home; ask from one thread at a time."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._read: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}

    def balances(self) -> list[dict[str, Any]]:
        """Of every ledger, with its latest tabs; none yet is no mistake.

        Raises:
            IntegrityError: a ledger is not what it was.
        """
        return [self._view(book) for book in self._books()]

    def verified(self) -> list[dict[str, Any]]:
        """Everything derived again, as `manyhands ledger verify` does; what does not hold is told,
        not raised."""
        return [
            report_view(book, verify_ledger(book.directory, book.account()))
            for book in self._books()
        ]

    def _books(self) -> list[Book]:
        try:
            return find_books(self._home)
        except ConfigError:
            return []

    def _view(self, book: Book) -> dict[str, Any]:
        with book.reader() as reader:
            size = (len(reader), len(reader.open_tabs()))
        known = self._read.get(book.directory)
        if known is None or known[0] != size:
            known = size, {**balance_view(book), **recent_view(book, MOST_TABS)}
            self._read[book.directory] = known
        return known[1]
