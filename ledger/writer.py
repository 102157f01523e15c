"""The ledger in a thread of its own: SQLite waits for the disk, callers need not.

In: receipts, from any thread. Out: futures. One thread writes, so calls keep their order; receipts
that wait together are appended in one transaction, because it is the disk that takes the time.
`close` waits for all of them.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TypeVar
from weakref import WeakSet

from ledger.entries import LogEntry
from ledger.log import Ledger
from ledger.receipts import Receipt
from ledger.spending import Fault
from protocol.errors import ManyhandsError
from protocol.signing import Envelope

log = logging.getLogger(__name__)

T = TypeVar("T")

_open_writers: "WeakSet[LedgerWriter]" = WeakSet()


def flush_all(timeout_s: float) -> None:
    """Wait, at most so long each, until all that was asked of this process's writers is on disk."""
    for writer in list(_open_writers):
        writer.flush(timeout_s)


class LedgerWriter:
    """Open with a function that opens the ledger: it is called on the writing thread."""

    def __init__(self, opened: Callable[[], Ledger]) -> None:
        self._waiting: list[tuple[Receipt, Future[LogEntry]]] = []
        self._open: dict[Envelope, Receipt] = {}  # tabs that are to be kept, by their terms
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        try:
            self._ledger = self._thread.submit(opened).result()
        except BaseException:
            self._thread.shutdown()
            raise
        _open_writers.add(self)

    def flush(self, timeout_s: float) -> None:
        """Wait until what was asked for so far is done, at most so long."""
        with suppress(TimeoutError, RuntimeError):
            self._thread.submit(lambda: None).result(timeout_s)

    def keep(self, receipt: Receipt) -> None:
        """Remember an open tab as it would close now, so that a crash loses nothing of it."""
        with self._lock:
            is_first = not self._open
            self._open[receipt.terms] = receipt  # of one tab, the latest has all that earlier had
        if is_first:
            self._thread.submit(self._keep_open)

    def file(self, receipt: Receipt) -> "Future[LogEntry]":
        """Append a closed tab to the log."""
        future: Future[LogEntry] = Future()
        with self._lock:
            self._waiting.append((receipt, future))
        self._thread.submit(self._append_waiting)
        return future

    def ask(self, question: "Callable[[Ledger], T]") -> "Future[T]":
        """Something that only reads, once what was asked for before is done."""
        return self._thread.submit(lambda: question(self._ledger))

    def report(self, fault: Fault) -> None:
        """Keep what a counterparty did, provably, beside the log: see `findings.py`."""
        self._thread.submit(self._report, fault)

    def close(self) -> None:
        """Finish what was asked for, then close the ledger."""
        try:
            self._thread.submit(self._ledger.close).result()
        finally:
            self._thread.shutdown()

    def _keep_open(self) -> None:
        with self._lock:
            kept, self._open = self._open, {}
        self._save([*kept.values()])

    def _save(self, tabs: Sequence[Receipt]) -> None:
        try:
            if tabs:
                self._ledger.save_tabs(tabs)
        except ManyhandsError as error:
            log.error("open tabs could not be saved", extra={"error": str(error)})

    def _report(self, fault: Fault) -> None:
        try:
            self._ledger.report(fault)
        except ManyhandsError as error:
            log.error("a fault could not be kept", extra={"error": str(error)})

    def _append_waiting(self) -> None:
        with self._lock:  # of both at once: kept later than it was filed, a tab were open again
            waiting, self._waiting = self._waiting, []
            kept, self._open = self._open, {}
        filed = {receipt.terms for receipt, _ in waiting}
        self._save([receipt for terms, receipt in kept.items() if terms not in filed])
        # Who was cancelled no longer waits, but what it asked for is filed all the same.
        waiting = [(r, f if f.set_running_or_notify_cancel() else Future()) for r, f in waiting]
        try:
            entries = self._ledger.append_all([receipt for receipt, _ in waiting])
        except Exception:  # one of them: each alone then, and each future learns its own fate
            self._save([receipt for terms, receipt in kept.items() if terms in filed])
            for receipt, future in waiting:
                self._append_alone(receipt, future)
        else:
            for entry, (_, future) in zip(entries, waiting, strict=True):
                future.set_result(entry)

    def _append_alone(self, receipt: Receipt, future: "Future[LogEntry]") -> None:
        try:
            future.set_result(self._ledger.append(receipt))
        except Exception as error:
            future.set_exception(error)
