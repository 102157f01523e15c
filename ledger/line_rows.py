"""Accounting rows: what a statement says of an entry, kept beside it so that no receipt is read.

In: a tab as its receipt gives it, or a row of a database. Out: the other of the two. A row is
written with its entry and is a copy: the tree commits to receipts alone, and `verify.py` asks
whether each row is what its receipt gives. Logs from before there were rows are read from their
receipts, and get their rows when their owner opens them (`log.py`).
"""

from functools import lru_cache
from typing import Any

from ledger.lines import Line
from ledger.meter import Meter, Rates
from ledger.receipts import ClosedTab
from ledger.store import Row, Store
from protocol.canonical import decode, encode
from protocol.constraints import Constraints
from protocol.errors import IntegrityError, PeerError

COLUMNS = (
    "chain_id",
    "closed_ms",
    "manifest",
    "layer_lo",
    "layer_hi",
    "execution",
    "constraints",
    "rates",
    *Meter.__slots__,
)
ENTRY_COLUMNS = ("idx", "receipt_id", "session_id", "epoch", "payer", "payee", "asset", "net")
N_ENTRY = len(ENTRY_COLUMNS)
_ENTRY = (int, bytes, bytes, int, bytes, bytes, bytes, int)
_LINE = (bytes, int, bytes, int, int, str, bytes, bytes, *(int for _ in Meter.__slots__))
_WHOLE = _ENTRY + _LINE


def row_of(tab: ClosedTab) -> Row:
    """In the order of COLUMNS."""
    terms = tab.terms
    return (
        terms.chain_id,
        tab.closed_ms,
        terms.manifest,
        terms.layer_lo,
        terms.layer_hi,
        tab.offer.exec_profile,
        terms.constraints,
        encode(tab.offer.rates.to_fields()),
        *tab.meter.to_fields(),
    )


def check_types(row: Row) -> None:
    """What a database gives is what was put into it, or it is damaged.

    row: an entry's ENTRY_COLUMNS, and COLUMNS unless it lacks them.
    """
    types = tuple(map(type, row))
    if types not in (_WHOLE, _ENTRY):
        raise IntegrityError(f"the rows of entry {row[0]!r} hold values of other types")


def line_of(account: bytes, row: Row) -> Line:
    """The line that `Line.of` makes of the receipt.

    row: ENTRY_COLUMNS and COLUMNS.
    """
    index, id_, tab_id, epoch, payer, payee, asset, net, *rest = row
    chain_id, closed_ms, manifest, lo, hi, execution, constraints, rates, *meter = rest
    earned = payee == account
    counterparty = payer if earned else payee
    return Line._make(  # in the order of its fields: by their names, it takes twice as long
        (account, index, id_, tab_id, chain_id, epoch, closed_ms, earned, counterparty,
         manifest, lo, hi, execution, _constraints(constraints), Meter(*meter), _rates(rates),
         asset, net)
    )  # fmt: skip


def has_line_rows(store: Store) -> bool:
    """An older log has no table for them until its owner opens it."""
    return store.has_table("line")


@lru_cache(maxsize=256)
def _rates(data: bytes) -> Rates:
    """One object for the many tabs of an offer."""
    return Rates.from_fields(decode(data))


@lru_cache(maxsize=256)
def _constraints(data: bytes) -> dict[str, Any]:
    try:
        return Constraints.decode(data).to_json()
    except PeerError as error:  # nobody else's fault here
        raise IntegrityError(f"a row holds constraints that are none: {error}") from error
