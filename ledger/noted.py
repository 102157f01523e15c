"""What payees took off tabs, as a home's books of all spend logs have it: so much less is owed.

In: a ledger and the books beside it. Out: of a tab, how much its payee's credit notes take off.
What was taken in before no note gives back. In swarms where nobody issues credit there are no spend
logs, and nothing is taken off.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ledger.balances import Claim
from ledger.homes import Book
from ledger.owed_table import OwedTable
from ledger.places import is_there
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.settling import with_notes
from ledger.spend_books import FILE_NAME, SpendBooks
from ledger.swarms import policy_at

Tables = dict[bytes, OwedTable]  # by payee: what one ledger's receipts say, read as it grows


@dataclass(frozen=True, slots=True)
class Noted:
    """own: the account whose ledger it is. off: by payee and tab, in ncr."""

    own: bytes = b""
    off: Mapping[tuple[bytes, bytes], int] = field(default_factory=dict)

    def of(self, counterparty: bytes, tab_id: bytes, *, earned: bool) -> int:
        return self.off.get((self.own if earned else counterparty, tab_id), 0) if self.off else 0

    def less(self, claims: Iterable[Claim]) -> Iterator[Claim]:
        """The same, each by what is taken off its tab lower."""
        for claim in claims:
            off = self.off.get((claim.payee, claim.session_id), 0)
            yield replace(claim, amount=max(0, claim.amount - off)) if off else claim


NOTHING_NOTED = Noted()


def noted_at(book: Book, reader: LedgerReader, known: Tables | None = None) -> Noted:
    """Of a home's ledger. known: see `notes_that_count`.

    Raises:
        DamagedLedger, ForeignLedger, ConfigError: its books cannot be read.
    """
    policy = policy_at(book.directory.parent)
    if not policy.issuers or not is_there(book.directory, FILE_NAME):
        return Noted(reader.account)
    with SpendBooks.open(book.directory, reader.swarm_id, policy.quorum()) as books:
        return Noted(reader.account, notes_that_count(reader, books, policy, known))


def notes_that_count(
    reader: LedgerReader, books: SpendBooks, policy: Policy, known: Tables | None = None
) -> dict[tuple[bytes, bytes], int]:
    """By payee and tab, what is taken off the tabs in a ledger: off all tabs of an allotment
    together no more than they promise beyond what the payee has taken in already.

    known: what was read of this ledger by payee, for who asks again: then only what was logged
    since is read.

    Who lacks receipts of an allotment, as an account that lets other keys pay may, knows of less
    that was promised, and so of less that comes off.
    """
    told: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
    for (payee, tab_id), amount in books.all_notes().items():
        told[payee][tab_id] = amount
    found, tables = {}, {} if known is None else known
    for payee, notes in told.items():
        if payee not in tables:
            if reader.tabs_of(payee).isdisjoint(notes):
                continue  # no receipt need be read
            tables[payee] = OwedTable(policy, payee)
        tables[payee].read_on(reader)
        tabs = tables[payee].tabs()
        left: defaultdict[bytes, int] = defaultdict(int)
        for tab in tabs:
            left[tab.allot_oid] += tab.amount
        for oid in left:
            made = books.allotted(oid)
            left[oid] = max(0, left[oid] - (made.deposited if made else 0))
        for tab in sorted(with_notes(tabs, notes)):
            if off := min(tab.credit, left[tab.allot_oid]):
                left[tab.allot_oid] -= off
                found[payee, tab.session_id] = off
    return found
