"""What changed in somebody's books, numbered, so that others ask for what is new to them.

In: accounts whose logs grew or forked. Out: what changed after a number, the oldest
first, a page at a time. Each log has one row, its latest: who was away for long hears each once.
Numbers are of one run of one node; who comes with another's begins anew.
"""

from collections import OrderedDict
from threading import Lock

from ledger.spend_shelf import Forked, Head, Shelf
from ledger.spend_words import MAX_ROWS, News, Since


class Changes:
    """Several threads may use it."""

    def __init__(self, whose: bytes, shelf: Shelf) -> None:
        """whose: a name for these numbers, another at each start."""
        self._whose, self._number, self._shelf = whose, 0, shelf
        self._rows: OrderedDict[tuple[bool, bytes], tuple[int, Head | Forked]] = OrderedDict()
        self._lock = Lock()
        known: list[Head | Forked] = [*shelf.heads(), *shelf.forked()]
        for changed in known:
            self._add(changed)

    def __len__(self) -> int:
        return len(self._rows)

    def look(self, account: bytes) -> None:
        """See how far this account's log is known now, and whether it forked."""
        head, fork = self._shelf.head(account), self._shelf.fork(account)
        with self._lock:
            if head is None:
                self._rows.pop((False, account), None)  # it was cut: its versions end there
            for changed in (head, fork):
                if changed is not None:
                    self._add(changed)

    def since(self, since: Since) -> News:
        after = since.number if since.whose == self._whose else 0
        fresh = []
        with self._lock:
            for number, changed in reversed(self._rows.values()):
                if number <= after:
                    break
                fresh.append((number, changed))
            latest = self._number
        told = fresh[::-1][:MAX_ROWS]
        return News(
            Since(self._whose, told[-1][0] if told else latest),
            len(told) == len(fresh),
            tuple(changed for _, changed in told if isinstance(changed, Head)),
            tuple(changed for _, changed in told if isinstance(changed, Forked)),
        )

    def _add(self, changed: Head | Forked) -> None:
        key = (isinstance(changed, Forked), changed.account)
        if key in self._rows and self._rows[key][1] == changed:
            return
        self._number += 1
        self._rows[key] = self._number, changed
        self._rows.move_to_end(key)
