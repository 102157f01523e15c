"""Taking in what somebody tells of a spend log: learn it, or see that it is another version.

In: a checkpoint and leaves. Out: books that know more, and for whoever told it, whether it held.
What is known already is seen by its size and root, before a signature is checked. What no quorum
has signed is not learned, but remembered for a while: with another version it proves a fork.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

from ledger.checkpoint import Checkpoint
from ledger.errors import BadProof, DamagedLedger
from ledger.notes import Note
from ledger.parting import Parting, cosigned
from ledger.spend_books import SpendBooks
from ledger.spend_shelf import Forked, Head
from ledger.spend_words import Published
from ledger.spending import Fault
from protocol.errors import IntegrityError

MAX_SHOWN, MAX_SHOWN_BYTES = 256, 64 * 1024  # of versions that no quorum signed, and of each


@dataclass(frozen=True, slots=True)
class Learned:
    """What became of it. error: why it was not taken in; is_honest: its teller may not know why."""

    size: int
    is_forked: bool = False
    error: IntegrityError | None = None
    is_honest: bool = True


class Learner:
    """One node's, or one client's. All of it waits for the disk: call it on a thread."""

    def __init__(self, books: SpendBooks) -> None:
        self.books, self.shelf = books, books.shelf
        self._shown: OrderedDict[bytes, Published] = OrderedDict()  # by account
        self._lock = Lock()

    def knows(self, head: Head) -> bool:
        """Whether ours has this as its beginning; else it has more, or another version."""
        return self.shelf.root_at(head.account, head.size) == head.root

    def is_new(self, account: bytes) -> bool:
        """Whether nothing is known of it here: no log, and no fork."""
        return self.books.size(account) == 0 and not self.books.is_forked(account)

    def knows_fork(self, told: Forked) -> bool:
        """Whether ours is as good as this: known, and cut there or before."""
        ours = self.shelf.fork(told.account)
        if ours is None or told.cut is None:
            return ours is not None
        return ours.cut is not None and ours.cut <= told.cut

    def size_of(self, account: bytes, note: str) -> int:
        """Of the log that this checkpoint is of, once it is seen to be cosigned by a quorum.

        Raises:
            IntegrityError: it is not.
        """
        return cosigned(account, note, self.books.witnesses, self.books.swarm_id).head.size

    def take(self, told: Published) -> Learned:
        """
        Raises:
            DamagedLedger, ConfigError: it is our own disk that fails.
        """
        account = told.account
        try:
            named = Checkpoint.parse(Note.parse(told.note).text)
            is_old = self.knows(Head(account, named.size, named.root))
            if is_old or told.start > self.books.size(account):  # then: tell us from there on
                return self._learned(account)
            # Before any signature is looked at.
            more = named.size - told.start - len(told.leaves)
            if more if told.path is None else more < 1 or not told.leaves:
                raise BadProof("these are not the leaves that the checkpoint is of")
            return self._take(told)
        except DamagedLedger:
            raise
        except IntegrityError as error:
            return self._learned(account, error)

    def believe(self, fault: Fault) -> None:
        """Raises IntegrityError: it proves nothing."""
        if not self.books.is_forked(fault.accused):
            self.books.believe(fault)

    def part(self, parting: Parting) -> bool:
        """See `SpendBooks.part`."""
        return self.books.part(parting)

    def _take(self, told: Published) -> Learned:
        try:
            self.books.learn(told.account, told.note, told.leaves, start=told.start, path=told.path)
        except BadProof as error:  # no quorum; or leaves that do not fit, which this refuses, too
            if told.path is None:
                self.books.compare(told.account, told.note, told.leaves, start=told.start)
                self._remember(told)
            return self._learned(told.account, error)
        if (shown := self._forget(told.account)) is not None:
            self._compare(shown)
        return self._learned(told.account)

    def _compare(self, shown: Published) -> None:
        try:
            self.books.compare(shown.account, shown.note, shown.leaves, start=shown.start)
        except DamagedLedger:
            raise
        except IntegrityError:
            return  # it began where ours ended then: nothing follows from it
        self._remember(shown)

    def _remember(self, told: Published) -> None:
        if told.start == 0 and sum(map(len, told.leaves)) <= MAX_SHOWN_BYTES:
            with self._lock:
                self._shown[told.account] = told
                self._shown.move_to_end(told.account)
                while len(self._shown) > MAX_SHOWN:
                    self._shown.popitem(last=False)

    def _forget(self, account: bytes) -> Published | None:
        with self._lock:
            return self._shown.pop(account, None)

    def _learned(self, account: bytes, error: IntegrityError | None = None) -> Learned:
        is_honest = error is None or isinstance(error, BadProof)
        return Learned(self.books.size(account), self.books.is_forked(account), error, is_honest)
