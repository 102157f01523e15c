"""What the ledgers of a home hold, for the page: balances, nothing of any prompt."""

from pathlib import Path
from typing import Any

from ledger.homes import find_books
from ledger.views import balance_view
from protocol.errors import ConfigError


def books_of(home: Path) -> list[dict[str, Any]]:
    """The balances of every ledger in this home; none yet is no mistake.

    Raises:
        IntegrityError: a ledger is not what it was.
    """
    try:
        books = find_books(home)
    except ConfigError:
        return []
    return [balance_view(book) for book in books]
