"""The payee's side of settling: it says what its log gives, and takes in what both signed.

In: what a payer asks, whose identity the transport has proven. Out: answers, settlements on disk,
and deposits in the payee's own spend log. Killed at any moment it loses nothing: a proposal is
derived anew, word for word, and what both signed stays on disk until `deposit` takes it in.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from ledger.collecting import collections
from ledger.errors import BadObject
from ledger.owed import owed_by, owed_entries
from ledger.owed_table import OwedTable
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.receipts import Receipt, open_receipt, read_receipt
from ledger.settle_words import (
    MAX_NOTES,
    MAX_PROPOSALS,
    Asked,
    Page,
    Proposed,
)
from ledger.settled import SettledBook, open_settlement, read_settlement
from ledger.settling import OwedTab, Pair, settlements, with_notes
from ledger.spend_books import SpendBooks
from ledger.spend_log import SpendLog
from ledger.spending import Deposit, Release, Settlement
from protocol.canonical import MAX_UINT
from protocol.errors import PeerBusy, PeerRefused
from protocol.signing import Envelope, SigningKey

MAX_OF_A_TAB = 8  # receipts that payers hand over; for a tab that was cut off it takes one


class SettleDesk:
    """Of one payee. It waits for disks: call it on a thread, one at a time."""

    def __init__(
        self,
        directory: Path,
        key: SigningKey,
        swarm_id: bytes,
        policy: Policy,
        epoch: Callable[[], int],
        file: Callable[[Receipt], None],
    ) -> None:
        """
        Args:
            directory: where the receipts, the settlements and the spend log lie.
            epoch: which it is now.
            file: log a receipt, durably; one that is there changes nothing.
        """
        self._directory, self._key, self._swarm_id = directory, key, swarm_id
        self._policy, self._epoch, self._file = policy, epoch, file
        self._log: SpendLog | None = None
        self._tabs = OwedTable(policy, key.public_key)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def spend_log(self) -> SpendLog:
        """Ours, opened once: what it asked so far is read from all its entries.

        Raises:
            DamagedLedger, ForeignLedger, LedgerBusy, ConfigError: it cannot be used.
        """
        if self._log is None:
            self._log = SpendLog.open(self._directory, self._key, self._swarm_id)
        return self._log

    def answer(self, payer: bytes, request: bytes) -> bytes:
        """
        Raises:
            IntegrityError: what is asked or shown does not hold.
            PeerBusy: the epoch is not over, or our log grew meanwhile.
            PeerRefused: there is no such thing.
        """
        asked = Asked.decode(request)
        match asked.kind:
            case 1:
                return self._propose(Pair(payer, self._key.public_key, asked.asset), asked.epoch)
            case 2:
                return self._take_signed(payer, Envelope.decode(asked.data))
            case 3:
                pair = Pair(payer, self._key.public_key, asked.asset)
                tabs = [tab for tab in self._owed(pair) if tab.epoch <= asked.epoch]
                return Page.of(tabs, asked.data).encode()
            case 4:
                return self._take(payer, Receipt.decode(asked.data))
            case _:
                return self._give(payer, asked.data)

    def deposit(self, *, is_dry: bool = False) -> int:
        """Take in what settlements say that were signed by both, and are not in the spend log yet.

        Returns how much that is, in ncr. is_dry: tell only.
        """
        account = self._key.public_key
        with self._settled() as kept:
            ours = [each for each in kept.of(account) if read_settlement(each).payee == account]
        if not ours:
            return 0
        log = self.spend_log()
        fresh = [each for each in ours if not log.holds(each.object_id(self._swarm_id))]
        entries, total = self._deposits(log, fresh)
        if entries and not is_dry:
            log.append(*entries)
        return total

    def is_owed(self) -> bool:
        """Whether any tab promises us anything that an allotment pays for."""
        with LedgerReader.read(self._directory) as reader:
            self._tabs.read_on(reader)
        return bool(self._tabs.of_allotments)

    def collect(self, *, is_dry: bool = False) -> int:
        """Take in what vouchers promise on tabs that are past their grace, unsettled.

        Returns how much that is, in ncr. is_dry: tell only.
        """
        due: dict[bytes, list[OwedTab]] = defaultdict(list)
        with LedgerReader.read(self._directory) as reader:
            self._tabs.read_on(reader)
            for tab in with_notes(self._late(), self._notes()):
                due[tab.allot_oid].append(tab)
            if not due:
                return 0
            log = self.spend_log()
            unpaid = {oid: sum(t.net for t in tabs) - log.asked(oid) for oid, tabs in due.items()}
            unpaid = {oid: amount for oid, amount in unpaid.items() if amount > 0}
            shown = [r for r in self._receipts(reader, due, unpaid) if r is not None]
        entries = [each.seal(self._swarm_id, self._key) for each in collections(shown)]
        entries = [each for each in entries if not log.holds(each.object_id(self._swarm_id))]
        if entries and not is_dry:
            log.append(*entries)
        return sum(unpaid.values()) if entries else 0

    def release(self, books: SpendBooks, *, is_dry: bool = False) -> int:
        """Give back what nobody will claim any more of allotments that ended, a grace ago.

        Of each that our tabs, also open ones, have no claim on that was not taken in. Returns how
        much goes back, in ncr. is_dry: tell only.
        """
        late = self._epoch() - self._policy.grace_epochs - 1  # the last tabs end an epoch later
        ended = {o: a for o, a in books.made_to(self._key.public_key) if a.expires_epoch < late}
        if not ended:
            return 0
        log, entries, total = self.spend_log(), [], 0
        owed = self._owed_of(ended)
        for oid, allotment in ended.items():
            final = log.asked(oid)
            note = Release(allot_oid=oid, claimed_final=final)
            envelope = note.seal(self._swarm_id, self._key)
            if owed.get(oid, 0) <= final and not log.holds(envelope.object_id(self._swarm_id)):
                entries.append(envelope)
                total += allotment.amount - min(final, allotment.amount)
        if entries and not is_dry:
            log.append(*entries)
        return total

    # --- within ----------------------------------------------------------------------------------

    def _late(self) -> list[OwedTab]:
        """Tabs that are past their grace, of each allotment that promises more than we took in.

        When a tab ended its oldest receipt says: what is promised on top of it puts nothing off.
        """
        found, late = [], self._epoch() - self._policy.grace_epochs
        for oid, rows in self._tabs.of_allotments.items():
            tabs = [row.tab for row in rows.values() if row.since < late]
            if tabs and sum(tab.amount for tab in tabs) > self.spend_log().asked(oid):
                found += tabs
        return found

    def _owed_of(self, allots: Collection[bytes]) -> dict[bytes, int]:
        """What our tabs promise of these allotments; of one with an open tab, without end."""
        owed: dict[bytes, int] = defaultdict(int)
        with LedgerReader.read(self._directory) as reader:
            self._tabs.read_on(reader)
            cited = (self._tabs.of_allotments.get(oid, {}) for oid in allots)
            ours = [row.tab for rows in cited for row in rows.values()]
            for tab in with_notes(ours, self._notes()):
                owed[tab.allot_oid] += tab.net
            for receipt in reader.open_tabs():
                if (oid := read_receipt(receipt).terms.allot_oid) is not None:
                    owed[oid] = MAX_UINT
        return {oid: amount for oid, amount in owed.items() if oid in allots}

    def _settled(self) -> SettledBook:
        return SettledBook.open(self._directory, self._swarm_id)

    def _notes(self) -> dict[bytes, int]:
        with self._settled() as kept:
            return kept.notes(self._key.public_key)

    def _owed(self, pair: Pair) -> list[OwedTab]:
        with LedgerReader.read(self._directory) as reader:
            self._tabs.read_on(reader)
        return with_notes(self._tabs.between(pair), self._notes())

    def _derived(self, pair: Pair, epoch: int) -> tuple[list[Settlement], list[OwedTab]]:
        if epoch >= self._epoch():
            raise PeerBusy(
                "",
                f"epoch {epoch} is not over: by the swarm's witnesses it is {self._epoch()} now",
                hint="settle when it is",
            )
        tabs = self._owed(pair)
        return settlements(pair, tabs, epoch), tabs

    def _propose(self, pair: Pair, epoch: int) -> bytes:
        made, tabs = self._derived(pair, epoch)
        noted = [(tab.session_id, tab.credit) for tab in tabs if tab.credit and tab.epoch <= epoch]
        if len(made) > MAX_PROPOSALS or len(noted) > MAX_NOTES:
            raise PeerRefused("", "more allotments or credit in one epoch than can be settled")
        signed = tuple(each.seal(self._swarm_id, self._key) for each in made)
        return Proposed(signed, tuple(noted)).encode()

    def _take_signed(self, payer: bytes, envelope: Envelope) -> bytes:
        signed = open_settlement(envelope, self._swarm_id)
        pair = Pair(signed.payer, signed.payee, signed.asset)
        if (signed.payer, signed.payee) != (payer, self._key.public_key):
            raise BadObject("a settlement between others is not ours to keep")
        if signed not in self._derived(pair, signed.epoch)[0]:
            # We signed it: a receipt of its epoch was filed between the two questions.
            raise PeerBusy("", "our log gives another settlement by now", hint="settle again")
        with self._settled() as kept:
            kept.add(envelope)
        return envelope.object_id(self._swarm_id)

    def _deposits(self, log: SpendLog, fresh: Iterable[Envelope]) -> tuple[list[Envelope], int]:
        """The entries for these settlements, each followed by what it adds to the ones before."""
        asked: dict[bytes, int] = {}
        entries: list[Envelope] = []
        total = 0
        for envelope in fresh:
            added = 0
            for oid, cumulative in read_settlement(envelope).claims:
                before = asked.get(oid, log.asked(oid))
                asked[oid] = max(before, cumulative)
                added += asked[oid] - before
            if added:
                deposit = Deposit(settle_oid=envelope.object_id(self._swarm_id), amount=added)
                entries += [envelope, deposit.seal(self._swarm_id, self._key)]
                total += added
        return entries, total

    def _take(self, payer: bytes, receipt: Receipt) -> bytes:
        tab = open_receipt(receipt, self._swarm_id)
        if (tab.terms.payer, tab.terms.payee) != (payer, self._key.public_key):
            raise BadObject("a receipt between others is not ours to log")
        if self._policy.epoch_of(tab.closed_ms) >= self._epoch():  # we would wait for it to collect
            raise BadObject("a receipt is handed over when the epoch that it is dated in is over")
        with LedgerReader.read(self._directory) as reader:
            self._tabs.read_on(reader)
        known, found = self._tabs.get(tab.terms.session_id), owed_by(tab, self._policy)
        if found is None or (known and known.n_receipts >= MAX_OF_A_TAB):
            raise PeerRefused("", "of this tab there are receipts enough here, or none is needed")
        if known is None or known.tab.rank < found.rank:
            self._file(receipt)
        return b""

    def _give(self, payer: bytes, session_id: bytes) -> bytes:
        with LedgerReader.read(self._directory) as reader:
            best = best_receipt(reader, self._policy, session_id)
            if best is not None and open_receipt(best, self._swarm_id).terms.payer == payer:
                return best.encode()
        raise PeerRefused("", f"no receipt of tab {session_id.hex()[:16]} is here")

    def _receipts(
        self, reader: LedgerReader, due: Mapping[bytes, list[OwedTab]], allots: Iterable[bytes]
    ) -> Iterable[Receipt | None]:
        """Those of the tabs due on these allotments; None: it was erased."""
        for tab in (tab for oid in allots for tab in due[oid]):
            row = self._tabs.get(tab.session_id)
            id_ = reader.id_at(row.index) if row else None
            yield reader.receipt(id_) if row and id_ and not reader.is_pruned(row.index) else None


def best_receipt(reader: LedgerReader, policy: Policy, session_id: bytes) -> Receipt | None:
    """Of a tab, the receipt that promises most, if it was not erased."""
    found = [
        (tab.rank, index)
        for index, _, tab in owed_entries(reader, policy, session_id=session_id)
        if not reader.is_pruned(index)
    ]
    id_ = reader.id_at(max(found)[1]) if found else None
    return reader.receipt(id_) if id_ else None
