"""The ledger in a thread of its own: SQLite waits for the disk, callers need not.

In: receipts, from any thread. Out: futures. One thread writes, so calls keep their order; `close`
waits for all of them.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ledger.entries import LogEntry
from ledger.log import Ledger
from ledger.receipts import Receipt
from protocol.errors import ManyhandsError

log = logging.getLogger(__name__)


class LedgerWriter:
    """Open with a function that opens the ledger: it is called on the writing thread."""

    def __init__(self, opened: Callable[[], Ledger]) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        try:
            self._ledger = self._thread.submit(opened).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def keep(self, receipt: Receipt) -> None:
        """Remember an open tab as it would close now, so that a crash loses nothing of it."""
        self._thread.submit(self._keep, receipt)

    def _keep(self, receipt: Receipt) -> None:
        try:
            self._ledger.save_tab(receipt)
        except ManyhandsError as error:
            log.error("an open tab could not be saved", extra={"error": str(error)})

    def file(self, receipt: Receipt) -> "Future[LogEntry]":
        """Append a closed tab to the log."""
        return self._thread.submit(self._ledger.append, receipt)

    def close(self) -> None:
        """Finish what was asked for, then close the ledger."""
        try:
            self._thread.submit(self._ledger.close).result()
        finally:
            self._thread.shutdown()
