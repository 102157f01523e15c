"""Accounting rows for entries that have none: those that an older version of Manyhands logged.

In: the database of a log, as its owner opens it. Out: rows, written newest entry first, some at a
time, so that others of the home are not kept waiting. A receipt is believed by the digest that its
leaf commits to: every signature in it was checked when it was logged. Entries beyond `most`, and
those whose receipt is not what was logged, stay without; statements read their receipts.
"""

import logging
from collections.abc import Iterator
from hashlib import sha256

from ledger.line_rows import COLUMNS, row_of
from ledger.receipts import Receipt, read_receipt
from ledger.store import Row, Store
from protocol.errors import IntegrityError, OutOfMemory

log = logging.getLogger(__name__)

INSERT_LINE = f"INSERT INTO line VALUES ({', '.join('?' * (1 + len(COLUMNS)))})"
MOST_ROWS = 20_000  # at one opening, which they make some seconds longer
BATCH_ROWS = 1000

_LACKING = """
SELECT entry.idx, digest, salt, receipt FROM entry JOIN body ON body.idx = entry.idx
WHERE entry.idx < ? AND NOT EXISTS (SELECT 1 FROM line WHERE line.idx = entry.idx)
ORDER BY entry.idx DESC LIMIT ?
"""


def fill_lines(store: Store, most: int = MOST_ROWS) -> None:
    """Look at no more than `most` entries that have no row, and write those rows."""
    try:
        _fill(store, most)
    except OutOfMemory as error:  # rows save time, a ledger without them loses nothing
        log.warning("no room for accounting rows", extra={"reason": str(error)})


def _fill(store: Store, most: int) -> None:
    (n_entries,), (n_lines,) = (
        store.execute(f"SELECT count(*) FROM {table}")[0] for table in ("entry", "line")
    )
    below, looked_at = 2**63 - 1, 0
    while n_lines < n_entries and looked_at < most:
        with store.transaction(durable=False):
            found = store.execute(_LACKING, (below, min(BATCH_ROWS, most - looked_at)))
            store.execute_many(INSERT_LINE, _rows_of(found))
        if not found:
            break
        below, looked_at = found[-1][0], looked_at + len(found)
        fields = {"entries": looked_at, "of": n_entries - n_lines, "at_most_now": most}
        log.info("accounting rows written for receipts of an older version", extra=fields)


def _rows_of(found: list[Row]) -> Iterator[Row]:
    for index, digest, salt, data in found:
        try:
            if sha256(salt + data).digest() != digest:
                raise IntegrityError("the receipt and its salt do not give the digest in the leaf")
            yield index, *row_of(read_receipt(Receipt.decode(data)))
        except (IntegrityError, TypeError) as error:  # left for `verify` to name
            log.warning(
                "no accounting row for an entry", extra={"entry": index, "reason": str(error)}
            )
