"""The payer's side of settling: it asks its payee, compares, and signs what its own log gives.

In: answers of one payee. Out: what to ask next, and in the end settlements that both signed. Where
the two logs differ, each hands the other the receipt that says more: a voucher is the payer's own
signature, so that nothing is to be argued about. It needs no transport: `steps` yields requests.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from ledger.errors import BadObject
from ledger.owed import owed_between
from ledger.policy import Policy
from ledger.reader import LedgerReader
from ledger.receipts import Receipt, open_receipt
from ledger.settle_desk import best_receipt
from ledger.settle_words import GIVE, PROPOSE, SIGNED, TABS, TAKE, Asked, Page, Proposed
from ledger.settled import SettledBook, read_settlement
from ledger.settling import (
    Difference,
    OwedTab,
    Pair,
    check_agreed,
    check_same,
    differences,
    settlements,
    with_notes,
)
from ledger.spending import Settlement
from protocol.signing import Envelope, SigningKey, add_signature

Steps = Generator[bytes, bytes, list[Settlement]]
MAX_PAGES = 250  # a hundred thousand tabs of one pair
MAX_HANDED = 1000  # receipts that go either way in one visit; the next one goes on


class Visit:
    """Of one payee, about one epoch. `steps` waits for disks between two requests."""

    def __init__(
        self,
        directory: Path,
        key: SigningKey,
        swarm_id: bytes,
        policy: Policy,
        pair: Pair,
        epoch: int,
        file: Callable[[Receipt], None],
    ) -> None:
        self._directory, self._key, self._swarm_id = directory, key, swarm_id
        self._policy, self._pair, self._epoch, self._file = policy, pair, epoch, file

    def steps(self) -> Steps:
        """Send what it yields, send it what came back; its value is what was settled.

        Raises:
            NotAgreed: the two logs differ, and how.
            IntegrityError: the payee proposes what our log does not give, or something malformed.
        """
        for is_last in (False, True):
            told = yield Asked(PROPOSE, self._epoch, self._pair.asset).encode()
            proposed = Proposed.decode(told)
            tabs = with_notes(self._tabs(), dict(proposed.notes))
            derived = settlements(self._pair, tabs, self._epoch)
            if [read_settlement(each) for each in proposed.settlements] == derived:
                return (yield from self._sign(proposed))
            theirs = yield from self._their_tabs()
            found = differences((t for t in tabs if t.epoch <= self._epoch), theirs)
            if is_last or not (yield from self._mended(found)):
                check_agreed(found)
                shown = [read_settlement(each) for each in proposed.settlements]
                for ours, offered in zip(derived, shown, strict=False):
                    check_same(ours, offered)
                raise BadObject("the payee proposes other settlements than its own tabs give")
        raise AssertionError

    def _tabs(self) -> list[OwedTab]:
        with LedgerReader.read(self._directory) as reader:
            return owed_between(reader, self._policy, self._pair)

    def _sign(self, proposed: Proposed) -> Steps:
        """What we sign is on disk here before it leaves: we shall not be asked for it again."""
        done = []
        with SettledBook.open(self._directory, self._swarm_id) as kept:
            if proposed.notes:
                kept.note(self._pair.payee, proposed.notes)
            for envelope in proposed.settlements:
                both = self._both(envelope)
                done.append(kept.add(both))
                answered = yield Asked(SIGNED, data=both.encode()).encode()
                if answered != both.object_id(self._swarm_id):
                    raise BadObject("the payee does not say which settlement it has")
        return done

    def _both(self, envelope: Envelope) -> Envelope:
        settlement = Settlement.open(envelope, self._swarm_id, self._pair.payee)
        assert settlement.payer == self._key.public_key
        return add_signature(envelope, self._swarm_id, self._key)

    def _their_tabs(self) -> Generator[bytes, bytes, list[OwedTab]]:
        found: list[OwedTab] = []
        for _ in range(MAX_PAGES):
            after = found[-1].session_id if found else b""
            told = yield Asked(TABS, self._epoch, self._pair.asset, after).encode()
            page = Page.decode(told)
            if page.tabs and page.tabs[0].session_id <= after:
                raise BadObject("a page of tabs goes on from where the last one ended")
            found += page.tabs
            if page.is_last:
                return found
        raise BadObject(f"more than {MAX_PAGES} pages of tabs")

    def _mended(self, found: Sequence[Difference]) -> Generator[bytes, bytes, bool]:
        """Hand over and take what is missing on either side; whether anything was."""
        n_handed = 0
        for each in found[:MAX_HANDED]:
            if each.is_ours_higher:
                with LedgerReader.read(self._directory) as reader:
                    receipt = best_receipt(reader, self._policy, each.session_id)
                if receipt is not None:
                    yield Asked(TAKE, data=receipt.encode()).encode()
                    n_handed += 1
            elif each.is_theirs_higher:
                told = yield Asked(GIVE, data=each.session_id).encode()
                self._take(Receipt.decode(told))
                n_handed += 1
        return n_handed > 0

    def _take(self, receipt: Receipt) -> None:
        terms = open_receipt(receipt, self._swarm_id).terms
        if (terms.payer, terms.payee) != (self._pair.payer, self._pair.payee):
            raise BadObject("the payee hands over a receipt between others")
        self._file(receipt)
