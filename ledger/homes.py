"""Which ledgers a home holds: one of its node, one of the clients that share it.

In: the home's directory. Out: readers and accounts. Whose a ledger should be is said by the key
beside it; a ledger that was copied without its key says itself whose it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ledger.places import is_there
from ledger.reader import FILE_NAME, HEAD_NAME, LedgerReader
from protocol.errors import ConfigError, UsageError
from protocol.key_files import read_public_key

ROLES = ("node", "client")
KEY_NAME = "identity.key"


@dataclass(frozen=True, slots=True)
class Book:
    """One of a home's ledgers."""

    role: str
    directory: Path

    def reader(self) -> LedgerReader:
        return LedgerReader.read(self.directory)

    def account(self) -> bytes | None:
        """Who must own it, when the key says so."""
        key = self.directory / KEY_NAME
        return read_public_key(key) if key.exists() else None


def find_books(home: Path, roles: Sequence[str] = ROLES) -> list[Book]:
    """The ledgers in a home; also one that has lost its database but not its checkpoint.

    Raises:
        ConfigError: there is none.
    """
    books = [Book(role, home / role) for role in roles]
    present = [
        book
        for book in books
        if is_there(book.directory, FILE_NAME) or (book.directory / HEAD_NAME).exists()
    ]
    if not present:
        raise ConfigError(
            f"there is no {' or '.join(roles)} ledger in {home}",
            hint="`manyhands serve` or `manyhands generate` with this --home makes one",
        )
    return present


def find_receipt(books: Sequence[Book], prefix: str) -> tuple[Book, bytes]:
    """The one receipt whose id begins with `prefix`, in whichever ledger it is.

    Raises:
        UsageError: none does, or several do.
    """
    if not prefix:
        raise UsageError("a receipt is named by its id, or by how that begins")
    try:
        bytes.fromhex(prefix + "0" * (len(prefix) % 2))
    except ValueError as error:
        raise UsageError(f"a receipt id is hexadecimal, not {prefix!r}") from error
    found: dict[bytes, Book] = {}
    for book in books:
        with book.reader() as reader:
            for entry in reader.entries():
                if entry.receipt_id.hex().startswith(prefix.lower()):
                    found.setdefault(entry.receipt_id, book)
    if not found:
        raise UsageError(
            f"no receipt begins with {prefix}", hint="list them: manyhands ledger statement"
        )
    if len(found) > 1:
        raise UsageError(f"{len(found)} receipts begin with {prefix}", hint="give more digits")
    id_, book = found.popitem()
    return book, id_
