"""An account's own log of receipts: append-only, signed, and open to proof.

In: receipts. Out: entries and proofs. After each append the tree head is signed, and a copy of it
is kept outside the database, so that a database put back to an older state is noticed. Several
processes of one home share a log; one that dies leaves its open tabs to be closed by the next.
Whether everything still holds is asked of `verify.py`.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from ledger.batch import Batch
from ledger.beside import begun
from ledger.entries import LogEntry
from ledger.errors import DamagedLedger
from ledger.filling import fill_lines
from ledger.findings import Findings
from ledger.owners import Owner, if_gone
from ledger.reader import FILE_NAME, HEAD_NAME, LedgerReader
from ledger.receipts import Receipt, open_receipt, receipt_id
from ledger.spending import Fault
from ledger.store import SCHEMA_VERSION, Store
from ledger.tree_log import OwnLog
from protocol.errors import IntegrityError, UsageError
from protocol.signing import SigningKey

log = logging.getLogger(__name__)

TIDY_EVERY = 32  # entries, since it waits for the disk three times: until then they lie beside it


class Ledger(LedgerReader, OwnLog):
    """The log of the account whose key we hold. Use `open`, and `close` in the end."""

    def __init__(self, directory: Path, store: Store, key: SigningKey, swarm_id: bytes) -> None:
        OwnLog.__init__(self, directory, store, key, swarm_id)
        self._owner = Owner(directory)

    @classmethod
    def open(cls, directory: Path, key: SigningKey, swarm_id: bytes) -> Self:
        """Open or begin the account's log, and close the tabs that ended processes left open.

        Raises:
            DamagedLedger: the database is truncated or corrupt, or older than the last checkpoint.
            ForeignLedger: it belongs to another identity or swarm.
            LedgerBusy: another process has held it for more than five seconds.
            ConfigError: the directory cannot be written.
        """
        with begun(directory, FILE_NAME, HEAD_NAME) as store:
            ledger = cls(directory, store, key, swarm_id)
            ledger._make_sure(schema=bytes([SCHEMA_VERSION]))
            fill_lines(store)
            ledger._close_abandoned()
        return ledger

    def close(self) -> None:
        """Close our tabs that are still open into receipts, and let go of the file."""
        try:
            self._close_tabs_of(self._owner.name)
            self._owner.release()
        finally:
            self._store.close()

    # --- writing ---------------------------------------------------------------------------------

    def save_tab(self, receipt: Receipt) -> None:
        """Keep an open tab as it would close now; a crash from here on loses nothing of it."""
        self.save_tabs([receipt])

    def save_tabs(self, receipts: Sequence[Receipt]) -> None:
        """Several at once: all of them are kept, or none."""
        self._owner.hold()
        rows = [(each.session_id, self._owner.name, each.encode()) for each in receipts]
        with self._store.transaction(durable=False):
            self._store.execute_many(
                "INSERT INTO open_tab VALUES (?, ?, ?) ON CONFLICT (session_id) DO UPDATE"
                " SET owner = excluded.owner, receipt = excluded.receipt",
                rows,
            )

    def append(self, receipt: Receipt) -> LogEntry:
        """Log a closed tab; see `append_all`."""
        return self.append_all([receipt])[0]

    def append_all(self, receipts: Sequence[Receipt]) -> list[LogEntry]:
        """Log closed tabs in one transaction and sign the new tree head. Repeats change nothing.

        Raises:
            BadReceipt: a receipt does not hold; none is logged.
            DamagedLedger: the tree does not match its last checkpoint, so we sign no more.
        """
        checked = [(receipt.encode(), open_receipt(receipt, self.swarm_id)) for receipt in receipts]
        for _, tab in checked:
            if self.account not in tab.terms.parties:
                raise UsageError("a receipt between others is not ours to log")
        with self._store.transaction():
            batch = Batch(self._sound_size(), self._node_at)
            entries = []
            for data, tab in checked:
                id_ = receipt_id(data, self.swarm_id)
                entries.append(self._find(id_) or batch.add(id_, data, tab))
            if batch:
                batch.write(self._store)
                self._sign(batch.size, batch.node_at)
        if batch:
            self._beside.keep(batch.size)
            if batch.size % TIDY_EVERY < len(batch):
                self._store.tidy()
        return entries

    def report(self, fault: Fault) -> None:
        """Keep evidence against somebody beside this log, as told by us.

        Raises:
            IntegrityError: it does not convince.
        """
        with Findings.open(self.directory, self.swarm_id) as findings:
            told = fault.seal(self.swarm_id, self._key)
            findings.add(told, trusted=told.signers)

    # --- within ----------------------------------------------------------------------------------

    @staticmethod
    def _stored(note: str) -> bytes:
        return note.encode()

    def _close_abandoned(self) -> None:
        for (owner,) in self._store.execute("SELECT DISTINCT owner FROM open_tab"):
            if_gone(self.directory, owner, partial(self._close_tabs_of, owner))

    def _close_tabs_of(self, owner: str) -> None:
        """Turn an owner's open tabs into receipts, each with the last voucher that was saved."""
        for session_id, data in self._store.execute(
            "SELECT session_id, receipt FROM open_tab WHERE owner = ?", (owner,)
        ):
            try:
                self.append(Receipt.decode(data))
            except DamagedLedger:
                raise
            except IntegrityError as error:  # left where it is, for `verify` to name
                log.warning(
                    "open tab cannot be closed",
                    extra={"tab": session_id.hex(), "reason": str(error)},
                )
