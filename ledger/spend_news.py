"""What changed in somebody's books, numbered, so that others ask for what is new to them.

In: accounts whose logs grew or forked. Out: what changed after a number, the oldest
first, a page at a time. Each log has one row, its latest: who was away for long hears each once.
Numbers are of one run of one node; who comes with another's begins anew.
"""

from collections import OrderedDict
from threading import Lock

from ledger.spend_shelf import Head, Shelf
from ledger.spend_words import MAX_ROWS, News, Since


class Changes:
    """Several threads may use it."""

    def __init__(self, whose: bytes, shelf: Shelf) -> None:
        """whose: a name for these numbers, another at each start."""
        self._whose, self._number, self._shelf = whose, 0, shelf
        self._rows: OrderedDict[tuple[bool, bytes], tuple[int, Head | None]] = OrderedDict()
        self._lock = Lock()
        for head in shelf.heads():
            self._add(head.account, head)
        for account in shelf.forked():
            self._add(account, None)

    def __len__(self) -> int:
        return len(self._rows)

    def look(self, account: bytes) -> None:
        """See how far this account's log is known now, and whether it forked."""
        head, is_forked = self._shelf.head(account), self._shelf.fault(account) is not None
        with self._lock:
            if head is not None:
                self._add(account, head)
            if is_forked:
                self._add(account, None)

    def since(self, since: Since) -> News:
        after = since.number if since.whose == self._whose else 0
        fresh = []
        with self._lock:
            for (_, account), (number, head) in reversed(self._rows.items()):
                if number <= after:
                    break
                fresh.append((number, account, head))
            latest = self._number
        told = fresh[::-1][:MAX_ROWS]
        return News(
            Since(self._whose, told[-1][0] if told else latest),
            len(told) == len(fresh),
            tuple(head for _, _, head in told if head is not None),
            tuple(account for _, account, head in told if head is None),
        )

    def _add(self, account: bytes, head: Head | None) -> None:
        key = (head is None, account)
        if key in self._rows and self._rows[key][1] == head:
            return
        self._number += 1
        self._rows[key] = self._number, head
        self._rows.move_to_end(key)
