"""The running roots of the rows one hop took in and sent on: equal on both ends of a link.

A root is a chain of hashes over rows by their positions, so that neither how rows were cut into
frames nor what was sent again changes it, and what was taken back counts for nothing. It begins
with the session's salt, which is never logged, so that guessing a prompt does not confirm it.
Roots begin anew with each epoch (DESIGN 5a.18), at the position where that one's rows begin.
"""

import hmac
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

from ledger.objects import Statement

DOMAIN = b"manyhands-rows-v1"
EMPTY_ROOT = bytes(32)


class RowRoot:
    """Of one direction of one session in one epoch, from position `start` on."""

    def __init__(self, salt: bytes, start: int = 0) -> None:
        self.start = start
        begin = DOMAIN + start.to_bytes(8, "big")
        self._roots = [hmac.digest(salt, begin, "sha256")]  # before each position

    @property
    def stop(self) -> int:
        """Up to where rows are known."""
        return self.start + len(self._roots) - 1

    def add(self, start: int, rows: bytes | memoryview, width: int) -> None:
        """Rows of `width` bytes from position `start` on: those that stood there do no more.

        Those before this root's begin, which replay brings, are not its affair.
        """
        roots = self._roots
        if len(rows) == width and start == self.start + len(roots) - 1:  # as in every decode step
            roots.append(sha256(roots[-1] + sha256(rows).digest()).digest())
            return
        n_rows, stop = len(rows) // width, self.stop
        begin = max(start, self.start)
        if begin > stop or start + n_rows < begin:
            return  # nothing to go on from, or nothing new
        if begin < stop:
            del self._roots[begin - self.start + 1 :]
        root, seen = self._roots[-1], memoryview(rows)
        for at in range((begin - start) * width, n_rows * width, width):
            root = sha256(root + sha256(seen[at : at + width]).digest()).digest()
            self._roots.append(root)

    def at(self, length: int) -> bytes:
        """The root over the rows before position `length`."""
        return self._roots[min(max(0, length - self.start), len(self._roots) - 1)]


def differing_links(statements: Sequence[Statement]) -> list[int]:
    """Which links of a chain, by the number of their sender, carried other rows than were sent.

    statements: one per hop, in the order of the chain, whose roots begin at one position. Two that
    stop at different positions or epochs say nothing about the link between them. A difference
    accuses the two ends of a link, not one.
    """
    return [
        number
        for number, (sender, receiver) in enumerate(pairwise(statements))
        if (sender.epoch, sender.last_step) == (receiver.epoch, receiver.last_step)
        and sender.out_root != receiver.in_root
    ]
